"""DS-ATGO: a threshold that follows the membrane at every step, and a surrogate gradient that follows the threshold.

Jiang, Xu, Fan and Yan, AAAI 2026 (arXiv 2511.13050); after the authors' program. For t = 1..T, with mean and deviation
over the batch and all neurons of the layer, as constants:

    m = decay * u + x
    v = f_c * (mean(m) + deviation(m))           in training; else the running mean of it, one for each step
    s = 1 if m >= v else 0                       u = m * (1 - s)
    ds/dm = 1/k inside |m - v| < k/2             k = width * (1 + tanh(z - v_threshold))

z is the deviation (the program), or the threshold v (the text).
"""

import torch
from torch import Tensor, nn

from snnrepro.collectives import moments_across_ranks, world_size
from snnrepro.errors import ConfigError
from snnrepro.neurons.current import as_tensor
from snnrepro.neurons.reference import LIFResult


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, m: Tensor, v: Tensor, k: Tensor) -> Tensor:
        ctx.save_for_backward(m - v, k)
        return (m >= v).to(m.dtype)

    @staticmethod
    def backward(ctx, grad_s: Tensor):
        distance, k = ctx.saved_tensors
        return grad_s * (distance.abs() < k / 2) / k, None, None


class DSATGO(nn.Module):
    """One layer, multi-step, without state between calls: sequences (T, B, ...) to spikes of the same shape.

    timesteps: the most steps of a window, each with a running threshold of its own.
    """

    running_threshold: Tensor
    unsettled = False
    output_scale = None

    def __init__(
        self,
        *,
        timesteps: int,
        decay: float = 0.2,
        v_threshold: float = 1.0,
        f_c: float = 1.0,
        momentum: float = 0.1,
        width: float = 1.0,
        width_from: str = "deviation",
    ):
        super().__init__()
        self.decay, self.first_threshold, self.f_c = decay, v_threshold, f_c
        self.momentum, self.width, self.width_from = momentum, width, width_from
        self.register_buffer("running_threshold", torch.full((timesteps,), v_threshold))

    def forward(self, x: Tensor, timesteps: int | None = None) -> Tensor:
        """Returns spikes (T, B, ...) for a current (T or 1, B, ...). Raises ConfigError for a longer window."""
        return self.window(x, timesteps, move=self.training and torch.is_grad_enabled()).o

    def window(
        self,
        x: Tensor,
        timesteps: int | None = None,
        record: list[tuple[Tensor, Tensor]] | None = None,
        move: bool = False,
    ) -> LIFResult:
        """Returns what ``forward`` does. record: receives (m, s) of every step. move: the running thresholds."""
        x = as_tensor(x)
        steps = timesteps or x.shape[0]
        if steps > len(self.running_threshold):
            raise ConfigError(
                f"timesteps={steps}: neuron=ds_atgo was made for {len(self.running_threshold)} steps; use at most these"
            )
        state = torch.promote_types(x.dtype, torch.float32)
        u, outputs = torch.zeros_like(x[0], dtype=state), []
        for t, current in enumerate(x.expand(steps, *x.shape[1:])):
            m = self.decay * u + current.to(state)
            v, k = self._threshold_and_width(m.detach(), t, move)
            s = _Spike.apply(m, v, k)
            u = m * (1 - s)
            outputs.append(s.to(x.dtype))
            if record is not None:
                record.append((m, s))
        return LIFResult(torch.stack(outputs), None, None)

    @torch.no_grad()
    def _threshold_and_width(self, m: Tensor, t: int, move: bool) -> tuple[Tensor, Tensor]:
        if not self.training:
            return self.running_threshold[t], m.new_tensor(self.width)
        mean, var, count = m.mean(), m.var(correction=0), torch.tensor(float(m.numel()))
        if world_size() > 1:
            mean, var, count = moments_across_ranks(mean, var, m.numel())
        deviation = (var * count / (count - 1).clamp(min=1)).sqrt()
        v = self.f_c * (mean + deviation)
        if move:
            self.running_threshold[t].lerp_(v.to(self.running_threshold), self.momentum)
        z = deviation if self.width_from == "deviation" else v
        return v, self.width * (1 + torch.tanh(z - self.first_threshold))

    def settle(self, x: Tensor) -> None:
        """Nothing here has the shape of the input."""

    @property
    def v_threshold(self) -> Tensor:
        """The mean of the running thresholds, 0-d."""
        return self.running_threshold.mean()

    @property
    def tau(self) -> Tensor:
        """The time constant in steps, 0-d: 1 - 1/tau of the membrane is left after a step."""
        return self.running_threshold.new_tensor(1 / (1 - self.decay))

    @property
    def u_init(self) -> Tensor:
        """Where a window starts, 0-d."""
        return self.running_threshold.new_zeros(())
