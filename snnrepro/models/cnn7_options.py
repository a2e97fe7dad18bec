"""The keys of the 7-layer CNN."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from snnrepro.checks import in_range
from snnrepro.config import ModelOption, require_length
from snnrepro.registry import register

if TYPE_CHECKING:
    from torch import nn

    from snnrepro.models.parts import Parts


@register("model", "cnn7")
@dataclass(slots=True, kw_only=True)
class CNN7Option(ModelOption):
    """Convolutions of three widths, and two linear layers with or without a neuron between them."""

    hidden: int
    fc_spike: bool

    def __post_init__(self) -> None:
        ModelOption.__post_init__(self)
        require_length("model.widths", self.widths, 3, "model.arch=cnn7")
        in_range("model.hidden", self.hidden, 1)

    def build(self, parts: "Parts") -> "nn.Module":
        from snnrepro.models.cnn7 import CNN7

        return CNN7(widths=self.widths, hidden=self.hidden, fc_spike=self.fc_spike, **parts.arguments())
