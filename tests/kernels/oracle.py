"""What the kernels are held against: ``lif_reference`` in float64, with batch norm in front written out."""

import pytest
import torch
from kernels.guards import guarded
from torch import Tensor

from snnrepro.neurons import norm_ops
from snnrepro.neurons.dynamics import Dynamics
from snnrepro.neurons.reference import LIFResult, lif_reference
from snnrepro.options import FAMILIES, RESETS, SURROGATES

EPS = 1e-2
# Every pair of a surrogate, a family, a reset and a detached reset; the equations know no more than pairs of them.
RULES = [
    Dynamics(3, family, surrogate, (0.7, 1.3, 1.0)[j], RESETS[(i + j) % 2], (i // 2 + j) % 2 == 0)
    for i, surrogate in enumerate(SURROGATES)
    for j, family in enumerate(FAMILIES)
]
# Of gradients: rounding in the course of a window, or of the result to the dtype.
RELATIVE = {torch.float32: 1e-5, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}


def risky(x: Tensor, u_init: Tensor, v_threshold: Tensor, leak: Tensor, dyn: Dynamics) -> Tensor:
    """Returns which neurons come so close to an edge, in float64, that float32 may end up on its other side.

    Edges: the threshold, and the surrogate's window where it ends with a jump. Close: 4 ulp of float32.
    """
    u, found = u_init.expand(x.shape[1:]), torch.zeros(x.shape[1:], dtype=torch.bool)
    for x_N in x.expand(dyn.timesteps, *x.shape[1:]):
        m = u + leak * (x_N - u)
        z = m - v_threshold if dyn.family == "as_sg" else m / v_threshold - 1
        # Rounding is relative to the largest number on the way.
        close = 4 * 2.0**-23 * torch.stack([m.abs(), x_N.abs(), v_threshold.expand_as(m)]).amax(0)
        found |= (m - v_threshold).abs() < close
        if dyn.surrogate in ("rectangular", "dspike"):
            half = dyn.gamma / 2 if dyn.surrogate == "rectangular" else 0.5
            found |= (z.abs() - half).abs() < (close if dyn.family == "as_sg" else close / v_threshold)
        s = m >= v_threshold
        u = m - v_threshold * s if dyn.reset == "soft" else m * ~s
    return found


def exact(*values: Tensor) -> list[Tensor]:
    """Returns float64 leaves with the same values."""
    return [value.double().requires_grad_() for value in values]


def reference(x: Tensor, scalars: list[Tensor], dyn: Dynamics) -> LIFResult:
    """Returns ``lif_reference`` with ``leak`` in place of ``tau``."""
    u_init, v_threshold, leak = scalars
    return lif_reference(x, u_init, v_threshold, 1 / leak, **dyn._asdict())


def normalise(y: Tensor, weight: Tensor, bias: Tensor, channels_last: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns (x, mean, scale, shift) of batch norm over all but the channels."""
    channel = 3 if channels_last else 2
    others = [dim for dim in range(4) if dim != channel]
    mean, variance = y.mean(others), y.var(others, unbiased=False)
    scale = weight / (variance + EPS).sqrt()
    shift = bias - mean * scale
    shape = [-1 if dim == channel else 1 for dim in range(4)]
    return y * scale.view(shape) + shift.view(shape), mean, scale, shift


def last_rows(table: Tensor, sum_g: Tensor, sum_gy: Tensor, weight: Tensor, count: int) -> Tensor:
    """Returns the five-row fp32 table of the last pass; k1 and k0 carry the gradient of variance and mean."""
    scale = table[1].double()
    k1 = -scale * (scale / weight.double()) ** 2 * sum_gy.double() / count
    k0 = -scale * sum_g.double() / count
    return torch.cat([table, k1[None].float(), k0[None].float()])


def distance(found: Tensor, expected: Tensor, scale: float) -> float:
    """Returns the norm of the error relative to that of the expected values, or to ``scale`` where more cancelled."""
    error = (found.double() - expected.double()).norm()
    return (error / (expected.double().norm() + scale + 1e-300)).item()


def assert_same_spikes(o, spikes, expected, unsure):
    """Outputs agree with the reference wherever the outcome is sure, and packed spikes with outputs."""
    assert unsure.sum() <= 1 + unsure.numel() // 100
    assert torch.equal(o[:, ~unsure], expected[:, ~unsure].to(o.dtype))
    steps = len(o)
    used = -1 if steps == 32 else (1 << steps) - 1
    assert torch.equal(spikes.int() & used, sum((o[t] > 0).int() << t for t in range(steps)))


def assert_statistics(u_sum, count, result, unsure):
    """The sums for MP-Init agree with the reference, if no neuron's outcome is open."""
    if not unsure.any():
        assert count == result.active_count
        assert u_sum.item() == pytest.approx(result.u_sum.item(), rel=1e-5, abs=1e-4)


def norm_case(dyn, shape, dtype, static, channels_last, seed):
    """Returns (y, side, go, weight and bias of both norms) for a step of shape (batch, channels, run)."""
    generator = torch.Generator().manual_seed(seed)
    batch, channels, run = shape
    step = (batch, run, channels) if channels_last else shape
    steps = 1 if static else dyn.timesteps
    y, side = (guarded((torch.randn(steps, *step, generator=generator) * 2 + 3).to(dtype)) for _ in range(2))
    go = torch.randn(dyn.timesteps, *step, generator=generator)
    return y, side, go, [torch.rand(channels, generator=generator) + 0.5 for _ in range(4)]


def scalars():
    return [torch.tensor(0.1317), torch.tensor(0.7351), torch.tensor(1 / 1.937)]


def lif_errors_of(backend, dyn, n, dtype=torch.float32, static=False, seed=0, kernel_dyn=None):
    """Runs ``backend`` and the reference; returns relative errors of the gradients (x, scalars), checks outputs too."""
    generator = torch.Generator().manual_seed(seed)
    x = guarded((torch.randn(1 if static else dyn.timesteps, n, generator=generator) * 1.5 + 0.5).to(dtype))
    go = torch.randn(dyn.timesteps, n, generator=generator)
    x64, *scalars64 = exact(x, *scalars())
    unsure = risky(x64.detach(), *(s.detach() for s in scalars64), dyn)
    # Without an incoming gradient, an open outcome changes no gradient.
    go = guarded((go * ~unsure).to(dtype))
    result = reference(x64, scalars64, dyn)
    o, spikes, u_sum, count = backend.lif_forward(x, *scalars(), dyn)
    assert_same_spikes(o, spikes, result.o, unsure)
    assert_statistics(u_sum, count, result, unsure)
    assert torch.equal(backend.lif_infer(x, *scalars(), dyn), o)
    gx, gscalars = backend.lif_backward(go, x, spikes, *scalars(), kernel_dyn or dyn)
    assert gx.dtype == dtype and gx.shape == x.shape and gscalars.dtype == torch.float32
    again = backend.lif_backward(go, x, spikes, *scalars(), kernel_dyn or dyn)
    assert all(map(torch.equal, again, (gx, gscalars)))
    expected = torch.autograd.grad(result.o, (x64, *scalars64), go.double())
    size = go.double().norm().item()
    return distance(gx, expected[0], 1e-2 * size), distance(gscalars, torch.stack(expected[1:]), size)


def layer_errors_of(backend, dyn, shape, dtype, static, channels_last, shortcut, seed):
    """Runs the operator of a layer behind a norm, and the reference; returns relative errors and checks outputs.

    shortcut: 0 none, 1 plain, 2 with a norm of its own.
    """
    y, side, go, affine = norm_case(dyn, shape, dtype, static, channels_last, seed)
    y64, side64, *rest = exact(y, side, *affine, *scalars())
    affine64, scalars64 = rest[:4], rest[4:]
    x64, *_ = normalise(y64, *affine64[:2], channels_last)
    more, *_ = normalise(side64, *affine64[2:], channels_last)
    x64 = x64 + (0, side64, more)[shortcut]
    unsure = risky(x64.detach(), *(s.detach() for s in scalars64), dyn)
    go = guarded((go * ~unsure).to(dtype))
    result = reference(x64, scalars64, dyn)

    def moments(values):
        others = (0, 1, 2) if channels_last else (0, 1, 3)
        return [guarded(m) for m in (values.float().mean(others), values.float().var(others, correction=0))]

    leaves = [tensor.requires_grad_() for tensor in (y, side, *affine, *scalars())]
    y, side, weight, bias, weight2, bias2, *given_scalars = leaves
    second = (*moments(side.detach()), weight2, bias2) if shortcut == 2 else (None,) * 4

    def outer(values):
        return (values.transpose(2, 3) if channels_last else values)[..., None]

    added = outer(side) if shortcut else None
    inputs = (outer(y), *moments(y.detach()), weight, bias, added, *second, *given_scalars)
    arguments = (*inputs, None, EPS, True, channels_last, *dyn, None, backend)
    o, spikes, u_sum, count, *_ = norm_ops.norm_lif(*arguments)
    with torch.no_grad():
        assert torch.equal(norm_ops.norm_lif_infer(*arguments), o)
    o = o[..., 0].transpose(2, 3) if channels_last else o[..., 0]
    assert_same_spikes(o.detach(), spikes.view(o.shape[1:]), result.o.detach(), unsure)
    assert_statistics(u_sum, count, result, unsure)
    found = torch.autograd.grad(o, leaves, go, allow_unused=True, materialize_grads=True)
    g, *expected = torch.autograd.grad(
        result.o, (x64, y64, side64, *affine64, *scalars64), go.double(), allow_unused=True, materialize_grads=True
    )
    size = 2 * g.norm().item() + 1e-2 * go.double().norm().item()
    names = ("y", "shortcut", "weight", "bias", "weight2", "bias2", "u_init", "v_threshold", "leak")
    return {n: distance(f, e, size) for n, f, e in zip(names, found, expected, strict=True)}
