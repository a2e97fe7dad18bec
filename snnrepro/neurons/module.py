"""The spiking layer as a module: it holds the scalars and the running mean, nothing else."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from snnrepro.errors import UserError
from snnrepro.neurons import mp_init
from snnrepro.neurons.current import NormalisedCurrent, as_tensor
from snnrepro.neurons.dynamics import Dynamics
from snnrepro.neurons.functional import lif
from snnrepro.neurons.ops import NO_TORCHSCRIPT, require_supported, snapshot
from snnrepro.neurons.protocol import SpikingLayer
from snnrepro.neurons.reference import LIFResult, lif_reference
from snnrepro.neurons.reparam import THRESHOLD_MAPS, inverse_sigmoid, raw_of_tau


class LIF(nn.Module):
    """One layer of leaky integrate-and-fire neurons, multi-step.

    State lives inside one forward: there is nothing to reset between batches. ``v_threshold_raw`` and
    ``tau_raw`` are parameters where learnable and buffers where frozen; ``u_init`` is a buffer, so it is
    saved, restored and moved with the model. All three are 0-d and stay float32 (or wider) under autocast.

    The defaults are the paper's baseline, ``neuron=lif``. backend: ``auto`` is what fits the input, the kernels for
    GPUs, those for CPUs where there is a C++ compiler, else the reference.

    What other methods change (docs/methods.md), none of it in the paper's own neurons:
    threshold_map: softplus, or tanh (LTMD). input_scale: decay is Eq. 1, ``none`` leaves the current out of the leak,
    ``m = (1 - 1/tau) * u + x``. learn_u_init: ``u_init`` is a parameter, one value per neuron (IMP). smoothing: initial
    weight, in (0, 1), of the smoothed membrane of the step before, learned (MPS). membrane_norm: makes the norm
    between charging and firing from a number of channels (MPBN). The last three have a shape, or need a loop of their
    own: see ``settle``.
    """

    v_threshold_raw: Tensor
    tau_raw: Tensor
    u_init: Tensor

    def __init__(
        self,
        *,
        family: str = "as_sg",
        surrogate: str = "rectangular",
        gamma: float = 1.0,
        reset: str = "soft",
        detach_reset: bool = False,
        v_threshold: float = 1.0,
        tau: float = 2.0,
        learn_threshold: bool = False,
        learn_tau: bool = False,
        mp_init: bool = False,
        beta: float = 0.1,
        backend: str = "auto",
        threshold_map: str = "softplus",
        input_scale: str = "decay",
        learn_u_init: bool = False,
        smoothing: float | None = None,
        membrane_norm: Callable[[int], nn.Module] | None = None,
    ):
        super().__init__()
        self.family, self.surrogate, self.gamma = family, surrogate, gamma
        self.reset, self.detach_reset = reset, detach_reset
        self.mp_init, self.beta, self.backend = mp_init, beta, backend
        self.threshold_map, self.input_scale, self.learn_u_init = threshold_map, input_scale, learn_u_init
        self._make_membrane_norm = membrane_norm
        self.membrane_norm: nn.Module | None = None
        self._scalar("v_threshold_raw", THRESHOLD_MAPS[threshold_map].inverse(v_threshold), learn_threshold)
        self._scalar("tau_raw", raw_of_tau(tau), learn_tau)
        if learn_u_init:
            self.u_init = UninitializedParameter()
        else:
            self.register_buffer("u_init", torch.zeros(()))
        self.smoothing_raw = None if smoothing is None else nn.Parameter(torch.tensor(smoothing).logit())

    def _scalar(self, name: str, value: float, learn: bool) -> None:
        if learn:
            self.register_parameter(name, nn.Parameter(torch.tensor(value)))
        else:
            self.register_buffer(name, torch.tensor(value))

    @property
    def v_threshold(self) -> Tensor:
        """The firing threshold, 0-d, differentiable where learnable (paper Sec. 9.2)."""
        return THRESHOLD_MAPS[self.threshold_map].of_tensor(self.v_threshold_raw)

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
        if not self._moves_u_init:
            return self.window(x, timesteps).o
        result = self.window(x, timesteps, u_init=mp_init.start(self))
        mp_init.move(self, result.u_sum, result.active_count)
        return result.o

    def window(
        self,
        x: Tensor | NormalisedCurrent,
        timesteps: int | None = None,
        record: list[tuple[Tensor, Tensor]] | None = None,
        u_init: Tensor | None = None,
    ) -> LIFResult:
        """Returns what ``forward`` would leave behind, and moves nothing.

        record: receives (m, s) of every step, each (...neurons), computed by the reference equations.
        u_init: where the window starts, 0-d; the layer's own unless given.
        """
        require_supported()
        dynamics = self.dynamics(x.shape[0] if timesteps is None else timesteps)._asdict()
        if self.input_scale == "none":
            # (1 - 1/tau) * u + x is Eq. 1 of the current tau * x.
            x = x.scaled(self.tau) if isinstance(x, NormalisedCurrent) else x * self.tau.to(x.dtype)
        if u_init is None:
            u_init = self.u_init.new_zeros(()) if self.learn_u_init else self.u_init
        if self.learn_u_init:
            # u_init + (x[1] - u_init) / tau is the first step from 0 with the current x[1] + (tau - 1) * u_init.
            x = as_tensor(x).expand(dynamics["timesteps"], *x.shape[1:])
            x = torch.cat([x[:1] + ((self.tau - 1) * self.u_init).to(x.dtype), x[1:]])
        if record is None and self.smoothing_raw is None and self.membrane_norm is None:
            return lif(
                x,
                u_init,
                self.v_threshold_raw,
                self.tau_raw,
                **dynamics,
                backend=self.backend,
                statistics=self._moves_u_init,
                threshold_map=self.threshold_map,
            )
        smoothing = None if self.smoothing_raw is None else self.smoothing_raw.sigmoid()
        changed: dict[str, Any] = {"smoothing": smoothing, "membrane_norm": self.membrane_norm, "record": record}
        return lif_reference(as_tensor(x), snapshot(u_init), self.v_threshold, self.tau, **dynamics, **changed)

    @property
    def output_scale(self) -> Tensor | None:
        """What a spike is multiplied with in the output: V_thr for trsg."""
        return self.v_threshold if self.family == "trsg" else None

    @property
    def unsettled(self) -> bool:
        """Whether ``settle`` still has to be called."""
        return self._make_membrane_norm is not None or isinstance(self.u_init, UninitializedParameter)

    def settle(self, x: Tensor | NormalisedCurrent) -> None:
        """Makes the parameters whose shape is that of the layer's input ``x`` (T, B, C, ...), where there are any."""
        shape = x.shape[2:]
        if isinstance(self.u_init, UninitializedParameter):
            self.u_init.materialize(shape)
            # The range of the authors' code.
            nn.init.uniform_(self.u_init, -0.2, 0.2)
        if self._make_membrane_norm is not None:
            # In the mode of the layer: a norm in training would take the statistics of the image that settles it.
            self.membrane_norm = self._make_membrane_norm(shape[0]).train(self.training)
            self._make_membrane_norm = None

    def dynamics(self, timesteps: int) -> Dynamics:
        """Returns the rules of this layer over a window of ``timesteps``."""
        return Dynamics(timesteps, self.family, self.surrogate, self.gamma, self.reset, self.detach_reset)

    def __prepare_scriptable__(self) -> None:
        """Refuses ``torch.jit.script``, which calls this. Raises UserError."""
        raise UserError(NO_TORCHSCRIPT)

    @property
    def _moves_u_init(self) -> bool:
        return self.mp_init and self.training and torch.is_grad_enabled()

    def extra_repr(self) -> str:
        values = [
            f"{name}={'meta' if value.is_meta else format(value.item(), '.4g')}"
            for name, value in (("v_threshold", self.v_threshold), ("tau", self.tau))
        ]
        rules = f"family={self.family}, surrogate={self.surrogate}, gamma={self.gamma}, reset={self.reset}"
        return f"{rules}, {', '.join(values)}, mp_init={self.mp_init}"


class TrSG(LIF):
    """The layer with the paper's method, ``neuron=trsg``: TrSG, learned V_thr and tau, MP-Init.

    changes: what is otherwise, as for ``LIF``.
    """

    def __init__(self, **changes: Any):
        method = {"family": "trsg", "learn_threshold": True, "learn_tau": True, "mp_init": True}
        super().__init__(**{**method, **changes})


def spiking_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yields (name, layer) for every spiking layer of ``model``, see ``SpikingLayer``, in definition order."""
    for name, module in model.named_modules():
        if isinstance(module, LIF | SpikingLayer):
            yield name, module
