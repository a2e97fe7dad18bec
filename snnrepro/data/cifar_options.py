"""CIFAR-10 and CIFAR-100 from torchvision's archives."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from snnrepro.data.images_options import CroppedOption
from snnrepro.registry import register
from snnrepro.schema import elsewhere

if TYPE_CHECKING:
    from snnrepro.data.images import Source


@register("dataset", "cifar10", "cifar100")
@dataclass(slots=True, kw_only=True)
class CifarOption(CroppedOption):
    """CIFAR-10 or CIFAR-100, by its name."""

    root: str = elsewhere()
    download: bool = elsewhere()

    def read(self, timesteps: int) -> "Source":
        from snnrepro.data import cifar

        return cifar.load(self.name, Path(self.root), self.download)
