"""The keys of ResNet-19."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from snnrepro.checks import in_range, one_of
from snnrepro.config import ModelOption, require_length
from snnrepro.options import HEADS
from snnrepro.registry import register

if TYPE_CHECKING:
    from torch import nn

    from snnrepro.models.parts import Parts


@register("model", "resnet19")
@dataclass(slots=True, kw_only=True)
class ResNet19Option(ModelOption):
    """Three stages behind a stem of its own width; three heads."""

    stem_width: int
    blocks: list[int]
    head: str
    hidden: int

    def __post_init__(self) -> None:
        ModelOption.__post_init__(self)
        require_length("model.widths", self.widths, 3, "model.arch=resnet19")
        require_length("model.blocks", self.blocks, 3, "model.arch=resnet19")
        in_range("model.stem_width", self.stem_width, 1)
        in_range("model.hidden", self.hidden, 1)
        one_of("model.head", self.head, HEADS)

    def build(self, parts: "Parts") -> "nn.Module":
        from snnrepro.models.resnet19 import ResNet19

        own: dict[str, Any] = {"stem_width": self.stem_width, "widths": self.widths, "blocks": self.blocks}
        return ResNet19(**own, head=self.head, hidden=self.hidden, **parts.arguments())
