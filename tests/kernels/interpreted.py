"""The Triton kernels under Triton's interpreter, against the float64 functions of ``analytic.py``.

Run by ``test_interpreter.py`` in a process of its own: whether Triton interprets is decided when it is imported.
"""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lif_options import make_lif

from snnrepro.neurons import analytic, norm_ops, ops, triton_backend
from snnrepro.neurons.dynamics import Dynamics
from snnrepro.norms import TdBN
from snnrepro.options import FAMILIES, RESETS, SURROGATES

GRID = list(itertools.product(FAMILIES, SURROGATES, RESETS, (False, True)))


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch):
    """What a kernel forgets to write is NaN, or a value no spike has."""

    def poisoned(make):
        def call(*args, **kwargs):
            tensor = make(*args, **kwargs)
            return tensor.fill_(torch.nan if tensor.dtype.is_floating_point else 113)

        return call

    monkeypatch.setattr(triton_backend.torch, "empty", poisoned(torch.empty))
    monkeypatch.setattr(triton_backend.torch, "empty_like", poisoned(torch.empty_like))


def scalars(v=0.8):
    return tuple(torch.tensor(value) for value in (0.1, v, 0.5))


def wide(*tensors):
    return tuple(tensor if tensor is None else tensor.double() for tensor in tensors)


def close(found, expected):
    """Relative RMS, the measure for gradients."""
    found, expected = found.double(), expected.double()
    assert found.shape == expected.shape
    assert (found - expected).norm() <= 1e-5 * expected.norm() + 1e-6


