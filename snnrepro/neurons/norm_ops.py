"""Batch norm, shortcut and LIF as one torch operator; the second half of ``ops.py``.

``norm_lif`` normalises with the statistics it is given. Where those came from this very batch
(``batch_stats``), its backward also carries the gradient through them, as batch norm's does. The sums over
the batch stand between ``norm_lif_reduce`` and ``norm_lif_backward``: there, and between the statistics and
the forward, ranks have to exchange theirs.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.library import custom_op

from snnrepro.neurons.dynamics import Dynamics
from snnrepro.neurons.ops import _spikes, _statistics, is_plain, provider


def norm_lif(
    y: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor,
    bias: Tensor,
    shortcut: Tensor | None,
    shortcut_mean: Tensor | None,
    shortcut_invstd: Tensor | None,
    shortcut_weight: Tensor | None,
    shortcut_bias: Tensor | None,
    u_init: Tensor,
    v_threshold: Tensor,
    leak: Tensor,
    batch_stats: bool,
    channels_last: bool,
    timesteps: int,
    family: str,
    surrogate: str,
    gamma: float,
    reset: str,
    detach_reset: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns (o, spikes, u_sum, active_count) for y (T or 1, B, C, S), or (.., B, S, C) with ``channels_last``.

    mean, invstd, weight, bias: float32 (C,). shortcut: None or of y's shape, added as it is, or normalised where the
    other four are given.
    """
    dyn = Dynamics(timesteps, family, surrogate, gamma, reset, detach_reset)
    norm = _affine(mean, invstd, weight, bias)
    shortcut_norm = _affine(shortcut_mean, shortcut_invstd, shortcut_weight, shortcut_bias)
    o, spikes, u_sum, active_count = provider(backend).norm_lif_forward(
        y, norm, shortcut, shortcut_norm, u_init, v_threshold, leak, dyn, channels_last
    )
    return o, spikes, u_sum, active_count


norm_lif_op = custom_op("snnrepro::norm_lif", mutates_args=())(norm_lif)


@norm_lif_op.register_fake
def _(y, *rest):
    timesteps = rest[-7]
    return y.new_empty(timesteps, *y.shape[1:]), _spikes(y, timesteps), *_statistics(y)


def _affine(mean, invstd, weight, bias) -> Any:
    """Returns rows mean, scale, shift (3, C): y * scale + shift = weight * (y - mean) * invstd + bias; or None."""
    if mean is None:
        return None
    scale = weight * invstd
    return torch.stack([mean, scale, bias - mean * scale])


def norm_lif_reduce(
    go: Tensor,
    y: Tensor,
    spikes: Tensor,
    norm: Tensor,
    shortcut: Tensor | None,
    shortcut_norm: Tensor | None,
    u_init: Tensor,
    v_threshold: Tensor,
    leak: Tensor,
    channels_last: bool,
    timesteps: int,
    family: str,
    surrogate: str,
    gamma: float,
    reset: str,
    detach_reset: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Returns per channel sum g, sum g * (y - mean) [, sum g * (shortcut - its mean)], and the scalars' gradients."""
    dyn = Dynamics(timesteps, family, surrogate, gamma, reset, detach_reset)
    sums, scalars = provider(backend).norm_lif_reduce(
        go, y, spikes, norm, shortcut, shortcut_norm, u_init, v_threshold, leak, dyn, channels_last
    )
    return sums, scalars


norm_lif_reduce_op = custom_op("snnrepro::norm_lif_reduce", mutates_args=())(norm_lif_reduce)


@norm_lif_reduce_op.register_fake
def _(go, y, spikes, norm, shortcut, shortcut_norm, *_):
    return norm.new_empty(2 if shortcut_norm is None else 3, norm.shape[1]), norm.new_empty(3)


def norm_lif_backward(
    go: Tensor,
    y: Tensor,
    spikes: Tensor,
    norm: Tensor,
    shortcut: Tensor | None,
    shortcut_norm: Tensor | None,
    u_init: Tensor,
    v_threshold: Tensor,
    leak: Tensor,
    channels_last: bool,
    timesteps: int,
    family: str,
    surrogate: str,
    gamma: float,
    reset: str,
    detach_reset: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Returns the gradients of y and of the shortcut (empty without one)."""
    dyn = Dynamics(timesteps, family, surrogate, gamma, reset, detach_reset)
    gy, gshortcut = provider(backend).norm_lif_backward(
        go, y, spikes, norm, shortcut, shortcut_norm, u_init, v_threshold, leak, dyn, channels_last
    )
    return gy, y.new_empty(0) if gshortcut is None else gshortcut


norm_lif_backward_op = custom_op("snnrepro::norm_lif_backward", mutates_args=())(norm_lif_backward)


@norm_lif_backward_op.register_fake
def _(go, y, spikes, norm, shortcut, *_):
    return torch.empty_like(y), y.new_empty(0) if shortcut is None else torch.empty_like(shortcut)


def _context(ctx, inputs, output):
    *tensors, ctx.batch_stats, ctx.channels_last = inputs[:15]
    ctx.options = inputs[15:]
    _, spikes, u_sum, active_count = output
    ctx.mark_non_differentiable(spikes, u_sum, active_count)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, spikes)


def _gradient(ctx, go, *_):
    none = (None,) * (2 + len(ctx.options))
    if go is None:
        return (None,) * 13 + none
    y, mean, invstd, weight, bias, shortcut, mean2, invstd2, weight2, bias2, *scalars, spikes = ctx.saved_tensors
    norm, norm2 = _affine(mean, invstd, weight, bias), _affine(mean2, invstd2, weight2, bias2)
    common = (go.contiguous(), y, spikes)
    rest = (*scalars, ctx.channels_last, *ctx.options)
    plain = is_plain(go)
    sums, gscalars = (norm_lif_reduce if plain else norm_lif_reduce_op)(*common, norm, shortcut, norm2, *rest)
    # Ranks that share statistics add up ``sums`` here.
    count = y.numel() // y.shape[3 if ctx.channels_last else 2]
    norm = _with_statistics(norm, invstd, sums[0], sums[1], count, ctx.batch_stats)
    gweight2 = gbias2 = None
    if norm2 is not None:
        norm2 = _with_statistics(norm2, invstd2, sums[0], sums[2], count, ctx.batch_stats)
        gweight2, gbias2 = sums[2] * invstd2, sums[0].clone()
    gy, gshortcut = (norm_lif_backward if plain else norm_lif_backward_op)(*common, norm, shortcut, norm2, *rest)
    gnorm = (gy, None, None, sums[1] * invstd, sums[0].clone())
    return *gnorm, None if shortcut is None else gshortcut, None, None, gweight2, gbias2, *gscalars.unbind(0), *none


def _with_statistics(
    norm: Tensor, invstd: Tensor, sum_g: Tensor, sum_gy: Tensor, count: int, batch_stats: bool
) -> Tensor:
    """Returns ``norm`` with the rows k1, k0 of gy = scale * g + k1 * (y - mean) + k0; zeros for fixed statistics."""
    factor = norm[1] / (-count if batch_stats else float("inf"))
    return torch.cat([norm, torch.stack([factor * invstd * invstd * sum_gy, factor * sum_g])])


norm_lif_op.register_autograd(_gradient, setup_context=_context)


class FusedNormLIF(torch.autograd.Function):
    """``norm_lif`` without the operator around it; see ``FusedLIF``."""

    @staticmethod
    def forward(ctx, *inputs):
        output = norm_lif(*inputs)
        _context(ctx, inputs, output)
        return output

    backward = staticmethod(once_differentiable(_gradient))  # type: ignore[assignment]
