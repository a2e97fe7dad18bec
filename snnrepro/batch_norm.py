"""Batch normalisation whose batch is that of all ranks, on every device. In a lone process it is torch's.

torch's ``SyncBatchNorm`` refuses CPU tensors, and is one norm of many here.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from snnrepro.collectives import moments_across_ranks, world_size
from snnrepro.recompute import repeated


def batch_norm(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """Returns ``F.batch_norm`` of ``x`` (N, C, ...), in training over the batch of all ranks together.

    Moves ``running_mean`` and ``running_var`` (C,) in training, with the unbiased variance. Same shape and dtype as x.
    """
    if not training or world_size() == 1:
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, once(momentum), eps)
    mean, var, count = batch_moments(x)
    move_running(running_mean, running_var, mean, var, count, momentum)
    return normalise(x, mean, var, weight, bias, eps)


def once(momentum: float) -> float:
    """Returns the weight of a batch in the running statistics: 0 where a forward runs again, see ``recompute.py``."""
    return 0.0 if repeated() else momentum


def batch_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns mean and biased variance (C,) of ``x`` (N, C, ...) over all ranks, and the count; differentiable."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    var, mean = torch.var_mean(wide, (0, *range(2, x.ndim)), correction=0)
    return moments_across_ranks(mean, var, x.numel() // x.shape[1])


def update_statistics(x: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float) -> tuple[Tensor, Tensor]:
    """Returns mean and biased variance (C,) of ``x`` (N, C, ...), in the dtype of the running ones, which it moves."""
    if x.is_meta:
        # torch's kernel has no form without values.
        return torch.empty_like(running_mean), torch.empty_like(running_var)
    return torch.batch_norm_update_stats(x, running_mean, running_var, momentum)


@torch.no_grad()
def move_running(
    running_mean: Tensor, running_var: Tensor, mean: Tensor, var: Tensor, count: Tensor, momentum: float
) -> None:
    """Moves the running statistics towards a batch's mean and biased variance over ``count`` values (0-d)."""
    momentum = once(momentum)
    running_mean.lerp_(mean.to(running_mean.dtype), momentum)
    running_var.lerp_((var * (count / (count - 1).clamp(min=1))).to(running_var.dtype), momentum)


def normalise(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Returns ``weight * (x - mean) / sqrt(var + eps) + bias`` per channel of ``x`` (N, C, ...), in its dtype."""
    scale = (var + eps).rsqrt()
    y = (x - per_channel(mean, x.ndim)) * per_channel(scale if weight is None else scale * weight, x.ndim)
    return (y if bias is None else y + per_channel(bias, x.ndim)).to(x.dtype)


def per_channel(row: Tensor, ndim: int) -> Tensor:
    """Returns one number per channel (C,) as it meets a tensor (N, C, ...) of ``ndim`` axes."""
    return row.view(-1, *[1] * (ndim - 2))
