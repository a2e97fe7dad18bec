"""Norms with parameters or statistics of their own per step: TEBN, TAB, BNTT. Sequences are (T, B, C, ...).

With ``timesteps`` = T at construction, a shorter sequence uses the first rows; a longer one is refused.
Arithmetic is float32 or wider under autocast; the output has the dtype of the input.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snnrepro.batch_norm import batch_norm, move_running, update_statistics
from snnrepro.collectives import moments_across_ranks, world_size
from snnrepro.errors import ConfigError
from snnrepro.layers import per_step

Rows = tuple[Tensor, Tensor]


class _TemporalNorm(nn.Module):
    # A constant image has to be repeated before the norm, since the steps are not treated alike.
    time_shared = False

    def __init__(self, channels: int, timesteps: int, *, eps: float, momentum: float):
        super().__init__()
        self.channels, self.timesteps, self.eps, self.momentum = channels, timesteps, eps, momentum

    def _check(self, x: Tensor) -> int:
        steps = x.shape[0]
        if steps > self.timesteps:
            name = type(self).__name__.lower()
            raise ConfigError(
                f"timesteps={steps}: norm={name} was made for {self.timesteps} steps; use at most {self.timesteps}"
            )
        return steps

    def _statistics(self, *shape: int) -> None:
        self.register_buffer("running_mean", torch.zeros(shape))
        self.register_buffer("running_var", torch.ones(shape))

    def _running(self) -> Rows:
        """Returns mean and standard deviation as inference uses them, float64."""
        mean, var = self.get_buffer("running_mean"), self.get_buffer("running_var")
        return mean.double(), (var.double() + self.eps).sqrt()

    def extra_repr(self) -> str:
        return f"{self.channels}, timesteps={self.timesteps}, eps={self.eps}, momentum={self.momentum}"


class TEBN(_TemporalNorm):
    """Temporal effective batch norm: ``p[t] * BN(x)[t]``, BN over all but the channels (Duan et al., NeurIPS 2022)."""

    def __init__(self, channels: int, timesteps: int, *, eps: float, momentum: float):
        super().__init__(channels, timesteps, eps=eps, momentum=momentum)
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.p = nn.Parameter(torch.ones(timesteps))
        self._statistics(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the normalised sequence, same shape as ``x``. Raises ConfigError for too many steps."""
        steps = self._check(x)
        mean, var = self.get_buffer("running_mean"), self.get_buffer("running_var")

        def normalise(y: Tensor) -> Tensor:
            return batch_norm(y, mean, var, self.weight, self.bias, self.training, self.momentum, self.eps)

        return (per_step(normalise, x) * self.p[:steps].view(-1, *[1] * (x.ndim - 1))).to(x.dtype)

    def eval_affine(self) -> Rows:
        """Returns (scale, shift) in float64, each (T, C): in evaluation mode the norm is x * scale + shift."""
        mean, std = self._running()
        scale, p = self.weight.double() / std, self.p.double()[:, None]
        return (p * scale).detach(), (p * (self.bias.double() - mean * scale)).detach()


