"""Two ranks with unequal parts of a batch equal one process with the whole batch, for every norm and backend."""

from functools import partial

import pytest
import torch
import torch.distributed as dist
from lif_options import make_lif
from on_ranks import on_ranks
from torch import nn

from snnrepro.collectives import all_sum, any_rank, moments_across_ranks
from snnrepro.neurons.mp_init import one_update
from snnrepro.norms import MembraneNorm, TdBN
from snnrepro.temporal_norms import BNTT, TAB, TEBN

pytestmark = [pytest.mark.slow, pytest.mark.dist]
STEPS, CHANNELS = 4, 6
# Samples of rank 0, rank 1: unequal, so that a mean of the ranks' means is wrong.
PARTS = (2, 3)
OPTIONS = {"eps": 1e-5, "momentum": 0.1}
NORMS = {
    "tdbn": partial(TdBN, **OPTIONS, scale=1.0),
    "tdbn_scaled": partial(TdBN, **OPTIONS, scale=0.7),
    "tebn": partial(TEBN, **OPTIONS, timesteps=STEPS),
    "bntt": partial(BNTT, **OPTIONS, timesteps=STEPS),
    "tab": partial(TAB, **OPTIONS, timesteps=STEPS, share_affine=False),
    # Of the membrane, inside of the LIF; the current's norm beside it is tdbn.
    "mpbn": partial(TdBN, **OPTIONS, scale=1.0),
}


class Layer(nn.Module):
    """Norm, shortcut, LIF."""

    def __init__(self, norm, backend, shortcut):
        super().__init__()
        torch.manual_seed(1)
        self.norm = NORMS[norm](CHANNELS, **({"fused": True} if backend != "reference" else {}))
        self.shortcut = NORMS[norm](CHANNELS, **({"fused": True} if backend != "reference" else {}))
        for p in self.parameters():
            nn.init.uniform_(p, 0.5, 1.5)
        membrane = partial(MembraneNorm, **OPTIONS) if norm == "mpbn" else None
        self.kind, self.lif = shortcut, make_lif(backend=backend, surrogate="sigmoid", membrane_norm=membrane)
        self.lif.settle(torch.empty(STEPS, 1, CHANNELS, 3, 3))

    def forward(self, x):
        current = self.norm(x)
        if self.kind == "identity":
            current = current + x.flip(2)
        elif self.kind == "normed":
            current = current + self.shortcut(x.flip(2) ** 2)
        return self.lif(current)


def batch(dtype):
    generator = torch.Generator().manual_seed(2)
    x, weight = torch.randn(2, STEPS, sum(PARTS), CHANNELS, 3, 3, generator=generator, dtype=dtype)
    x[:, : PARTS[0]] *= 2
    x[:, : PARTS[0]] += 1
    return x, weight


def outcome(layer, x, weight, scale=1.0):
    """Two forwards and backwards: outputs, gradients of the input and of all parameters, and the buffers."""
    x = x.clone().requires_grad_()
    for _ in range(2):
        o = layer(x)
        (o * weight).sum().backward()
    gradients = {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
    return {"o": o.detach(), "x": x.grad, "gradients": gradients, "buffers": dict(layer.named_buffers())}


def of_rank(rank, ranks, norm, backend, shortcut, dtype):
    x, weight = batch(dtype)
    own = slice(0, PARTS[0]) if rank == 0 else slice(PARTS[0], None)
    layer = Layer(norm, backend, shortcut).to(dtype)
    found = outcome(layer, x[:, own], weight[:, own])
    for gradient in found["gradients"].values():
        dist.all_reduce(gradient)
    return found


def of_ranks(rank, ranks, cases):
    return [of_rank(rank, ranks, *case) for case in cases]


def compare(cases, ranks, tolerance):
    for case, *parts in zip(cases, *ranks, strict=True):
        whole = outcome(Layer(*case[:3]).to(case[3]), *batch(case[3]))
        for name in ("o", "x"):
            together = torch.cat([part[name] for part in parts], 1)
            torch.testing.assert_close(together, whole[name], **tolerance, msg=lambda m, n=name, c=case: f"{c} {n}: {m}")
        for group in ("gradients", "buffers"):
            for name, expected in whole[group].items():
                for part in parts:
                    torch.testing.assert_close(
                        part[group][name], expected, **tolerance, msg=lambda m, n=name, c=case: f"{c} {n}: {m}"
                    )


def test_float64(tmp_path):
    shortcuts = ("none", "identity", "normed")
    cases = [(norm, "reference", shortcut, torch.float64) for norm in NORMS for shortcut in shortcuts]
    ranks = on_ranks(tmp_path, of_ranks, cases)
    compare(cases, ranks, {"rtol": 1e-11, "atol": 1e-11})
    # Control: a rank by itself has other statistics, and its part of the outputs differs.
    x, weight = batch(torch.float64)
    alone = outcome(Layer("tdbn", "reference", "none").double(), x[:, :2], weight[:, :2])
    assert (alone["x"] - ranks[0][0]["x"]).abs().max() > 1e-2


@pytest.mark.parametrize("backend", ["compiled", "triton"])
def test_fused_kernels(tmp_path, monkeypatch, backend):
    if backend == "triton":
        pytest.importorskip("triton")
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    norms = ("tdbn", "tdbn_scaled") if backend == "compiled" else ("tdbn",)
    cases = [(norm, backend, shortcut, torch.float32) for norm in norms for shortcut in ("none", "identity", "normed")]
    ranks = on_ranks(tmp_path, of_ranks, cases)
    # Against the unfused reference in one process: independent of the kernels' own sums.
    plain = [(norm, "reference", shortcut, dtype) for norm, _, shortcut, dtype in cases]
    compare(plain, ranks, {"rtol": 1e-4, "atol": 2e-5})


def exchanges(rank, ranks):
    x = torch.tensor([1.0, 2.0]) * (rank + 1)
    x.requires_grad_()
    (all_sum(x) * torch.tensor([1.0, 10.0]) * (rank + 1)).sum().backward()
    layer = make_lif()
    with one_update():
        for part in range(2):
            layer(torch.full((2, 1, 3), 1.5 + rank + part))
        before = layer.u_init.clone()
    pair = moments_across_ranks(torch.tensor([1e4 + rank]), torch.tensor([0.5]), 3 + rank)
    return {
        "gradient": x.grad,
        "any": [any_rank(rank == 1), any_rank(False)],
        "u_init": [before, layer.u_init],
        "moments": pair,
    }


def test_what_ranks_exchange(tmp_path):
    first, second = on_ranks(tmp_path, exchanges)
    # Each rank's value reaches both losses: the gradients are (1 + 2) times the weights, on both.
    for found in (first, second):
        assert found["gradient"].tolist() == [3.0, 30.0]
        assert found["any"] == [True, False]
        held, moved = found["u_init"]
        assert held == 0 and moved > 0
        mean, var, count = found["moments"]
        values = torch.tensor([1e4] * 3 + [1e4 + 1] * 4, dtype=torch.float64)
        assert count == 7
        assert mean.item() == pytest.approx(values.mean().item(), rel=1e-7)
        assert var.item() == pytest.approx(0.5 + values.var(correction=0).item(), rel=1e-2)
    assert torch.equal(first["u_init"][1], second["u_init"][1])
    # One process with all four parts in one window.
    layer = make_lif()
    layer(torch.tensor([1.5, 2.5, 2.5, 3.5])[None, :, None].expand(2, 4, 3))
    assert first["u_init"][1].item() == pytest.approx(layer.u_init.item(), rel=1e-6)
