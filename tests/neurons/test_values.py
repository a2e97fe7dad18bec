"""Trajectories computed by hand, the firing boundary, and values at the edge of the number range."""

import math
from functools import partial

import pytest
import torch
from lif_options import make_lif

from snnrepro.neurons.functional import lif
from snnrepro.options import FAMILIES, RESETS

run_lif = partial(lif, surrogate="rectangular", gamma=1.0, detach_reset=False, backend="reference")


def scalars(u_init, v_threshold, tau, dtype=torch.float32):
    return tuple(torch.tensor(value, dtype=dtype) for value in (u_init, v_threshold, tau))


# (reset, v_threshold, tau, u_init, current, spikes, membrane after the last reset); every number is a dyadic fraction,
# so the arithmetic is exact. The membranes before firing are in the comments.
TRAJECTORIES = [
    ("soft", 1, 2, 0, (1.5, 1.5, 1, 0.25), (0, 1, 0, 0), 0.40625),  # 0.75, 1.125, 0.5625, 0.40625
    ("hard", 1, 2, 0, (1.5, 1.5, 1, 0.25), (0, 1, 0, 0), 0.375),  # 0.75, 1.125, 0.5, 0.375
    ("soft", 1, 2, 0, (4, 4, 0, 0, 0), (1, 1, 0, 0, 0), 0.1875),  # 2, 2.5, 0.75, 0.375, 0.1875
    ("hard", 1, 2, 0, (4, 4, 0, 2, -2), (1, 1, 0, 1, 0), -1),  # 2, 2, 0, 1, -1
    ("soft", 0.5, 4, 0.25, (1.25, 1, 0.75), (1, 0, 0), 0.375),  # 0.5, 0.25, 0.375
    ("hard", 0.5, 4, 0.25, (1.25, 3, 1), (1, 1, 0), 0.25),  # 0.5, 0.75, 0.25
    ("soft", 2, 1, -3, (2, 1.5, 7), (1, 0, 1), 5),  # 2, 1.5, 7: tau 1 forgets
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("reset", "v", "tau", "u_init", "current", "spikes", "last"), TRAJECTORIES)
def test_hand_computed_trajectory(reset, v, tau, u_init, current, spikes, last, family, dtype):
    x = torch.tensor(current, dtype=dtype)[:, None]
    result = run_lif(x, *scalars(u_init, v, tau, dtype), timesteps=len(current), family=family, reset=reset)
    assert result.o[:, 0].tolist() == [(v if family == "trsg" else 1) * s for s in spikes]
    assert (result.u_sum.item(), result.active_count.item()) == (last, 1)


