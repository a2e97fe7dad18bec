"""What datasets of images, and frames that are treated as images, have in common."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from snnrepro.checks import in_range
from snnrepro.config import DatasetOption

if TYPE_CHECKING:
    from snnrepro.data.images import Source
    from snnrepro.data.sets import Data


@dataclass(slots=True, kw_only=True)
class CroppedOption(DatasetOption):
    """Training images are cropped at random from a padded one, and mirrored."""

    crop_padding: int
    flip: bool

    def __post_init__(self) -> None:
        DatasetOption.__post_init__(self)
        in_range("dataset.crop_padding", self.crop_padding, 0, 16)

    def read(self, timesteps: int) -> "Source":
        """Returns what is on disk, or made here. Raises DataError for missing or damaged files."""
        raise NotImplementedError

    def load(self, *, seed: int, timesteps: int) -> "Data":
        from snnrepro.data.sets import ready

        source = self.read(timesteps)
        padding, flip = self.crop_padding, self.flip
        return ready(self.name, source, seed=seed, crop_padding=padding, flip=flip, embedded=self.embedded)


def check_split(test_fraction: float, split_seed: int) -> None:
    """Raises ConfigError for a split that cannot be made."""
    in_range("dataset.test_fraction", test_fraction, 0.05, 0.5)
    in_range("dataset.split_seed", split_seed, 0, 2**32 - 1)


@dataclass(slots=True, kw_only=True)
class SplitOption(CroppedOption):
    """A dataset that is split here, by a seed of its own."""

    test_fraction: float
    split_seed: int

    def __post_init__(self) -> None:
        CroppedOption.__post_init__(self)
        check_split(self.test_fraction, self.split_seed)
