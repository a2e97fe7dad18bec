"""What every network is made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from torch import nn


class MakeNeuron(Protocol):
    """Makes a spiking layer, see ``neurons/protocol.py``; changes: what is otherwise in this one."""

    def __call__(self, **changes: Any) -> nn.Module: ...


class MakeNorm(Protocol):
    """Makes a norm of sequences (T, B, C, ...); residual: whether it feeds a residual sum."""

    def __call__(self, channels: int, residual: bool) -> nn.Module: ...


MakeDropout = Callable[[], nn.Module]


@dataclass(frozen=True, slots=True)
class Parts:
    """The arguments that all networks take.

    in_shape: (C, H, W) of one frame. timesteps: T for static images when a call names none. mean_over_time: whether
    the logits are averaged over T. make_neuron(**changes), make_norm(channels, residual=...), make_dropout().
    """

    in_shape: Sequence[int]
    num_classes: int
    timesteps: int
    mean_over_time: bool
    make_neuron: MakeNeuron
    make_norm: MakeNorm
    make_dropout: MakeDropout

    def arguments(self) -> dict[str, Any]:
        """Returns them by name, as a network takes them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
