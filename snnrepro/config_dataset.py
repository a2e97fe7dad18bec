"""The ``dataset`` group of the schema; the others are in ``config.py``."""

from dataclasses import dataclass

from snnrepro.checks import in_range, one_of, only_for, user_path
from snnrepro.options import CONTAINERS, DATASETS, EVENT_SPLITS, SLICES

_FILES = ("root", "download")
# The keys that some datasets use and others do not.
_USED = {
    "digits": ("test_fraction", "split_seed"),
    "synthetic": ("test_fraction", "split_seed", "samples"),
    "cifar10": _FILES,
    "cifar100": _FILES,
    "imagenet": ("root", "size", "synthetic"),
    "dvs_cifar10": (*_FILES, "container", "split", "slice_by", "size"),
    "digits_dvs": ("test_fraction", "split_seed", "slice_by", "size"),
    "cifar10_simdvs": (*_FILES, "slice_by", "size"),
}


@dataclass(slots=True)
class DatasetConfig:
    name: str
    root: str | None
    download: bool | None
    crop_padding: int
    flip: bool
    test_fraction: float | None
    split_seed: int | None
    samples: int | None
    container: str | None
    split: str | None
    slice_by: str | None
    size: int | None
    synthetic: bool | None

    def __post_init__(self) -> None:
        one_of("dataset.name", self.name, DATASETS)
        some = ("root", "download", "test_fraction", "split_seed", "samples", "container", "split", "slice_by", "size",
                "synthetic")  # fmt: skip
        used = _USED[self.name]
        if self.split == "random_seeded":
            used = (*used, "split_seed")
        only_for("dataset", f"dataset={self.name}", {key: getattr(self, key) for key in some}, used)
        if self.root is not None:
            self.root = user_path("dataset.root", self.root)
        for key, names in (("container", CONTAINERS), ("split", EVENT_SPLITS), ("slice_by", SLICES)):
            if getattr(self, key) is not None:
                one_of(f"dataset.{key}", getattr(self, key), names)
        in_range("dataset.crop_padding", self.crop_padding, 0, 16)
        if self.size is not None:
            in_range("dataset.size", self.size, 8, 512 if self.name == "imagenet" else 128)
        if self.test_fraction is not None:
            in_range("dataset.test_fraction", self.test_fraction, 0.05, 0.5)
        if self.split_seed is not None:
            in_range("dataset.split_seed", self.split_seed, 0, 2**32 - 1)
        if self.samples is not None:
            in_range("dataset.samples", self.samples, 40)
