"""tdBN, TEBN, BNTT and MPBN beside SpikingJelly's layers: equal where those are right, and where they are not, how."""

import pytest
import torch
from lif_options import make_lif
from test_norms import make, randomise, sequence, train_step

from snnrepro.norms import MembraneNorm
from snnrepro.temporal_norms import BNTT, TEBN

layers = pytest.importorskip("spikingjelly.activation_based.layer")
neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
functional = pytest.importorskip("spikingjelly.activation_based.functional")
surrogate = pytest.importorskip("spikingjelly.activation_based.surrogate")

KEYS = {"eps": 1e-5, "momentum": 0.1}
T, C = 4, 5


def tdbn_pair():
    ours, theirs = randomise(make(C)), layers.ThresholdDependentBatchNorm2d(1.0, 1.0, C, **KEYS).double()
    return ours, theirs, {"weight": ours.weight, "bias": ours.bias}


def tebn_pair():
    ours, theirs = randomise(TEBN(C, T, **KEYS)), layers.TemporalEffectiveBatchNorm2d(T, C, **KEYS)
    return ours, theirs.double(), {"scale": ours.p, "weight": ours.weight, "bias": ours.bias}


def bntt_pair():
    ours, theirs = randomise(BNTT(C, T, **KEYS)), layers.BatchNormThroughTime2d(T, C, step_mode="m", **KEYS)
    return ours, theirs.double(), {f"bn_list.{t}.weight": ours.weight[t] for t in range(T)}


@pytest.mark.parametrize("pair", [tdbn_pair, tebn_pair, bntt_pair], ids=["tdbn", "tebn", "bntt"])
def test_norm_of_the_current_is_spikingjellys(pair):
    ours, theirs, values = pair()
    named = dict(theirs.named_parameters())
    assert set(values) == set(named)
    with torch.no_grad():
        for name, value in values.items():
            named[name].copy_(value.view_as(named[name]))
    x, weight = sequence(T, 3, C, 6, 7), sequence(T, 3, C, 6, 7, seed=2)
    y, grads = train_step(ours, x, weight)
    x2 = x.clone().requires_grad_()
    y2 = theirs(x2)
    torch.testing.assert_close(y, y2.detach(), rtol=1e-9, atol=1e-10)
    (expected,) = torch.autograd.grad(y2, x2, weight, retain_graph=True)
    torch.testing.assert_close(grads[0], expected, rtol=1e-8, atol=1e-10)
    theirs_of = dict(zip(named, torch.autograd.grad(y2, tuple(named.values()), weight), strict=True))
    for (name, parameter), gradient in zip(ours.named_parameters(), grads[1:], strict=True):
        if isinstance(ours, BNTT):
            found = torch.stack([theirs_of[f"bn_list.{t}.weight"] for t in range(T)])
        else:
            found = theirs_of["scale" if name == "p" else name].view_as(parameter)
        torch.testing.assert_close(gradient, found, rtol=1e-8, atol=1e-9)
    functional.reset_net(theirs)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-9, atol=1e-10)


def test_genuine_tdbn_puts_the_factor_elsewhere():
    """SpikingJelly starts the weight at alpha * V; here it stays a factor, and the weight (what decays) starts at 1."""
    ours = make(C, alpha_v_threshold=True, v_threshold=0.5).double()
    theirs = layers.ThresholdDependentBatchNorm2d(1.0, 0.5, C, **KEYS).double()
    x = sequence(T, 3, C, 6, 7)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-9, atol=1e-10)
    assert (ours.weight == 1).all() and (theirs.weight == 0.5).all()


def mpbn_pair():
    ours = make_lif(
        membrane_norm=lambda channels: MembraneNorm(channels, **KEYS),
        family="as_sg", surrogate="sigmoid", gamma=0.25, reset="hard", tau=2.0, v_threshold=0.5, input_scale="none",
    )  # fmt: skip
    ours.settle(torch.zeros(T, 3, C, 6, 6))
    theirs = neuron.MPBNLIFNode(tau=2.0, decay_input=False, v_threshold=0.5, v_reset=0.0, out_channels=C,
                                surrogate_function=surrogate.Sigmoid(4.0), step_mode="m")  # fmt: skip
    return ours.double(), theirs.double()


def test_mpbn_is_spikingjellys_for_one_step_and_keeps_the_membrane_afterwards():
    """SpikingJelly carries the normalised potential into reset and memory; the authors' code, and ours, does not."""
    ours, theirs = mpbn_pair()
    x, weight = sequence(T, 3, C, 6, 6), sequence(1, 3, C, 6, 6, seed=2)
    inputs = [x[:1].clone().requires_grad_() for _ in range(2)]
    outputs = [ours(inputs[0]), theirs(inputs[1])]
    assert torch.equal(*outputs) and 0 < outputs[0].mean() < 1
    grads = [torch.autograd.grad(o, i, weight)[0] for o, i in zip(outputs, inputs, strict=True)]
    torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-8)
    functional.reset_net(theirs)
    assert not torch.equal(ours(x), theirs(x))
