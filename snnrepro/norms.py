"""Normalisation of the input current over time and batch. Sequences are (T, B, C, H, W)."""

import math

from torch import Tensor, nn

from snnrepro.layers import per_step


class TdBN(nn.BatchNorm2d):
    """Threshold-dependent batch normalisation as the paper uses it: one BatchNorm over T, B, H, W.

    scale: a constant on the normalised value before the affine map; 1 is what the paper and its code run,
        ``alpha * v_threshold`` is the genuine tdBN (Zheng et al., AAAI 2021), see ``make_tdbn``.
    """

    # One set of statistics for all steps: a constant image may be normalised once, before it is repeated.
    time_shared = True

    def __init__(self, channels: int, *, eps: float, momentum: float, scale: float):
        super().__init__(channels, eps=eps, momentum=momentum)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Returns the normalised sequence, same shape as ``x`` (T, B, C, H, W)."""
        y = per_step(super().forward, x)
        if self.scale == 1:
            return y
        # weight * (scale * x_hat) + bias, written on the output of weight * x_hat + bias
        bias = self.bias.view(-1, 1, 1)
        return (y - bias) * self.scale + bias

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
) -> TdBN:
    """Returns the norm of one layer; ``residual`` marks a norm that feeds a residual sum.

    With ``alpha_v_threshold`` the scale is alpha * V, alpha = 1, or 1/sqrt(2) before a residual sum.
    """
    alpha = 1 / math.sqrt(2) if residual else 1.0
    scale = alpha * v_threshold if alpha_v_threshold else 1.0
    return TdBN(channels, eps=eps, momentum=momentum, scale=scale)
