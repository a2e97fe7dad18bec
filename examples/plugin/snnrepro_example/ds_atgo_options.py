"""The keys of DS-ATGO."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from snnrepro.checks import in_range, one_of
from snnrepro.config import NeuronOption, RunConfig
from snnrepro.registry import register

if TYPE_CHECKING:
    from torch import nn


@register("neuron", "ds_atgo")
@dataclass(slots=True, kw_only=True)
class DSATGOOption(NeuronOption):
    """Adaptive threshold and dynamic surrogate."""

    decay: float
    v_threshold: float
    f_c: float
    momentum: float
    width: float
    width_from: str

    def __post_init__(self) -> None:
        in_range("neuron.decay", self.decay, 0, 0.9999, open_low=True)
        in_range("neuron.v_threshold", self.v_threshold, 0, 1e6, open_low=True)
        in_range("neuron.f_c", self.f_c, 0, 100, open_low=True)
        in_range("neuron.momentum", self.momentum, 0, 1, open_low=True)
        in_range("neuron.width", self.width, 0, 1e6, open_low=True)
        one_of("neuron.width_from", self.width_from, ("deviation", "threshold"))

    def factory(self, run: RunConfig) -> Callable[..., "nn.Module"]:
        from snnrepro_example.ds_atgo import DSATGO

        given = {"decay": self.decay, "v_threshold": self.v_threshold, "f_c": self.f_c, "momentum": self.momentum}
        return partial(DSATGO, timesteps=run.timesteps, width=self.width, width_from=self.width_from, **given)
