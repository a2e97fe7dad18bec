"""Normalisation of the input current over time and batch. Sequences are (T, B, C, H, W)."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from snnrepro.layers import per_step
from snnrepro.neurons.current import NormalisedCurrent


class TdBN(nn.BatchNorm2d):
    """Threshold-dependent batch normalisation as the paper uses it: one BatchNorm over T, B, H, W.

    scale: a constant on the normalised value before the affine map; 1 is what the paper and its code run,
        ``alpha * v_threshold`` is the genuine tdBN (Zheng et al., AAAI 2021), see ``make_tdbn``.
    fused: whether forward leaves the affine map to the kernel of the spiking layer behind it.
    """

    # One set of statistics for all steps: a constant image may be normalised once, before it is repeated.
    time_shared = True

    def __init__(self, channels: int, *, eps: float, momentum: float, scale: float, fused: bool = False):
        super().__init__(channels, eps=eps, momentum=momentum)
        self.scale, self.fused = scale, fused

    def forward(self, x: Tensor) -> Any:
        """Returns the normalised sequence, same shape as ``x`` (T, B, C, H, W); where ``fused``, not yet computed."""
        if self.fused:
            return self._deferred(x)
        y = per_step(super().forward, x)
        if self.scale == 1:
            return y
        # weight * (scale * x_hat) + bias, written on the output of weight * x_hat + bias
        bias = self.bias.view(-1, 1, 1)
        return (y - bias) * self.scale + bias

    def eval_affine(self) -> tuple[Tensor, Tensor]:
        """Returns (scale, shift) in float64, each (1 or T, C): in evaluation mode the norm is x * scale + shift.

        One row serves all steps; a norm with statistics or factors of its own per step returns T rows.
        """
        assert self.running_mean is not None and self.running_var is not None
        scale = self.weight.double() * self.scale / (self.running_var.double() + self.eps).sqrt()
        shift = self.bias.double() - self.running_mean.double() * scale
        return scale.detach()[None], shift.detach()[None]

    def _deferred(self, x: Tensor) -> NormalisedCurrent:
        weight = self.weight if self.scale == 1 else self.weight * self.scale
        mean, var, momentum = self.running_mean, self.running_var, self.momentum
        assert mean is not None and var is not None and momentum is not None and self.num_batches_tracked is not None
        if self.training:
            with torch.no_grad():
                # Returns this batch's, and moves the running ones, to which the unbiased variance goes; in the dtype
                # of the running ones, also for bf16 input.
                mean, var = torch.batch_norm_update_stats(x.flatten(0, 1), mean, var, momentum)
                self.num_batches_tracked.add_(1)
        return NormalisedCurrent(x, mean, var, weight, self.bias, self.eps, self.training)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, scale={self.scale:.4g}"


def make_tdbn(
    channels: int,
    residual: bool,
    *,
    eps: float,
    momentum: float,
    alpha_v_threshold: bool,
    v_threshold: float,
    fused: bool = False,
) -> TdBN:
    """Returns the norm of one layer; ``residual`` marks a norm that feeds a residual sum.

    With ``alpha_v_threshold`` the scale is alpha * V, alpha = 1, or 1/sqrt(2) before a residual sum.
    """
    alpha = 1 / math.sqrt(2) if residual else 1.0
    scale = alpha * v_threshold if alpha_v_threshold else 1.0
    return TdBN(channels, eps=eps, momentum=momentum, scale=scale, fused=fused)