class BNTT(_TemporalNorm):
    """Batch norm through time: statistics and gamma of every step on its own, no beta (Kim & Panda, 2021)."""

    def __init__(self, channels: int, timesteps: int, *, eps: float, momentum: float):
        super().__init__(channels, timesteps, eps=eps, momentum=momentum)
        self.weight = nn.Parameter(torch.ones(timesteps, channels))
        self._statistics(timesteps, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the normalised sequence, same shape as ``x``. Raises ConfigError for too many steps."""
        steps = self._check(x)
        # Steps become channels: one batch norm that treats each of them alone.
        wide = x.transpose(0, 1).flatten(1, 2)
        mean = self.get_buffer("running_mean")[:steps].view(-1)
        var = self.get_buffer("running_var")[:steps].view(-1)
        weight = self.weight[:steps].flatten()
        y = batch_norm(wide, mean, var, weight, None, self.training, self.momentum, self.eps)
        return y.unflatten(1, (steps, self.channels)).transpose(0, 1).to(x.dtype)

    def eval_affine(self) -> Rows:
        """Returns (scale, shift) in float64, each (T, C): in evaluation mode the norm is x * scale + shift."""
        mean, std = self._running()
        scale = self.weight.double() / std
        return scale.detach(), (-mean * scale).detach()


def _scale_shift(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Returns ``x * scale + shift`` of x (T, B, C, ...) and rows (T, C), in one pass forward and one backward."""
    zero, one = torch.zeros_like(scale[0]), torch.ones_like(scale[0])
    rows = zip(x, scale, shift, strict=True)
    return torch.stack([F.batch_norm(x_t, zero, one, a, b, False, 0.0, 0.0) for x_t, a, b in rows])


class _StepMoments(torch.autograd.Function):
    """Mean and biased variance (T, C) of every step of x (T, B, C, ...), by the kernel of batch norm."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Rows:
        zero, one = x.new_zeros(x.shape[2]), x.new_ones(x.shape[2])
        mean, var = zip(*(update_statistics(x_t, zero, one, 0.0) for x_t in x), strict=True)
        ctx.save_for_backward(x, torch.stack(mean))
        return torch.stack(mean), torch.stack(var)

    @staticmethod
    def backward(ctx: Any, grad_mean: Tensor, grad_var: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        scale = grad_var * (2 * x.shape[2] / x[0].numel())
        return _scale_shift(x, scale, grad_mean * (x.shape[2] / x[0].numel()) - scale * mean)


def cumulative_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (mean, biased variance), each (T, C), and count (T, 1): row t over steps 1..t, batch and positions.

    x: (T, B, C, ...), joined along B over ranks. One pass over x, then sums over steps of per-step moments. The
    variance is the mean of those within the steps plus that between their means, so nothing cancels where a mean is
    large. Differentiable.
    """
    steps = x.shape[0]
    mean, var = _StepMoments.apply(x)
    per_step = x[0].numel() // x.shape[2]
    count = torch.arange(1, steps + 1, dtype=mean.dtype, device=x.device)[:, None] * per_step
    if world_size() > 1:
        mean, var, together = moments_across_ranks(mean, var, per_step)
        count = count * (together / per_step)
    seen = torch.ones(steps, steps, dtype=mean.dtype, device=mean.device).tril()
    seen = seen / seen.sum(1, keepdim=True)
    total = seen @ mean
    between = (seen[:, :, None] * (mean[None] - total[:, None]).square()).sum(1)
    return total, seen @ var + between, count


class TAB(_TemporalNorm):
    """Temporal accumulated batch norm: step t is normalised over the steps 1..t (Jiang et al., ICLR 2024).

    ``p[t]^2 * (gamma * (x[t] - mean[t]) / std[t] + beta)``. share_affine: one gamma and beta for all steps, instead of
    one pair per step as in the authors' code.
    """

    def __init__(self, channels: int, timesteps: int, *, eps: float, momentum: float, share_affine: bool):
        super().__init__(channels, timesteps, eps=eps, momentum=momentum)
        rows = 1 if share_affine else timesteps
        self.weight, self.bias = nn.Parameter(torch.ones(rows, channels)), nn.Parameter(torch.zeros(rows, channels))
        self.p = nn.Parameter(torch.ones(timesteps))
        self._statistics(timesteps, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the normalised sequence, same shape as ``x``. Raises ConfigError for too many steps."""
        steps = self._check(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        running_mean = self.get_buffer("running_mean")[:steps]
        running_var = self.get_buffer("running_var")[:steps]
        mean, var = running_mean, running_var
        if self.training:
            mean, var, count = cumulative_statistics(wide)
            move_running(running_mean, running_var, mean, var, count, self.momentum)
        w = self.p[:steps].square()[:, None]
        scale = w * self.weight[:steps] / (var + self.eps).sqrt()
        shift = w * self.bias[:steps] - mean * scale
        return _scale_shift(wide, scale, shift.expand_as(scale)).to(x.dtype)

    def eval_affine(self) -> Rows:
        """Returns (scale, shift) in float64, each (T, C): in evaluation mode the norm is x * scale + shift."""
        mean, std = self._running()
        w = self.p.double().square()[:, None]
        scale = w * self.weight.double() / std
        return scale.detach(), (w * self.bias.double() - mean * scale).detach()
