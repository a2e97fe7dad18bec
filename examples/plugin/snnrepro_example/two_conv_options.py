"""The keys of the network."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from snnrepro.config import ModelOption, require_length
from snnrepro.registry import register

if TYPE_CHECKING:
    from torch import nn

    from snnrepro.models.parts import Parts


@register("model", "two_conv")
@dataclass(slots=True, kw_only=True)
class TwoConvOption(ModelOption):
    """Two convolutions, the second at half the size."""

    def __post_init__(self) -> None:
        ModelOption.__post_init__(self)
        require_length("model.widths", self.widths, 2, "model.arch=two_conv")

    def build(self, parts: "Parts") -> "nn.Module":
        from snnrepro_example.two_conv import TwoConv

        return TwoConv(self.widths, parts)
