"""Norms and fused kernels on sequences of any rank: features (T, B, C), tokens (T, B, C, N), images, volumes."""

import pytest
import torch
from lif_options import make_lif
from torch.nn import functional as F

from snnrepro.compose import compose_run
from snnrepro.neurons.reference import lif_reference
from snnrepro.registry import options

SHAPES = {3: (3, 6, 5), 4: (3, 2, 5, 7), 5: (3, 2, 5, 4, 3), 6: (3, 2, 5, 2, 3, 2)}


def normal(*shape, seed=0):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + 1


def in_memory(x, channels_last):
    """The same values, with the channels last in memory where asked for."""
    return x.movedim(2, -1).contiguous().movedim(-1, 2) if channels_last else x


def volume(x):
    """A sequence of any rank as (T, B, C, P, 1): what the norms were made for."""
    return x.reshape(*x.shape[:3], -1, 1)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("rank", SHAPES)
@pytest.mark.parametrize("name", [*options("norm"), "tdbn norm.alpha_v_threshold=true neuron.v_threshold=0.5"])
def test_a_norm_does_to_any_rank_what_it_does_to_images(name, rank, training):
    run = compose_run([*f"norm={name}".split(), "timesteps=3", "neuron=lif", "runtime.backend=reference"])
    make = run.norm.factory(run)
    ours, theirs = make(5, residual=False).double().train(training), make(5, residual=False).double().train(training)
    x = normal(*SHAPES[rank]).double()
    found, expected = ours(x), theirs(volume(x))
    assert found.shape == x.shape
    torch.testing.assert_close(volume(found), expected, rtol=1e-12, atol=1e-12)
    for (key, left), right in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("added", ["nothing", "shortcut", "normed shortcut"])
@pytest.mark.parametrize("rank", SHAPES)
def test_norm_and_layer_in_one_kernel(rank, added, channels_last):
    """Against float64 autograd of batch norm and the reference."""
    run = compose_run(["neuron=trsg", "runtime.backend=compiled"])
    norm, second = (run.norm.factory(run)(5, residual=False) for _ in range(2))
    layer = make_lif(backend="compiled", mp_init=False, surrogate="triangular", v_threshold=0.7)
    x, side, go = (in_memory(normal(*SHAPES[rank], seed=seed), channels_last) for seed in range(3))
    leaves = [x.requires_grad_(), side.requires_grad_()]
    current = norm(x) if added == "nothing" else norm(x) + (side if added == "shortcut" else second(side))
    assert type(current).__name__ == "NormalisedCurrent"
    o = layer(current)
    wanted = [x, norm.weight, norm.bias, *([side] if added != "nothing" else []), layer.v_threshold_raw, layer.tau_raw]
    found = torch.autograd.grad(o, wanted, go)

    x64, side64, *affine, v, tau = (
        t.detach().double().requires_grad_()
        for t in (*leaves, norm.weight, norm.bias, layer.v_threshold_raw, layer.tau_raw)
    )

    def batch_norm(y, *of):
        return F.batch_norm(y.flatten(0, 1), None, None, *of, True, 0.0, run.norm.eps).unflatten(0, y.shape[:2])

    shortcut = {"nothing": 0, "shortcut": side64, "normed shortcut": batch_norm(side64, None, None)}[added]
    rules = {"family": "trsg", "surrogate": "triangular", "gamma": 1.0, "reset": "soft", "detach_reset": False}
    mapped = F.softplus(v), 1 / tau.sigmoid()
    expected_o = lif_reference(
        batch_norm(x64, *affine) + shortcut, torch.zeros(()).double(), *mapped, timesteps=3, **rules
    ).o
    torch.testing.assert_close(o.double(), expected_o, rtol=1e-5, atol=1e-5)
    inputs = [x64, *affine, *([side64] if added != "nothing" else []), v, tau]
    for left, right in zip(found, torch.autograd.grad(expected_o, inputs, go.double()), strict=True):
        assert (left - right).norm() < 1e-4 * right.norm() + 1e-5
    with torch.no_grad():
        again = norm(x) if added == "nothing" else norm(x) + (side if added == "shortcut" else second(side))
        assert torch.equal(layer(again), o)
