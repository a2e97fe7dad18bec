"""The written-out gradients against autograd through the reference, in float64, over the whole option grid."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from snnrepro.neurons import analytic
from snnrepro.neurons.dynamics import Dynamics
from snnrepro.neurons.reference import lif_reference
from snnrepro.options import FAMILIES, RESETS, SURROGATES

GRID = list(itertools.product(FAMILIES, SURROGATES, RESETS, (False, True)))
GAMMA = 0.9


def scalars(*values):
    return [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values]


def normal(*shape, seed=0, requires_grad=False):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_(requires_grad)


def compare(found, expected):
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 5], ids=["constant", "frames"])
@pytest.mark.parametrize(("family", "surrogate", "reset", "detach_reset"), GRID)
def test_lif(family, surrogate, reset, detach_reset, steps):
    dyn = Dynamics(5, family, surrogate, GAMMA, reset, detach_reset)
    x = (2 * normal(steps, 40) + 0.5).detach().requires_grad_()
    u_init, v, tau = scalars(0.3, 0.7, 1.7)
    expected = lif_reference(x, u_init, v, tau, **dyn._asdict())
    go = normal(*expected.o.shape, seed=1)
    gx, gu, gv, gtau = torch.autograd.grad(expected.o, (x, u_init, v, tau), go)
    with torch.no_grad():
        o, spikes, u_sum, count = analytic.lif_forward(x, u_init, v, 1 / tau, dyn)
        gamma = torch.tensor(GAMMA, dtype=torch.float64)
        found, (fu, fv, fleak) = analytic.lif_backward(go, x, spikes, u_init, v, 1 / tau, gamma, dyn)
    assert torch.equal(o, expected.o) and count == expected.active_count
    for t in range(5):
        assert torch.equal(spikes >> t & 1, (o[t] > 0).to(torch.uint8))
    compare((u_sum, found, fu, fv, -fleak / tau.detach() ** 2), (expected.u_sum, gx, gu, gv, gtau))


@pytest.mark.parametrize("steps", [1, 3], ids=["constant", "frames"])
@pytest.mark.parametrize("shortcut", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_norm_lif(steps, shortcut, channels_last):
    dyn = Dynamics(3, "trsg", "triangular", GAMMA, "soft", False)
    y, weight, bias = normal(steps, 4, 3, 6, requires_grad=True), *scalars([0.5, 1.0, 1.5], [0.1, 0.2, 0.9])
    added = normal(steps, 4, 3, 6, seed=2, requires_grad=True)
    u_init, v, tau = scalars(0.1, 0.8, 2.0)
    x = F.batch_norm(y.flatten(0, 1), None, None, weight, bias, True, eps=1e-5).view_as(y)
    o = lif_reference(x + added if shortcut else x, u_init, v, tau, **dyn._asdict()).o
    go = normal(*o.shape, seed=3)
    wanted = (y, weight, bias, u_init, v, tau, *([added] if shortcut else []))
    expected = torch.autograd.grad(o, wanted, go)
    with torch.no_grad():
        var, mean = torch.var_mean(y, (0, 1, 3), correction=0)
        norm = analytic.norm_rows(mean, var, weight, bias, 1e-5)

        def order(tensor):
            return tensor.transpose(-1, -2).contiguous() if channels_last else tensor

        before = (order(y), norm, order(added) if shortcut else None)
        rest = (u_init, v, 1 / tau)
        found_o, spikes, *_ = analytic.norm_lif_forward(*before, *rest, dyn, channels_last)
        assert torch.equal(order(found_o), o)
        args = (order(go), before[0], spikes)
        tail = (before[2], *rest, torch.tensor(GAMMA, dtype=torch.float64), dyn, channels_last)
        # With 0-d scalars the sums of (u_init, v, leak) come out the same as with one of each per channel.
        sums, (gu, gv, gleak) = analytic.norm_lif_reduce(*args, norm, *tail)
        k = analytic.statistics_rows(norm, *sums, 3 / y.numel())
        gy, *gadded = (order(g) for g in analytic.norm_lif_backward(*args, norm, k, *tail))
    found = (gy, sums[1] * norm[3], sums[0], gu, gv, -gleak / tau.detach() ** 2, *gadded)
    compare(found, expected)
    # Control: without the gradient through the statistics the result is another one.
    with torch.no_grad():
        fixed = order(analytic.norm_lif_backward(*args, norm, 0 * k, *tail)[0])
    assert (fixed - expected[0]).norm() > 0.01 * expected[0].norm()