def around(value, dtype):
    """(value, next above, next below), as one step of three neurons."""
    center = torch.tensor(value, dtype=dtype)
    return torch.stack([center, torch.nextafter(center, center + 1), torch.nextafter(center, center - 1)])[None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("family", FAMILIES)
def test_membrane_exactly_at_the_threshold_fires_and_one_ulp_below_does_not(family, reset, dtype):
    # tau = 2: the membrane is half the current, without rounding.
    x, expected = around(2.0, dtype), torch.tensor([[1, 1, 0]], dtype=dtype)
    result = run_lif(x, *scalars(0, 1, 2, dtype), timesteps=1, family=family, reset=reset)
    assert torch.equal(result.o, expected)
    assert result.active_count == 2
    if dtype == torch.float32:
        for training in (True, False):
            assert torch.equal(make_lif(family=family, reset=reset).train(training)(x), expected)


@pytest.mark.parametrize("surrogate", ["rectangular", "triangular"])
def test_gradient_is_zero_on_the_edge_of_the_window(surrogate):
    # z = m/V - 1; the half-widths are 1/2 and 1 at gamma = 1. Strict: the edge is outside.
    half = {"rectangular": 0.5, "triangular": 1.0}[surrogate]
    m = 1 + torch.tensor([-half, half, -half + 2**-20, half - 2**-20])
    x = m[None].requires_grad_()
    options = {"timesteps": 1, "family": "trsg", "surrogate": surrogate, "reset": "soft"}
    run_lif(x, *scalars(0, 1, 1), **options).o.sum().backward()
    assert (x.grad[0] > 0).tolist() == [False, False, True, True]


@pytest.mark.parametrize("reset", RESETS)
def test_negative_zero_is_zero(reset):
    zero = torch.zeros(3, 4)
    for family in FAMILIES:
        options = {"timesteps": 3, "family": family, "reset": reset}
        for u_init in (0.0, -0.0):
            result = run_lif(-zero, *scalars(u_init, 1e-30, 2), **options)
            assert torch.equal(result.o, zero)
            assert not torch.signbit(result.o).any()


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("family", FAMILIES)
def test_nan_stays_in_its_neuron_and_never_spikes(family, reset):
    generator = torch.Generator().manual_seed(0)
    clean = 3 * torch.rand(5, 2, 3, generator=generator)
    dirty = clean.clone()
    dirty[2, 1, 1] = math.nan
    outputs, grads = [], []
    for x in (clean, dirty):
        x = x.clone().requires_grad_()
        o = run_lif(x, *scalars(0, 0.8, 2), timesteps=5, family=family, reset=reset).o
        outputs.append(o.detach())
        grads.append(torch.autograd.grad(o.sum(), x)[0])
    others = torch.ones(2, 3, dtype=torch.bool)
    others[1, 1] = False
    for left, right in (outputs, grads):
        assert torch.equal(left[:, others], right[:, others])
    assert torch.equal(outputs[0][:2, 1, 1], outputs[1][:2, 1, 1])
    assert torch.equal(outputs[1][2:, 1, 1], torch.zeros(3))
    assert outputs[0][2:, 1, 1].any()


@pytest.mark.parametrize("tau", [1 + 1e-6, 2.0, 1e6])
@pytest.mark.parametrize("v", [1e-45, 1e-38, 1e-4, 1.0, 1e4, 3e38])
@pytest.mark.parametrize("reset", RESETS)
def test_extreme_values_spike_as_in_float64(reset, v, tau):
    current = torch.tensor([0.0, 1e-40, -1e-40, 1e-6, 0.7, -5.0, 1e5, 1e38, -1e38]).expand(4, 9)
    for family in FAMILIES:
        options = {"timesteps": 4, "family": family, "reset": reset}
        small = run_lif(current, *scalars(0, v, tau), **options).o
        # the same float32 numbers, in wider arithmetic
        wide = run_lif(current.double(), *(s.double() for s in scalars(0, v, tau)), **options).o
        assert small.isfinite().all()
        assert torch.equal(small > 0, wide > 0)
        infinite = torch.full((4, 1), math.inf)
        first = run_lif(infinite, *scalars(0, v, tau), **options).o[0].item()
        assert first == (scalars(0, v, tau)[1].item() if family == "trsg" else 1)


def test_impossible_arguments_are_refused():
    x = torch.zeros(3, 2)
    good = {"timesteps": 3, "family": "trsg", "reset": "soft"}
    assert run_lif(x, *scalars(0, 1, 2), **good).o.shape == (3, 2)
    for name, value, message in (
        ("family", "absolute", "family='absolute' is not one of as_sg, rs_sg, trsg"),
        ("reset", "none", "reset='none' is not one of soft, hard"),
        ("surrogate", "relu", "surrogate='relu' is not one of"),
        ("backend", "cuda", "backend='cuda' is not one of reference, compiled, triton"),
        ("timesteps", 0, "timesteps=0 must be at least 1"),
        ("timesteps", 4, "input has 3 steps, expected 1 or timesteps=4"),
    ):
        with pytest.raises(ValueError, match=message):
            run_lif(x, *scalars(0, 1, 2), **(good | {name: value}))
    with pytest.raises(ValueError, match="timesteps=0"):
        make_lif()(x, 0)


@pytest.mark.parametrize("tau", [4 / 3, 2.0, 10.0])
@pytest.mark.parametrize("reset", RESETS)
def test_codes_that_do_not_decay_the_input_convert(reset, tau):
    # TET, TEBN and others write m' = (1 - 1/tau) u' + x with threshold v'; here that is v' / tau.
    x = torch.rand(8, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    v_other, u, spikes = 1.0, torch.zeros(50, dtype=torch.float64), []
    for step in x:
        m = (1 - 1 / tau) * u + step
        s = (m >= v_other).double()
        u = m - v_other * s if reset == "soft" else m * (1 - s)
        spikes.append(s)
    found = run_lif(x, *scalars(0, v_other / tau, tau, torch.float64), timesteps=8, family="as_sg", reset=reset).o
    assert 0.05 < found.mean() < 0.95
    assert torch.equal(found, torch.stack(spikes))


@pytest.mark.parametrize("v", [0.3, 1.0, 2.5])
def test_trsg_is_a_one_bit_quantiser_of_the_membrane(v):
    # The released network rounds clamp(m/V - 1/2, 0, 1) straight through and multiplies by V.
    ratio = torch.tensor([0.4, 0.6, 0.98, 1.2, 1.48, 1.6], dtype=torch.float64)
    found, expected = [], []
    for results, quantise in ((found, False), (expected, True)):
        m = (ratio * v).requires_grad_()
        threshold = torch.tensor(v, dtype=torch.float64, requires_grad=True)
        if quantise:
            soft = (m / threshold - 0.5).clamp(0, 1)
            o = (soft + (soft.round() - soft).detach()) * threshold
        else:
            # tau = 1 turns the current into the membrane
            zero, one = (torch.tensor(number, dtype=torch.float64) for number in (0, 1))
            o = run_lif(m[None], zero, threshold, one, timesteps=1, family="trsg", reset="soft").o[0]
        results += [o.detach(), *torch.autograd.grad(o, (m, threshold), torch.arange(1.0, 7, dtype=torch.float64))]
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)
