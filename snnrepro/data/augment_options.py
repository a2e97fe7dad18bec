"""The keys of augmentation."""

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from snnrepro.checks import in_range, one_of
from snnrepro.config import AugmentOption, RunConfig
from snnrepro.errors import ConfigError
from snnrepro.options import ERASERS
from snnrepro.registry import register

if TYPE_CHECKING:
    from snnrepro.data.sets import Data

_RAND_AUGMENT = re.compile(r"rand(-(m\d+(\.\d+)?|n\d+|p[01](\.\d+)?|mstd(\d+(\.\d+)?|inf)|mmax\d+|inc[01]|w0))*")


@register("augment", "crop_flip")
@dataclass(slots=True, kw_only=True)
class CropFlipOption(AugmentOption):
    """Crops and mirrors, as the dataset says."""

    def applied(self, data: "Data", seed: int) -> "Data":
        return data


@register("augment", "none")
@dataclass(slots=True, kw_only=True)
class NoneOption(AugmentOption):
    """Training images as they are stored."""

    def applied(self, data: "Data", seed: int) -> "Data":
        data.train.as_stored()
        return data


@register("augment", "timm")
@dataclass(slots=True, kw_only=True)
class TimmOption(AugmentOption):
    """RandAugment, erasing, mixup, cutmix and smooth labels, with timm's meanings."""

    rand_augment: str | None = None
    erase: float
    erase_with: str
    mixup: float
    cutmix: float
    mix_epochs: int | None = None
    smoothing: float

    def __post_init__(self) -> None:
        if self.rand_augment is not None and not _RAND_AUGMENT.fullmatch(self.rand_augment):
            raise ConfigError(f"augment.rand_augment={self.rand_augment}: write it as timm does, such as rand-m9-inc1")
        in_range("augment.erase", self.erase, 0, 1)
        one_of("augment.erase_with", self.erase_with, ERASERS)
        in_range("augment.mixup", self.mixup, 0, 100)
        in_range("augment.cutmix", self.cutmix, 0, 100)
        in_range("augment.smoothing", self.smoothing, 0, 0.99)
        if self.mix_epochs is not None:
            in_range("augment.mix_epochs", self.mix_epochs, 0)

    def check(self, run: RunConfig) -> None:
        if run.dataset.events and (self.rand_augment is not None or self.erase > 0):
            raise ConfigError(
                f"augment=timm: dataset={run.dataset.name} has frames of events, no images; leave out "
                "RandAugment and erasing with augment.rand_augment=null augment.erase=0"
            )
        if run.task.targets != "classes":
            raise ConfigError(f"augment=timm: mixes classes, and task={run.task.name} has none; use augment=crop_flip")

    def applied(self, data: "Data", seed: int) -> "Data":
        from snnrepro.data.mixed import MixedSet
        from snnrepro.data.strong import Strong

        train = data.train
        train.augment = Strong(train, seed, self.rand_augment, self.erase, self.erase_with)
        mixed = MixedSet(train, data.num_classes, seed, self.mixup, self.cutmix, self.mix_epochs, self.smoothing)
        return replace(data, train=mixed)
