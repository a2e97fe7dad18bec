"""Normalisation of the input current over time and batch. Sequences are (T, B, C, ...): images, tokens, features."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from snnrepro.batch_norm import batch_norm, move_running, per_channel, update_statistics
from snnrepro.collectives import moments_across_ranks, world_size
from snnrepro.layers import per_step
from snnrepro.neurons.current import NormalisedCurrent
from snnrepro.recompute import repeated


class TdBN(nn.BatchNorm2d):
    """Threshold-dependent batch normalisation as the paper uses it: one BatchNorm over all but the channels.

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
        """Returns the normalised sequence, same shape as ``x`` (T, B, C, ...); where ``fused``, not yet computed."""
        if self.fused:
            return self._deferred(x)
        y = per_step(self._normalise, x)
        if self.scale == 1:
            return y
        # weight * (scale * x_hat) + bias, written on the output of weight * x_hat + bias
        bias = per_channel(self.bias, y.ndim - 1)
        return (y - bias) * self.scale + bias

    def eval_affine(self) -> tuple[Tensor, Tensor]:
        """Returns (scale, shift) in float64, each (1 or T, C): in evaluation mode the norm is x * scale + shift.

        One row serves all steps; a norm with statistics or factors of its own per step returns T rows.
        """
        mean, var = self._running()
        scale = self.weight.double() * self.scale / (var.double() + self.eps).sqrt()
        shift = self.bias.double() - mean.double() * scale
        return scale.detach()[None], shift.detach()[None]

    def _deferred(self, x: Tensor) -> NormalisedCurrent:
        weight = self.weight if self.scale == 1 else self.weight * self.scale
        mean, var, share = *self._running(), None
        if self.training:
            with torch.no_grad():
                mean, var, share = self._batch_statistics(x.flatten(0, 1))
        return NormalisedCurrent(x, mean, var, weight, self.bias, self.eps, self.training, share)

    def _batch_statistics(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns mean and variance of this batch, and of several ranks the share of one value; moves the running."""
        running, momentum = self._running(), self._momentum()
        if world_size() == 1:
            # In the dtype of the running statistics, also for bf16 input.
            return *update_statistics(y, *running, momentum), None
        own = update_statistics(y, running[0].clone(), running[1].clone(), 0.0)
        mean, var, count = moments_across_ranks(*own, y.numel() // y.shape[1])
        move_running(*running, mean, var, count, momentum)
        return mean, var, 1 / count

    def _normalise(self, y: Tensor) -> Tensor:
        momentum = self._momentum() if self.training else 0.0
        return batch_norm(y, *self._running(), self.weight, self.bias, self.training, momentum, self.eps)

    def _running(self) -> tuple[Tensor, Tensor]:
        assert self.running_mean is not None and self.running_var is not None
        return self.running_mean, self.running_var

    def _momentum(self) -> float:
        """Counts a training batch, and returns the weight of its statistics: 0 where its forward runs again."""
        assert self.momentum is not None and self.num_batches_tracked is not None
        if repeated():
            return 0.0
        self.num_batches_tracked.add_(1)
        return self.momentum

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, scale={self.scale:.4g}"


def make_tdbn(
    channels: int,
    residual: bool,
    *,
    eps: float,
    momentum: float,
    v_threshold: float | None = None,
    fused: bool = False,
) -> TdBN:
    """Returns the norm of one layer; ``residual`` marks a norm that feeds a residual sum.

    With a ``v_threshold`` the scale is alpha * V, alpha = 1, or 1/sqrt(2) before a residual sum.
    """
    alpha = 1 / math.sqrt(2) if residual else 1.0
    scale = 1.0 if v_threshold is None else alpha * v_threshold
    return TdBN(channels, eps=eps, momentum=momentum, scale=scale, fused=fused)


class MembraneNorm(nn.BatchNorm2d):
    """MPBN's batch norm of the membrane potential of one step, per channel (Guo et al., ICCV 2023).

    Called once per step: statistics are those of (B, H, W), and the running ones move T times per batch. Parameters
    and running statistics are shared by the steps.
    """

    def forward(self, m: Tensor) -> Tensor:
        """Returns the normalised potential, same shape and dtype as ``m`` (B, C, ...)."""
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        four = m.reshape(*m.shape[:2], -1, 1)
        y = batch_norm(
            four, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )
        return y.reshape(m.shape)

    def folded_threshold(self, v_threshold: Tensor) -> Tensor:
        """Returns thresholds (C,), float64: in evaluation ``norm(m) >= v_threshold`` is ``m >= folded``.

        Raises ValueError where a weight is not positive: the comparison would turn around.
        """
        assert self.running_mean is not None and self.running_var is not None
        weight = self.weight.detach().double()
        if not (weight > 0).all():
            raise ValueError(
                f"{int((weight <= 0).sum())} of {len(weight)} weights of the membrane's norm are not positive"
            )
        std = (self.running_var.double() + self.eps).sqrt()
        return (v_threshold.detach().double() - self.bias.detach().double()) * std / weight + self.running_mean.double()
