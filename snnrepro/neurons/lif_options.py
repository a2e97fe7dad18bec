"""The keys of LIF neurons, and of the shapes of their surrogate gradient."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from snnrepro.checks import in_range, one_of
from snnrepro.config import NeuronOption, RunConfig, SurrogateOption
from snnrepro.errors import ConfigError
from snnrepro.options import FAMILIES, INPUT_SCALES, RESETS, SURROGATES, THRESHOLD_MAPS
from snnrepro.registry import register

if TYPE_CHECKING:
    from snnrepro.models.parts import MakeNeuron

register("surrogate", *SURROGATES)(SurrogateOption)


@dataclass(slots=True, kw_only=True)
class MPInitConfig:
    enabled: bool
    beta: float

    def __post_init__(self) -> None:
        in_range("neuron.mp_init.beta", self.beta, 0, 1, open_low=True)


@register("neuron", "lif")
@dataclass(slots=True, kw_only=True)
class LIFOption(NeuronOption):
    """Every built-in neuron: LIF with MP-Init, three families of gradients, learned parameters."""

    family: str
    v_threshold: float
    tau: float
    learn_threshold: bool
    learn_tau: bool
    reset: str
    detach_reset: bool
    mp_init: MPInitConfig
    threshold_map: str
    input_scale: str
    learn_u_init: bool
    smoothing: float | None = None

    def __post_init__(self) -> None:
        one_of("neuron.family", self.family, FAMILIES)
        one_of("neuron.threshold_map", self.threshold_map, THRESHOLD_MAPS)
        one_of("neuron.input_scale", self.input_scale, INPUT_SCALES)
        if self.threshold_map == "tanh":
            in_range("neuron.v_threshold", self.v_threshold, 1e-30, 0.999)
            if self.family != "as_sg":
                raise ConfigError(
                    f"neuron.family={self.family}: divides by a threshold that neuron.threshold_map=tanh lets pass 0; "
                    "use neuron.family=as_sg or neuron.threshold_map=softplus"
                )
        if self.smoothing is not None:
            in_range("neuron.smoothing", self.smoothing, 1e-6, 1 - 1e-6)
        if self.learn_u_init and self.mp_init.enabled:
            raise ConfigError(
                "neuron.learn_u_init=true: IMP and MP-Init both set the first membrane; "
                "add neuron.mp_init.enabled=false"
            )
        one_of("neuron.reset", self.reset, RESETS)
        in_range("neuron.v_threshold", self.v_threshold, 1e-30, 1e30)
        in_range("neuron.tau", self.tau, 1, 1e6, open_low=True)

    def check(self, run: RunConfig) -> None:
        if self.smoothing is not None and run.runtime.backend != "reference":
            raise ConfigError(
                f"runtime.backend={run.runtime.backend}: neuron.smoothing needs runtime.backend=reference"
            )

    def factory(self, run: RunConfig) -> "MakeNeuron":
        from snnrepro.neurons import LIF
        from snnrepro.runtime import resolve_backend

        return partial(
            LIF,
            family=self.family,
            surrogate=run.surrogate.name,
            gamma=run.surrogate.gamma,
            reset=self.reset,
            detach_reset=self.detach_reset,
            v_threshold=self.v_threshold,
            tau=self.tau,
            learn_threshold=self.learn_threshold,
            learn_tau=self.learn_tau,
            mp_init=self.mp_init.enabled,
            beta=self.mp_init.beta,
            backend=resolve_backend(run.runtime.backend, run.runtime.device),
            threshold_map=self.threshold_map,
            input_scale=self.input_scale,
            learn_u_init=self.learn_u_init,
            smoothing=self.smoothing,
            membrane_norm=run.norm.of_membrane(),
        )
