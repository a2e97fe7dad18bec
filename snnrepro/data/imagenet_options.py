"""ImageNet from its folders."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from snnrepro.checks import in_range
from snnrepro.config import DatasetOption
from snnrepro.registry import register
from snnrepro.schema import elsewhere

if TYPE_CHECKING:
    from snnrepro.data.sets import Data


@register("dataset", "imagenet")
@dataclass(slots=True, kw_only=True)
class ImageNetOption(DatasetOption):
    """ILSVRC 2012, or random pixels in its place."""

    root: str = elsewhere()
    size: int
    synthetic: bool

    def __post_init__(self) -> None:
        DatasetOption.__post_init__(self)
        in_range("dataset.size", self.size, 8, 512)

    def load(self, *, seed: int, timesteps: int) -> "Data":
        from snnrepro.data import imagenet
        from snnrepro.data.sets import Data

        train, test, split, of_files = imagenet.load(Path(self.root), self.size, seed, self.synthetic)
        shape = (3, self.size, self.size)
        return Data(self.name, train, test, imagenet.CLASSES, shape, split, of_files, self.synthetic)
