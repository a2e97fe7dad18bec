"""What the trainer, evaluation, penalties and optimiser groups ask of a spiking layer; what has it is one."""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from snnrepro.neurons.reference import LIFResult


@runtime_checkable
class SpikingLayer(Protocol):
    """A module from currents (T or 1, B, ...) to outputs (T, B, ...), above 0 where a neuron spiked.

    Its own parameters (not those of modules in it) are scalars of the neuron, decayed as such. v_threshold, tau,
    u_init: as they act, what is reported of the layer; their mean where there are several. output_scale: what a spike
    is multiplied with in the output, differentiable, 0-d; None: 1. unsettled: whether ``settle`` has to be called with
    the first input, before the layer has all its parameters.
    """

    @property
    def v_threshold(self) -> Tensor: ...
    @property
    def tau(self) -> Tensor: ...
    @property
    def u_init(self) -> Tensor: ...
    @property
    def output_scale(self) -> Tensor | None: ...
    @property
    def unsettled(self) -> bool: ...

    def settle(self, x: Any) -> None:
        """Makes what has the shape of the input (T, B, C, ...)."""

    def window(
        self, x: Any, timesteps: int | None = None, record: list[tuple[Tensor, Tensor]] | None = None
    ) -> LIFResult:
        """Returns what the forward leaves behind, and moves nothing. record: receives (m, s) of every step."""
