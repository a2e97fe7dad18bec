"""What the kernels take besides the rules: packed spikes, and a norm as rows of one number per channel."""

import torch
from torch import Tensor

# Of one norm: mean, var, weight, bias, each (C,).
Norm = tuple[Tensor, Tensor, Tensor, Tensor]


def spikes_dtype(timesteps: int) -> torch.dtype:
    """Returns the integer type that holds one bit per step: uint8 up to T = 8, int16 up to 16, int32 up to 32."""
    return torch.uint8 if timesteps <= 8 else torch.int16 if timesteps <= 16 else torch.int32


def norm_rows(mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: Tensor | float) -> Tensor:
    """Returns rows mean, scale, shift, invstd (4, C): y * scale + shift = weight * (y - mean) * invstd + bias."""
    invstd = 1 / (var + eps).sqrt()
    scale = weight * invstd
    return torch.stack([mean, scale, bias - mean * scale, invstd])


def statistics_rows(norm: Tensor, sum_g: Tensor, sum_gy: Tensor, share: Tensor | float) -> Tensor:
    """Returns rows k1, k0 (2, C) of gy = scale * g + k1 * (y - mean) + k0, which carry the gradient of the statistics.

    sum_g, sum_gy: (C,), of g = dL/dx and of g * (y - mean). share: the part of one value in a mean over the batch,
    0 for statistics that do not come from it.
    """
    _, scale, _, invstd = norm.unbind(0)
    factor = scale * -share
    return torch.stack([factor * invstd * invstd * sum_gy, factor * sum_g])
