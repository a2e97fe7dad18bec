"""Operators and layers of the Triton kernels under Triton's interpreter, against float64 autograd of the reference.

Run by ``test_interpreter.py`` in a process of its own: whether Triton interprets is decided when it is imported.
"""

import pytest
import torch
from kernels.oracle import RULES, layer_errors_of, lif_errors_of, scalars
from lif_options import make_lif

from snnrepro.neurons import norm_ops, ops
from snnrepro.neurons.dynamics import Dynamics
from snnrepro.neurons.kernels.triton import backend
from snnrepro.norms import TdBN

TRSG = Dynamics(3, "trsg", "triangular", 1.0, "soft", False)


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch):
    """What a kernel forgets to write is NaN, or a value no spike has."""

    def poisoned(make):
        def call(*args, **kwargs):
            tensor = make(*args, **kwargs)
            return tensor.fill_(torch.nan if tensor.dtype.is_floating_point else 113)

        return call

    monkeypatch.setattr(backend.torch, "empty", poisoned(torch.empty))
    monkeypatch.setattr(backend.torch, "empty_like", poisoned(torch.empty_like))


@pytest.mark.parametrize("static", [True, False], ids=["constant", "frames"])
@pytest.mark.parametrize("dyn", RULES, ids=lambda dyn: "-".join(map(str, dyn)))
def test_lif_of_all_rules(dyn, static):
    assert max(lif_errors_of(backend, dyn, 50, static=static)) < 1e-5


@pytest.mark.parametrize(("timesteps", "neurons"), [(1, 513), (8, 1), (8, 256), (9, 257), (16, 255)])
def test_sizes(timesteps, neurons):
    assert max(lif_errors_of(backend, TRSG._replace(timesteps=timesteps), neurons)) < 1e-5


@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 70, 3)])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("shortcut", [0, 1, 2])
def test_the_operator_of_a_layer_behind_a_norm(shape, channels_last, static, shortcut):
    for name, error in layer_errors_of(
        "triton", TRSG, shape, torch.float32, static, channels_last, shortcut, 0
    ).items():
        assert error < 3e-5, name


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
    monkeypatch.setattr(backend, "empty_spikes", lambda *_: written.append(1))
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


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 2, 5, 7), (3, 2, 5, 2, 2, 2)], ids=["features", "tokens", "volumes"])
def test_a_layer_behind_a_norm_at_any_rank(shape, channels_last):
    x, go = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)) + 0.3
    if channels_last:
        x = x.movedim(2, -1).contiguous().movedim(-1, 2)
    found = []
    for kind, fused in (("triton", True), ("reference", False)):
        norm = TdBN(5, eps=1e-5, momentum=0.1, scale=1.0, fused=fused)
        layer, leaf = make_lif(backend=kind, surrogate="triangular"), x.detach().requires_grad_()
        o = layer(norm(leaf))
        found.append([o, *torch.autograd.grad(o, [leaf, norm.weight, layer.v_threshold_raw], go)])
    for left, right in zip(*found, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def test_operators_without_gradient():
    dyn = (3, "trsg", "triangular", 1.0, "soft", False, None, "triton")
    x, row = torch.randn(3, 10), torch.ones(4)
    torch.library.opcheck(ops.lif_infer_op, (x, *scalars(), *dyn))
    tail = (*(None,) * 5, *scalars(), None, 1e-5, False, False)
    torch.library.opcheck(norm_ops.norm_lif_infer_op, (torch.randn(3, 2, 4, 5, 2), row, row, row, row, *tail, *dyn))
