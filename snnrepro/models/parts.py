"""What every network is made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import nn


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
    make_neuron: Callable[..., nn.Module]
    make_norm: Callable[..., nn.Module]
    make_dropout: Callable[[], nn.Module]

    def arguments(self) -> dict[str, Any]:
        """Returns them by name, as a network takes them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
