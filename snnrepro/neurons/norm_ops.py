"""Batch norm, shortcut and LIF as one torch operator; the second half of ``ops.py``.

``norm_lif`` normalises with the statistics it is given. Where those came from this very batch
(``batch_stats``), its backward also carries the gradient through them, as batch norm's does. The sums over
the batch stand between ``norm_lif_reduce`` and ``norm_lif_backward``: there, and between the statistics and
the forward, ranks have to exchange theirs.
"""

from typing import Any

import torch
from torch import Tensor

from snnrepro.neurons.ops import SCALARS, define, differentiable, eager_or, fake_forward, provided, statistics_context


def _norm_lif(*arguments: Any) -> tuple[Tensor, ...]:
    y, mean, invstd, weight, bias, shortcut, mean2, invstd2, weight2, bias2, *scalars = arguments[:13]
    _, channels_last, *rules = arguments[13:]
    norm, norm2 = _affine(mean, invstd, weight, bias), _affine(mean2, invstd2, weight2, bias2)
    return provided("norm_lif_forward", (y, norm, shortcut, norm2, *scalars), rules, channels_last)


def _affine(mean: Tensor | None, invstd: Any, weight: Any, bias: Any) -> Any:
    """Returns rows mean, scale, shift (3, C): y * scale + shift = weight * (y - mean) * invstd + bias; or None."""
    if mean is None:
        return None
    scale = weight * invstd
    return torch.stack([mean, scale, bias - mean * scale])


def _reduce(*arguments: Any) -> tuple[Tensor, Tensor]:
    *tensors, channels_last = arguments[:10]
    return provided("norm_lif_reduce", tensors, arguments[10:], channels_last)


def _backward(go: Tensor, y: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    *tensors, channels_last = arguments[:8]
    gy, gshortcut = provided("norm_lif_backward", (go, y, *tensors), arguments[8:], channels_last)
    # An operator returns tensors only.
    return gy, y.new_empty(0) if gshortcut is None else gshortcut


def _context(ctx, inputs, output):
    *tensors, ctx.batch_stats, ctx.channels_last = inputs[:15]
    ctx.rules = inputs[15:]
    ctx.save_for_backward(*tensors, statistics_context(ctx, output))


def _gradient(ctx, go, *_):
    none = (None,) * (2 + len(ctx.rules))
    if go is None:
        return (None,) * 13 + none
    y, mean, invstd, weight, bias, shortcut, mean2, invstd2, weight2, bias2, *scalars, spikes = ctx.saved_tensors
    norm, norm2 = _affine(mean, invstd, weight, bias), _affine(mean2, invstd2, weight2, bias2)
    common = (go.contiguous(), y, spikes)
    rest = (*scalars, ctx.channels_last, *ctx.rules)
    sums, gscalars = norm_lif_reduce(*common, norm, shortcut, norm2, *rest)
    # Ranks that share statistics add up ``sums`` here.
    count = y.numel() // y.shape[3 if ctx.channels_last else 2]
    norm = _with_statistics(norm, invstd, sums[0], sums[1], count, ctx.batch_stats)
    gweight2 = gbias2 = None
    if norm2 is not None:
        norm2 = _with_statistics(norm2, invstd2, sums[0], sums[2], count, ctx.batch_stats)
        gweight2, gbias2 = sums[2] * invstd2, sums[0].clone()
    gy, gshortcut = norm_lif_backward(*common, norm, shortcut, norm2, *rest)
    gnorm = (gy, None, None, sums[1] * invstd, sums[0].clone())
    return *gnorm, None if shortcut is None else gshortcut, None, None, gweight2, gbias2, *gscalars.unbind(0), *none


def _with_statistics(
    norm: Tensor, invstd: Tensor, sum_g: Tensor, sum_gy: Tensor, count: int, batch_stats: bool
) -> Tensor:
    """Returns ``norm`` with the rows k1, k0 of gy = scale * g + k1 * (y - mean) + k0; zeros for fixed statistics."""
    factor = norm[1] / (-count if batch_stats else float("inf"))
    return torch.cat([norm, torch.stack([factor * invstd * invstd * sum_gy, factor * sum_g])])


_FORWARD = (
    "Tensor y, Tensor mean, Tensor invstd, Tensor weight, Tensor bias, Tensor? shortcut, Tensor? shortcut_mean, "
    "Tensor? shortcut_invstd, Tensor? shortcut_weight, Tensor? shortcut_bias, "
    f"{SCALARS}, bool batch_stats, bool channels_last"
)
_BACKWARD = (
    "Tensor go, Tensor y, Tensor spikes, Tensor norm, Tensor? shortcut, Tensor? shortcut_norm, "
    f"{SCALARS}, bool channels_last"
)
norm_lif_op = define("norm_lif", _FORWARD, 4, _norm_lif)
norm_lif_op.register_fake(lambda y, *rest: fake_forward(y, rest[14]))
norm_lif_reduce_op = define("norm_lif_reduce", _BACKWARD, 2, _reduce)
norm_lif_backward_op = define("norm_lif_backward", _BACKWARD, 2, _backward)


@norm_lif_reduce_op.register_fake
def _(go, y, spikes, norm, shortcut, shortcut_norm, *_):
    return norm.new_empty(2 if shortcut_norm is None else 3, norm.shape[1]), norm.new_empty(3)


@norm_lif_backward_op.register_fake
def _(go, y, spikes, norm, shortcut, *_):
    return torch.empty_like(y), y.new_empty(0) if shortcut is None else torch.empty_like(shortcut)


# Per channel sum g, sum g * (y - mean) [, sum g * (shortcut - its mean)], and the scalars' gradients (3,).
norm_lif_reduce = eager_or(norm_lif_reduce_op, _reduce)
# The gradients of y and of the shortcut (empty without one).
norm_lif_backward = eager_or(norm_lif_backward_op, _backward)
# (o, spikes, u_sum, active_count) for y (T or 1, B, C, S), or (.., B, S, C) with ``channels_last``. mean, invstd,
# weight, bias: float32 (C,). shortcut: None or of y's shape, added as it is, or normalised where the other four are.
norm_lif = differentiable(norm_lif_op, _norm_lif, _context, _gradient)
