"""SpikingJelly's nodes as ``LIF``: equal spikes and gradients, and refusals."""

import pytest
import torch

from snnrepro.importers import convert, from_spikingjelly
from snnrepro.importers.translate import recognise_surrogate
from snnrepro.neurons import LIF

base = pytest.importorskip("spikingjelly.activation_based.base")
functional = pytest.importorskip("spikingjelly.activation_based.functional")
layers = pytest.importorskip("spikingjelly.activation_based.layer")
neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
surrogate = pytest.importorskip("spikingjelly.activation_based.surrogate")


def current(*shape):
    return 1.5 * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def run(layer, x, upstream):
    """Output, gradient of the current, and gradient of the leak's parameter where it learns."""
    x = x.clone().requires_grad_()
    o = layer(x)
    parameters = list(layer.parameters())
    return [o.detach(), *torch.autograd.grad((o * upstream).sum(), [x, *parameters])]


def compare(node, layer):
    x, upstream = current(6, 4, 30), current(6, 4, 30).flip(0)
    theirs, ours = run(node, x, upstream), run(layer, x, upstream)
    assert torch.equal(ours[0], theirs[0]) and 0.02 < theirs[0].mean() < 0.9
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        assert b.abs().sum() > 0
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


SURROGATES = [surrogate.Sigmoid(), surrogate.ATan(), surrogate.PiecewiseQuadratic(1.5), surrogate.Sigmoid(2.0)]
if hasattr(surrogate, "Rect"):
    SURROGATES.append(surrogate.Rect(0.8))


@pytest.mark.parametrize("fire", SURROGATES, ids=lambda fire: f"{type(fire).__name__}-{fire.alpha}")
@pytest.mark.parametrize("decay_input", [True, False])
@pytest.mark.parametrize("v_reset, detach_reset", [(None, False), (0.0, False), (None, True), (0.0, True)])
def test_lif_node_spikes_and_gradients_are_equal(fire, decay_input, v_reset, detach_reset):
    options = {"tau": 3.0, "decay_input": decay_input, "v_threshold": 0.8, "v_reset": v_reset, "step_mode": "m"}
    node = neuron.LIFNode(**options, detach_reset=detach_reset, surrogate_function=fire)
    compare(node, from_spikingjelly(node).double())


@pytest.mark.parametrize("v_reset", [None, 0.0])
def test_parametric_lif_node_keeps_its_parameter(v_reset):
    node = neuron.ParametricLIFNode(init_tau=1.7, v_threshold=0.8, v_reset=v_reset, step_mode="m").double()
    node.w.data += 0.1234
    layer = from_spikingjelly(node)
    assert layer.tau_raw.item() == pytest.approx(node.w.item(), rel=1e-7) and layer.tau_raw.requires_grad
    layer = layer.double()
    with torch.no_grad():
        layer.tau_raw.copy_(node.w)
    compare(node, layer)
    node.w.requires_grad = False
    assert not from_spikingjelly(node).tau_raw.requires_grad


@pytest.mark.parametrize("wrong", ["width", "threshold", "reset", "detach"])
def test_control_a_wrong_conversion_shows(wrong):
    node = neuron.LIFNode(3.0, False, 0.8, None, surrogate.PiecewiseQuadratic(1.5), step_mode="m")
    layer = from_spikingjelly(node).double()
    compare(node, layer)
    functional.reset_net(node)
    if wrong == "width":
        layer.gamma *= 3
    elif wrong == "threshold":
        layer.v_threshold_raw.add_(0.5)
    elif wrong == "reset":
        layer.reset = "hard"
    else:
        layer.detach_reset = True
    with pytest.raises(AssertionError):
        compare(node, layer)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: neuron.IFNode(step_mode="m"), "IFNode: no leak"),
        (lambda: neuron.LIFNode(v_reset=0.1, step_mode="m"), "v_reset=0.1"),
        (lambda: neuron.LIFNode(v_threshold=0.0, step_mode="m"), "v_threshold=0"),
        (lambda: neuron.LIFNode(surrogate_function=surrogate.SoftSign(), step_mode="m"), "derivative is none of"),
        (lambda: neuron.LIFNode(surrogate_function=surrogate.ATan(spiking=False)), "does not emit spikes"),
        (lambda: neuron.ParametricLIFNode(decay_input=False, step_mode="m"), "would move with tau"),
        (lambda: neuron.QIFNode(step_mode="m"), "QIFNode: only LIFNode"),
    ],
)
def test_what_has_no_equal_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        from_spikingjelly(make())
    assert "\n" not in str(caught.value)


def network(step_mode="m"):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        layers.Conv2d(2, 4, 3, padding=1),
        layers.BatchNorm2d(4),
        neuron.LIFNode(2.0, v_threshold=0.3, step_mode="m"),
        torch.nn.Sequential(layers.Flatten(), layers.Linear(100, 6), neuron.ParametricLIFNode(v_threshold=0.2)),
    )
    functional.set_step_mode(model, step_mode)
    return model.double()


def test_convert_replaces_every_node_of_a_network():
    x, upstream = current(4, 3, 2, 5, 5), current(4, 3, 6)
    model = network()
    expected = model(x)
    (expected * upstream).sum().backward()
    gradients = [p.grad for p in model.parameters()]
    converted = convert(network()).double()
    assert not any(isinstance(module, base.MemoryModule) for module in converted.modules())
    assert isinstance(converted[2], LIF) and isinstance(converted[3][2], LIF)
    outputs = converted(x)
    assert torch.equal(outputs, expected) and expected.sum() > 0
    (outputs * upstream).sum().backward()
    for a, b in zip([p.grad for p in converted.parameters()], gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    functional.reset_net(converted)
    assert torch.equal(converted(x), outputs), "no state survives a forward"
    assert not torch.equal(model(x), expected), "control: SpikingJelly's does"


def test_convert_replaces_all_or_nothing():
    single = network("s")
    with pytest.raises(ValueError, match=r"^2: step_mode='s'"):
        convert(single)
    mixed = network()
    mixed[3][2] = neuron.IFNode(step_mode="m")
    with pytest.raises(ValueError, match=r"^3\.2: IFNode: no leak"):
        convert(mixed)
    assert isinstance(mixed[2], neuron.LIFNode)
    shared = network()
    shared[3][2] = shared[2]
    with pytest.raises(ValueError, match=r"^3\.2: the same node as 2"):
        convert(shared)
    assert isinstance(convert(neuron.LIFNode(step_mode="m")), LIF)


def test_the_surrogate_is_recognised_with_its_width():
    for alpha in (0.5, 1.0, 4.0):
        assert recognise_surrogate(surrogate.ATan(alpha)) == ("arctan", pytest.approx(alpha))
        assert recognise_surrogate(surrogate.Sigmoid(alpha)) == ("sigmoid", pytest.approx(1 / alpha))
        assert recognise_surrogate(surrogate.PiecewiseQuadratic(alpha)) == ("triangular", pytest.approx(1 / alpha))
    with pytest.raises(ValueError, match="none of rectangular"):
        recognise_surrogate(surrogate.PiecewiseExp())