def run_lif(dyn, steps, neurons, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(steps, neurons, generator=generator) + 0.3
    go = torch.randn(dyn.timesteps, neurons, generator=generator)
    o, spikes, u_sum, count = triton_backend.lif_forward(x, *scalars(), dyn)
    assert torch.equal(triton_backend.lif_infer(x, *scalars(), dyn), o)
    eo, espikes, eu_sum, ecount = analytic.lif_forward(x.double(), *wide(*scalars()), dyn)
    assert torch.equal(spikes, espikes) and count == ecount
    close(o, eo)
    close(u_sum, eu_sum)
    found = triton_backend.lif_backward(go, x, spikes, *scalars(), dyn)
    gamma = torch.tensor(dyn.gamma, dtype=torch.float64)
    expected = analytic.lif_backward(*wide(go, x), espikes, *wide(*scalars()), gamma, dyn)
    for left, right in zip(found, expected, strict=True):
        close(left, right)
    assert all(map(torch.equal, triton_backend.lif_backward(go, x, spikes, *scalars(), dyn), found))
    return found


@pytest.mark.parametrize("steps", [1, 3], ids=["constant", "frames"])
@pytest.mark.parametrize(("family", "surrogate", "reset", "detach_reset"), GRID)
def test_lif(family, surrogate, reset, detach_reset, steps):
    run_lif(Dynamics(3, family, surrogate, 0.9, reset, detach_reset), steps, 50)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(timesteps=st.integers(1, 16), neurons=st.sampled_from([0, 1, 255, 256, 257, 513]), constant=st.booleans())
def test_sizes(timesteps, neurons, constant):
    run_lif(Dynamics(timesteps, "trsg", "triangular", 1.0, "soft", False), 1 if constant else timesteps, neurons)


def test_another_family_is_noticed():
    found = run_lif(Dynamics(3, "trsg", "triangular", 1.0, "soft", False), 3, 50)
    other = run_lif(Dynamics(3, "rs_sg", "triangular", 1.0, "soft", False), 3, 50)
    with pytest.raises(AssertionError):
        close(found[0], other[0])


@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 1, 1), (2, 70, 3), (5, 2, 300)])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("steps", [1, 4], ids=["constant", "frames"])
@pytest.mark.parametrize("added", ["nothing", "shortcut", "normalised shortcut"])
def test_norm_lif(shape, channels_last, steps, added):
    dyn = Dynamics(4, "trsg", "triangular", 0.9, "soft", False)
    generator = torch.Generator().manual_seed(1)
    y, shortcut = (torch.randn(steps, *shape, generator=generator) for _ in range(2))
    go = torch.randn(4, *shape, generator=generator)
    norm, norm2 = (torch.rand(5, shape[2 if channels_last else 1], generator=generator) for _ in range(2))
    shortcut = None if added == "nothing" else shortcut
    norm2 = norm2 if added == "normalised shortcut" else None
    first2 = None if norm2 is None else norm2[:3].contiguous()

    def row(table, index):
        return table[index].double() if channels_last else table[index, :, None].double()

    side = shortcut if norm2 is None else shortcut.double() * row(norm2, 1) + row(norm2, 2)
    gamma = torch.tensor(0.9, dtype=torch.float64)
    tail = (*wide(side, *scalars()), gamma, dyn, channels_last)
    rest = (*scalars(), dyn, channels_last)
    o, spikes, u_sum, count = triton_backend.norm_lif_forward(y, norm[:3].contiguous(), shortcut, first2, *rest)
    forward = analytic.norm_lif_forward(*wide(y, norm[:3], side, *scalars()), dyn, channels_last)
    for left, right in zip((o, spikes, u_sum, count), forward, strict=True):
        close(left, right)
    assert torch.equal(triton_backend.norm_lif_infer(y, norm[:3].contiguous(), shortcut, first2, *rest), o)
    head = (go, y, spikes)
    wide_head = (go.double(), y.double(), spikes)
    sums, gscalars = triton_backend.norm_lif_reduce(*head, norm[:3].contiguous(), shortcut, first2, *rest)
    esums, egscalars = analytic.norm_lif_reduce(*wide_head, norm[:3].double(), *tail)
    close(sums[:2], esums)
    close(gscalars, egscalars)
    found = triton_backend.norm_lif_backward(*head, norm, shortcut, norm2, *rest)
    gy, *g = analytic.norm_lif_backward(*wide_head, norm[:3].double(), norm[3:].double(), *tail)
    close(found[0], gy)
    if norm2 is None:
        assert (found[1] is None) == (not g)
    else:
        centred = shortcut.double() - row(norm2, 0)
        axes = (0, 1, 2) if channels_last else (0, 1, 3)
        close(sums[2], (g[0] * centred).sum(axes))
        g = [g[0] * row(norm2, 1) + centred * row(norm2, 3) + row(norm2, 4)]
    if g:
        close(found[1], g[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_integrates_in_float32(dtype):
    dyn = Dynamics(4, "trsg", "triangular", 1.0, "soft", False)
    x = (2 * torch.randn(4, 60, generator=torch.Generator().manual_seed(2))).to(dtype)
    o, spikes, *_ = triton_backend.lif_forward(x, *scalars(), dyn)
    _, expected, *_ = analytic.lif_forward(x.double(), *wide(*scalars()), dyn)
    assert o.dtype == dtype and torch.equal(spikes, expected)


@pytest.mark.parametrize("v", [1e-45, 1e-38, 1e-4, 1e4, 3e38])
@pytest.mark.parametrize("family", FAMILIES)
def test_extreme_thresholds_and_values(v, family):
    dyn = Dynamics(3, family, "triangular", 1.0, "soft", False)
    x = torch.tensor([0.0, 1e-40, 1e38, torch.inf, -torch.inf, torch.nan, 1.0]).expand(3, 7).contiguous()
    _, spikes, *_ = triton_backend.lif_forward(x, *scalars(v), dyn)
    _, expected, *_ = analytic.lif_forward(x, *scalars(v), dyn)
    assert torch.equal(spikes, expected)
    assert spikes[5] == 0
    gx, _ = triton_backend.lif_backward(torch.ones(3, 7), x, spikes, *scalars(v), dyn)
    assert gx[:, [0, 1, 6]].isfinite().all(), "a NaN left its neuron"


@pytest.mark.parametrize("shortcut", ["none", "identity", "normed"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_without_gradients_a_layer_writes_outputs_alone(channels_last, shortcut, monkeypatch):
    norm, second = (TdBN(6, eps=1e-5, momentum=0.1, scale=1.0, fused=True).eval() for _ in range(2))
    norm.running_mean.uniform_(-0.5, 0.5), second.running_var.uniform_(0.5, 2)
    layer = make_lif(backend="triton").eval()
    x = torch.randn(3, 2, 6, 4, 4, generator=torch.Generator().manual_seed(0)) + 0.5
    if channels_last:
        x = x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)

    def outputs():
        added = {"none": 0, "identity": x.flip(1), "normed": second(x.flip(1))}[shortcut]
        return [layer(x), layer(norm(x) if shortcut == "none" else norm(x) + added)]

    expected = [o.detach() for o in outputs()]
    written = []
    monkeypatch.setattr(triton_backend, "empty_spikes", lambda *_: written.append(1))
    with torch.no_grad():
        found = outputs()
    assert all(map(torch.equal, found, expected)) and 0 < found[1].mean() < 1 and not written
    # Control: with gradients the same layer packs its spikes.
    with pytest.raises(AttributeError):
        outputs()
    assert written
    # Where MP-Init asks for its sums they are made, and in training the running mean still moves.
    monkeypatch.undo()
    layer.train()(x)
    assert layer.u_init != 0


def test_operators_without_gradient():
    dyn = (3, "trsg", "triangular", 1.0, "soft", False, None, "triton")
    x, row = torch.randn(3, 10), torch.ones(4)
    torch.library.opcheck(ops.lif_infer_op, (x, *scalars(), *dyn))
    tail = (*(None,) * 5, *scalars(), None, 1e-5, False, False)
    torch.library.opcheck(norm_ops.norm_lif_infer_op, (torch.randn(3, 2, 4, 5, 2), row, row, row, row, *tail, *dyn))
