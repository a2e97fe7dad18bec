"""Batch norm, shortcut and LIF as one torch operator; the second half of ``ops.py``.

``norm_lif`` normalises with the statistics it is given. Where those came from this very batch
(``batch_stats``), its backward also carries the gradient through them, as batch norm's does; where they came from
the batches of several ranks, ``share`` is the part of one value in them, and the ranks add up what they contribute.

Sequences are (T, B, C, ...). The providers see them dense, with ``channels_last`` in memory as (T, B, ..., C); packed
spikes are (N,), in the order of memory. The flag holds for y, and the others follow it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from snnrepro.neurons.ops import SCALARS, define, differentiable, eager_or, fake_forward, provided, statistics_context
from snnrepro.neurons.reparam import kernel_scalars, raw_gradients


def _dense(x: Tensor, channels_last: bool) -> Tensor:
    """Returns ``x`` as it is where it lies in memory as the providers expect, else a copy."""
    x = x.resolve_neg()
    if not channels_last:
        return x.contiguous()
    _, batch, channels, *size = x.shape
    of_size: list[int] = []
    stride = channels
    for length in reversed(size):
        of_size.insert(0, stride)
        stride *= length
    strides = (batch * stride, stride, 1, *of_size)
    return (
        x if x.stride() == strides else torch.empty_strided(x.shape, strides, dtype=x.dtype, device=x.device).copy_(x)
    )


def _norm_lif(*arguments: Any) -> tuple[Tensor, ...]:
    scalars = _scalars(arguments)
    return *_provided(arguments, scalars), scalars


def _norm_lif_infer(*arguments: Any) -> Tensor:
    return _provided(arguments, _scalars(arguments), True)[0]


def _scalars(arguments: Sequence[Any]) -> Tensor:
    u_init, v_threshold, leak = arguments[10:13]
    return kernel_scalars(u_init, v_threshold, leak, arguments[-2])


def _provided(arguments: Sequence[Any], scalars: Tensor, *outputs_alone: bool) -> tuple[Tensor, ...]:
    y, mean, var, weight, bias, shortcut, *norm2 = arguments[:10]
    (eps, _, channels_last), rules = arguments[14:17], arguments[17:]
    added = None if shortcut is None else _dense(shortcut, channels_last)
    norms = (mean, var, weight, bias), None if norm2[0] is None else tuple(norm2)
    tensors: Any = (_dense(y, channels_last), norms[0], added, norms[1], *scalars.unbind(0))
    return provided("norm_lif", tensors, rules, eps, channels_last, *outputs_alone)


def _gradients(*arguments: Any) -> tuple[Tensor, ...]:
    go, y, spikes, rows, shortcut, scalars, share, batch_stats, channels_last, *rules = arguments
    if share is None:
        share = y.shape[2] / y.numel() if batch_stats else 0.0
    added = None if shortcut is None else _dense(shortcut, channels_last)
    tensors = (_dense(go, channels_last), _dense(y, channels_last), spikes, rows, added, *scalars.unbind(0))
    *of_norms, gscalars, gy, gshortcut = provided("norm_lif_gradients", tensors, rules, share, channels_last)
    found = (*of_norms, raw_gradients(gscalars, scalars, rules[-2]), gy, gshortcut)
    # An operator returns tensors only.
    return tuple(y.new_empty(0) if gradient is None else gradient for gradient in found)


def _context(ctx: Any, inputs: Sequence[Any], output: Sequence[Tensor]) -> None:
    y, _, _, _, _, shortcut, *norm2 = inputs[:10]
    ctx.flags = (shortcut is not None, norm2[0] is not None)
    ctx.tail = inputs[15:]
    rows, scalars = output[-2:]
    ctx.save_for_backward(y, statistics_context(ctx, output), rows, shortcut, scalars, inputs[13])


def _gradient(ctx: Any, go: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    has_shortcut, has_norm2 = ctx.flags
    # Of share and eps, and of what is not a tensor.
    none = (None,) * (2 + len(ctx.tail))
    if go is None:
        return (None,) * 13 + none
    found = norm_lif_gradients(go, *ctx.saved_tensors, *ctx.tail)
    gweight, gbias, gweight2, gbias2, gscalars, gy, gshortcut = found
    norm2 = (gweight2, gbias2) if has_norm2 else (None, None)
    shortcut = gshortcut if has_shortcut else None
    return gy, None, None, gweight, gbias, shortcut, None, None, *norm2, *gscalars.unbind(0), *none


_FORWARD = (
    "Tensor y, Tensor mean, Tensor var, Tensor weight, Tensor bias, Tensor? shortcut, Tensor? shortcut_mean, "
    "Tensor? shortcut_var, Tensor? shortcut_weight, Tensor? shortcut_bias, "
    f"{SCALARS}, Tensor? share, float eps, bool batch_stats, bool channels_last"
)
_BACKWARD = (
    "Tensor go, Tensor y, Tensor spikes, Tensor rows, Tensor? shortcut, Tensor scalars, "
    "Tensor? share, bool batch_stats, bool channels_last"
)
norm_lif_op = define("norm_lif", _FORWARD, 6, _norm_lif)
norm_lif_gradients_op = define("norm_lif_gradients", _BACKWARD, 7, _gradients)
norm_lif_infer_op = define("norm_lif_infer", _FORWARD, 1, _norm_lif_infer)


def _empty(y: Tensor, steps: int, channels_last: bool) -> Tensor:
    """Returns a tensor without values of the shape of ``y`` with so many steps, dense."""
    _, batch, channels, *size = y.shape
    if channels_last:
        return y.new_empty(steps, batch, *size, channels).movedim(-1, 2)
    return y.new_empty(steps, *y.shape[1:])


@norm_lif_infer_op.register_fake
def _(y: Tensor, *rest: Any) -> Tensor:
    return _empty(y, rest[16], rest[15])


@norm_lif_op.register_fake
def _(y: Tensor, mean: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    channels_last, timesteps = rest[14:16]
    left = fake_forward(y.flatten(1), timesteps)
    rows = mean.new_empty(4 if rest[4] is None else 8, len(mean))
    return _empty(y, timesteps, channels_last), *left[1:], rows, rows.new_empty(3)


@norm_lif_gradients_op.register_fake
def _(go: Tensor, y: Tensor, spikes: Tensor, rows: Tensor, shortcut: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
    channels_last = rest[3]
    channel, absent = rows.new_empty(rows.shape[1]), y.new_empty(0)
    second = [torch.empty_like(channel) if len(rows) == 8 else y.new_empty(0) for _ in range(2)]
    gshortcut = absent if shortcut is None else _empty(shortcut, len(shortcut), channels_last)
    gy = _empty(y, len(y), channels_last)
    return channel, torch.empty_like(channel), *second, rows.new_empty(3), gy, gshortcut


# The gradients of weight, bias, the shortcut's weight and bias, the scalars (3,), y, the shortcut; empty where none.
norm_lif_gradients = eager_or(norm_lif_gradients_op, _gradients)
# o alone, without gradient, for the arguments of ``norm_lif``: nothing is kept for a backward.
norm_lif_infer = eager_or(norm_lif_infer_op, _norm_lif_infer)
# (o, spikes, u_sum, active_count, rows and scalars for the backward) for y (T or 1, B, C, ...). mean, var, weight,
# bias: float32 (C,). shortcut: None or of y's shape, added as it is, or normalised where the other four are given.
norm_lif = differentiable(norm_lif_op, _norm_lif, _context, _gradient)
