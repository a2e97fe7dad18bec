"""The keys of a dataset in folders."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from snnrepro.checks import in_range, one_of
from snnrepro.data.images_options import CroppedOption
from snnrepro.registry import register
from snnrepro.schema import elsewhere

if TYPE_CHECKING:
    from snnrepro.data.images import Source


@register("dataset", "folders")
@dataclass(slots=True, kw_only=True)
class FoldersOption(CroppedOption):
    """Images in ROOT/train/CLASS/ and ROOT/test/CLASS/."""

    root: str = elsewhere()
    size: int
    channels: int

    def __post_init__(self) -> None:
        CroppedOption.__post_init__(self)
        in_range("dataset.size", self.size, 4, 512)
        one_of("dataset.channels", str(self.channels), ("1", "3"))

    def read(self, timesteps: int) -> "Source":
        from snnrepro_example import folders

        return folders.load(Path(self.root), self.size, self.channels)
