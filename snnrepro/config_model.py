"""The ``model`` group of the schema; the others are in ``config.py``."""

from dataclasses import dataclass

from snnrepro.checks import in_range, one_of, only_for
from snnrepro.errors import ConfigError
from snnrepro.options import ARCHS, CONNECTS, HEADS, STEMS

# The keys that some networks use and others do not.
_USED = {
    "resnet19": ("stem_width", "blocks", "head", "hidden"),
    "cnn7": ("hidden", "fc_spike"),
    "resnet34": ("stem", "blocks"),
    "sew_resnet34": ("stem", "blocks", "connect", "tie_thresholds"),
}


@dataclass(slots=True)
class ModelConfig:
    name: str
    arch: str
    stem: str | None
    stem_width: int | None
    widths: list[int]
    blocks: list[int] | None
    connect: str | None
    tie_thresholds: bool | None
    head: str | None
    hidden: int | None
    dropout: float
    dropout_per_step: bool
    fc_spike: bool | None

    def __post_init__(self) -> None:
        one_of("model.arch", self.arch, ARCHS)
        keys = {k: getattr(self, k) for k in ("stem", "stem_width", "blocks", "connect", "tie_thresholds", "head",
                                              "hidden", "fc_spike")}  # fmt: skip
        only_for("model", f"model.arch={self.arch}", keys, _USED[self.arch])
        stages = 4 if self.arch.endswith("resnet34") else 3
        if len(self.widths) != stages:
            raise ConfigError(f"model.widths={self.widths}: model.arch={self.arch} needs {stages} widths")
        if self.blocks is not None and len(self.blocks) != stages:
            raise ConfigError(f"model.blocks={self.blocks}: model.arch={self.arch} needs {stages} block counts")
        for key, values in (("widths", self.widths), ("blocks", self.blocks or [])):
            for value in values:
                in_range(f"model.{key}", value, 1)
        for key in ("stem_width", "hidden"):
            if getattr(self, key) is not None:
                in_range(f"model.{key}", getattr(self, key), 1)
        for key, names in (("head", HEADS), ("stem", STEMS), ("connect", CONNECTS)):
            if getattr(self, key) is not None:
                one_of(f"model.{key}", getattr(self, key), names)
        in_range("model.dropout", self.dropout, 0, 0.95)
