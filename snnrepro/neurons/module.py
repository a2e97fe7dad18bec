"""The spiking layer as a module: it holds the scalars and the running mean, nothing else."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from snnrepro.neurons import mp_init
from snnrepro.neurons.current import NormalisedCurrent
from snnrepro.neurons.dynamics import Dynamics
from snnrepro.neurons.functional import lif
from snnrepro.neurons.ops import snapshot
from snnrepro.neurons.reference import LIFResult
from snnrepro.neurons.reparam import inverse_sigmoid, inverse_softplus, raw_of_tau, softplus


class LIF(nn.Module):
    """One layer of leaky integrate-and-fire neurons, multi-step.

    State lives inside one forward: there is nothing to reset between batches. ``v_threshold_raw`` and
    ``tau_raw`` are parameters where learnable and buffers where frozen; ``u_init`` is a buffer, so it is
    saved, restored and moved with the model. All three are 0-d and stay float32 (or wider) under autocast.
    """

    v_threshold_raw: Tensor
    tau_raw: Tensor
    u_init: Tensor

    def __init__(
        self,
        *,
        family: str,
        surrogate: str,
        gamma: float,
        reset: str,
        detach_reset: bool,
        v_threshold: float,
        tau: float,
        learn_threshold: bool,
        learn_tau: bool,
        mp_init: bool,
        beta: float,
        backend: str,
    ):
        super().__init__()
        self.family, self.surrogate, self.gamma = family, surrogate, gamma
        self.reset, self.detach_reset = reset, detach_reset
        self.mp_init, self.beta, self.backend = mp_init, beta, backend
        self._scalar("v_threshold_raw", inverse_softplus(v_threshold), learn_threshold)
        self._scalar("tau_raw", raw_of_tau(tau), learn_tau)
        self.register_buffer("u_init", torch.zeros(()))

    def _scalar(self, name: str, value: float, learn: bool) -> None:
        if learn:
            self.register_parameter(name, nn.Parameter(torch.tensor(value)))
        else:
            self.register_buffer(name, torch.tensor(value))

    @property
    def v_threshold(self) -> Tensor:
        """The firing threshold, 0-d, differentiable where learnable (paper Sec. 9.2)."""
        return softplus(self.v_threshold_raw)

    @property
    def tau(self) -> Tensor:
        """The membrane time constant in steps, 0-d, above 1, differentiable where learnable."""
        return inverse_sigmoid(self.tau_raw)

    def forward(self, x: Tensor | NormalisedCurrent, timesteps: int | None = None) -> Tensor:
        """Returns outputs (T, ...neurons) for a current (T, ...neurons), or one that a norm left uncomputed.

        A current that is constant over the window may come as (1, ...neurons) with ``timesteps`` given.
        In training mode with gradients enabled, ``u_init`` moves afterwards (MP-Init, Algorithm 1).
        Raises ValueError when ``x`` has neither 1 nor ``timesteps`` steps.
        """
        steps = x.y.shape[0] if isinstance(x, NormalisedCurrent) else x.shape[0]
        result = lif(
            x,
            # A copy: the backward needs what the forward read, and the buffer moves before that.
            snapshot(self.u_init),
            self.v_threshold,
            self.tau,
            **self.dynamics(steps if timesteps is None else timesteps)._asdict(),
            backend=self.backend,
        )
        self.move_u_init(result)
        return result.o

    def dynamics(self, timesteps: int) -> Dynamics:
        """Returns the rules of this layer over a window of ``timesteps``."""
        return Dynamics(timesteps, self.family, self.surrogate, self.gamma, self.reset, self.detach_reset)

    def move_u_init(self, result: LIFResult) -> None:
        """Moves ``u_init`` by what a window left behind, in training mode with gradients enabled (Algorithm 1)."""
        if self.mp_init and self.training and torch.is_grad_enabled():
            mp_init.move(self, result.u_sum, result.active_count)

    def extra_repr(self) -> str:
        return (
            f"family={self.family}, surrogate={self.surrogate}, gamma={self.gamma}, reset={self.reset}, "
            f"v_threshold={self.v_threshold.item():.4g}, tau={self.tau.item():.4g}, mp_init={self.mp_init}"
        )


def spiking_layers(model: nn.Module) -> Iterator[tuple[str, LIF]]:
    """Yields (name, layer) for every spiking layer of ``model``, in definition order."""
    for name, module in model.named_modules():
        if isinstance(module, LIF):
            yield name, module
