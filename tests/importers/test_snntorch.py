"""snnTorch's Leaky as ``LIF``: where the two are equal, where not, and refusals."""

import warnings

import pytest
import torch

from snnrepro.importers import from_snntorch

snntorch = pytest.importorskip("snntorch")
surrogate = pytest.importorskip("snntorch.surrogate")


def current(*shape, scale):
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def run_theirs(node, x):
    memory, spikes = torch.zeros_like(x[0]), []
    for step in x:
        spike, memory = node(step, memory)
        spikes.append(spike)
    return torch.stack(spikes).double()


def compare(node, layer, scale=0.7):
    """Equal spikes, equal gradients of the current and, through V = threshold / tau, of a learned threshold."""
    x = current(6, 4, 30, scale=scale)
    upstream = x.flip(0)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    theirs, ours = run_theirs(node, a), layer(b)
    assert torch.equal(ours, theirs.detach()) and 0.02 < ours.mean() < 0.9
    (theirs * upstream).sum().backward()
    (ours * upstream).sum().backward()
    torch.testing.assert_close(b.grad, a.grad, rtol=1e-5, atol=1e-7)
    if node.threshold.requires_grad:
        v = layer.v_threshold
        slope = torch.autograd.grad(v, layer.v_threshold_raw)[0]
        torch.testing.assert_close(layer.v_threshold_raw.grad / slope / layer.tau, node.threshold.grad,
                                   rtol=1e-5, atol=1e-7, check_dtype=False)  # fmt: skip


def make(**options):
    return snntorch.Leaky(**({"beta": 0.7, "threshold": 0.8, "reset_mechanism": "zero"} | options))


def quiet(node):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return from_snntorch(node).double()


@pytest.mark.parametrize("reset_delay", [True, False])
@pytest.mark.parametrize("fire", [None, surrogate.atan(1.3), surrogate.sigmoid(4)], ids=["default", "atan", "sigmoid"])
def test_reset_to_zero_is_equal_with_and_without_delay(fire, reset_delay):
    node = make(spike_grad=fire, reset_delay=reset_delay)
    compare(node, from_snntorch(node).double())


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_a_learned_threshold_keeps_its_gradient(reset):
    node = make(learn_threshold=True, reset_mechanism=reset, reset_delay=False)
    compare(node, quiet(node), scale=0.4)


def test_subtract_without_delay_is_equal_below_twice_the_threshold_and_says_so():
    node = make(reset_mechanism="subtract", reset_delay=False)
    with pytest.warns(UserWarning, match="twice the threshold"):
        layer = from_snntorch(node).double()
    compare(node, layer, scale=0.4)
    with pytest.raises(AssertionError):  # beyond the condition
        compare(node, layer, scale=3.0)


def test_a_delayed_subtraction_really_differs():
    node = make(reset_mechanism="subtract", reset_delay=True)
    with pytest.raises(ValueError, match="undecayed threshold one step later"):
        from_snntorch(node)
    almost = quiet(make(reset_mechanism="subtract", reset_delay=False))
    almost.detach_reset = True
    with pytest.raises(AssertionError):
        compare(node, almost, scale=0.4)


@pytest.mark.parametrize("wrong", ["gamma", "detach_reset", "threshold"])
def test_control_a_wrong_conversion_shows(wrong):
    node = make()
    layer = from_snntorch(node).double()
    if wrong == "gamma":
        layer.gamma /= layer.tau.item()
    elif wrong == "threshold":
        layer.v_threshold_raw.add_(0.5)
    else:
        layer.detach_reset = False
    with pytest.raises(AssertionError):
        compare(node, layer)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"beta": 1.0}, "beta=1"),
        ({"beta": 0.0}, "beta=0"),
        ({"beta": torch.rand(4)}, "per neuron"),
        ({"reset_mechanism": "none"}, "a LIF resets"),
        ({"learn_beta": True}, "would move with tau"),
        ({"graded_spikes_factor": 2.0}, "graded"),
        ({"spike_grad": surrogate.fast_sigmoid()}, "derivative is none of"),
        ({"spike_grad": surrogate.straight_through_estimator()}, "derivative is none of"),
        ({"surrogate_disable": True}, "surrogate_disable"),
        ({"threshold": -1.0}, "v_threshold=-1"),
    ],
    ids=range(1, 11),
)
def test_what_has_no_equal_is_refused_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        from_snntorch(make(**options))
    assert "\n" not in str(caught.value)


def test_other_neurons_are_refused():
    with pytest.raises(ValueError, match="Synaptic: only Leaky"):
        from_snntorch(snntorch.Synaptic(alpha=0.5, beta=0.5))
