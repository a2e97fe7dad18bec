"""Event datasets: recordings of CIFAR10-DVS, and simulated ones of digits and of CIFAR-10."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from snnrepro.checks import in_range, one_of
from snnrepro.data.images_options import CroppedOption, check_split
from snnrepro.errors import ConfigError
from snnrepro.options import CONTAINERS, EVENT_SPLITS, SLICES
from snnrepro.registry import register
from snnrepro.schema import elsewhere

if TYPE_CHECKING:
    from snnrepro.data.images import Source


@dataclass(slots=True, kw_only=True)
class FramesOption(CroppedOption):
    """Recordings cut into T frames."""

    events: ClassVar[bool] = True
    slice_by: str
    size: int

    def __post_init__(self) -> None:
        CroppedOption.__post_init__(self)
        one_of("dataset.slice_by", self.slice_by, SLICES)
        in_range("dataset.size", self.size, 8, 128)


@dataclass(slots=True, kw_only=True)
class FilesOption(FramesOption):
    """Frames made from the user's files, which can be downloaded."""

    root: str = elsewhere()
    download: bool = elsewhere()


@register("dataset", "dvs_cifar10")
@dataclass(slots=True, kw_only=True)
class DVSCIFAR10Option(FilesOption):
    """CIFAR10-DVS: 10,000 recordings of an event camera."""

    container: str
    split: str
    split_seed: int | None = None

    def __post_init__(self) -> None:
        FilesOption.__post_init__(self)
        one_of("dataset.container", self.container, CONTAINERS)
        one_of("dataset.split", self.split, EVENT_SPLITS)
        if self.split == "random_seeded":
            in_range("dataset.split_seed", self.split_seed, 0, 2**32 - 1)
        elif self.split_seed is not None:
            raise ConfigError(
                f"dataset.split_seed={self.split_seed}: dataset.split={self.split} does not use it; leave it out"
            )

    def read(self, timesteps: int) -> "Source":
        from snnrepro.data.events import dataset

        paths = dataset.find(Path(self.root), self.container, download=self.download)
        cut = dataset.Cut(timesteps, self.slice_by, self.size)
        return dataset.recorded(paths, Path(self.root), self.container, cut, self.split, self.split_seed)


@register("dataset", "digits_dvs")
@dataclass(slots=True, kw_only=True)
class DigitsDVSOption(FramesOption):
    """Simulated recordings of scikit-learn's digits."""

    embedded: ClassVar[bool] = True
    test_fraction: float
    split_seed: int

    def __post_init__(self) -> None:
        FramesOption.__post_init__(self)
        check_split(self.test_fraction, self.split_seed)

    def read(self, timesteps: int) -> "Source":
        from snnrepro.data import digits
        from snnrepro.data.events import dataset

        images = digits.load(self.test_fraction, self.split_seed)
        # Black strokes on white send several times the events of a photograph: a higher threshold keeps them alike.
        return dataset.simulated(self.name, images, dataset.Cut(timesteps, self.slice_by, self.size), threshold=0.5)


@register("dataset", "cifar10_simdvs")
@dataclass(slots=True, kw_only=True)
class CIFAR10SimDVSOption(FilesOption):
    """Simulated recordings of CIFAR-10."""

    def read(self, timesteps: int) -> "Source":
        from snnrepro.data import cifar
        from snnrepro.data.events import dataset

        images = cifar.load("cifar10", Path(self.root), self.download)
        return dataset.simulated(self.name, images, dataset.Cut(timesteps, self.slice_by, self.size), threshold=0.2)
