"""The keys of ResNet-34 and SEW-ResNet-34."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from snnrepro.checks import one_of
from snnrepro.config import ModelOption, RunConfig, require_length
from snnrepro.errors import ConfigError
from snnrepro.options import CONNECTS, STEMS
from snnrepro.registry import register

if TYPE_CHECKING:
    from torch import nn

    from snnrepro.models.parts import Parts


@register("model", "resnet34")
@dataclass(slots=True, kw_only=True)
class ResNet34Option(ModelOption):
    """Four stages of basic blocks, whose shortcuts add into currents."""

    stem: str
    blocks: list[int]

    def __post_init__(self) -> None:
        ModelOption.__post_init__(self)
        require_length("model.widths", self.widths, 4, f"model.arch={self.arch}")
        require_length("model.blocks", self.blocks, 4, f"model.arch={self.arch}")
        one_of("model.stem", self.stem, STEMS)

    def build(self, parts: "Parts") -> "nn.Module":
        return self._network(parts, connect=None, tie_thresholds=False)

    def _network(self, parts: "Parts", connect: str | None, tie_thresholds: bool) -> "nn.Module":
        from snnrepro.models.resnet34 import ResNet34

        own: dict[str, Any] = {"stem": self.stem, "widths": self.widths, "blocks": self.blocks}
        return ResNet34(**own, connect=connect, tie_thresholds=tie_thresholds, **parts.arguments())


@register("model", "sew_resnet34")
@dataclass(slots=True, kw_only=True)
class SEWResNet34Option(ResNet34Option):
    """The same, with blocks that join spikes."""

    connect: str
    tie_thresholds: bool

    def __post_init__(self) -> None:
        ResNet34Option.__post_init__(self)
        one_of("model.connect", self.connect, CONNECTS)

    def check(self, run: RunConfig) -> None:
        family = getattr(run.neuron, "family", None)
        if self.connect in ("and", "iand") and family == "trsg":
            raise ConfigError(
                f"model.connect={self.connect}: needs spikes of 0 and 1, and neuron.family=trsg emits V_thr; "
                "use model.connect=add or neuron=rs_sg"
            )

    def build(self, parts: "Parts") -> "nn.Module":
        return self._network(parts, self.connect, self.tie_thresholds)
