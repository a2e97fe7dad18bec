"""Datasets by name: images in memory, their split, and loaders whose batches depend on (seed, epoch) alone."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from snnrepro.data.augment import crop_and_flip
from snnrepro.data.images import ImageSet, Source, digest
from snnrepro.data.loading import loader
from snnrepro.data.order import EpochOrder

__all__ = ["Data", "EpochOrder", "ImageSet", "build_data", "loader"]


@dataclass(frozen=True, slots=True)
class Data:
    """A dataset ready for training.

    in_shape: (C, H, W). split: how train and test were parted, for readers. digest: sha256 over indices, labels and
    pixels. embedded: shipped or made here, so results on it are not paper numbers.
    """

    name: str
    train: ImageSet
    test: ImageSet
    num_classes: int
    in_shape: tuple[int, int, int]
    split: str
    digest: str
    embedded: bool


def build_data(
    *,
    name: str,
    root: str | None,
    download: bool | None,
    crop_padding: int,
    flip: bool,
    test_fraction: float | None,
    split_seed: int | None,
    samples: int | None,
    seed: int,
) -> Data:
    """Returns the dataset ``name``; arguments as in the ``dataset`` group, None where it does not use one.

    seed: the run's, drives the augmentation of the training images. Raises DataError for missing or damaged files.
    """
    source = _load(name, root, download, test_fraction, split_seed, samples)
    augment = partial(crop_and_flip, seed=seed, padding=crop_padding, flip=flip) if crop_padding or flip else None
    make = partial(ImageSet, name, mean=source.mean, std=source.std)
    train, test = source.train, source.test
    channels, height, width = train.images.shape[1:]
    return Data(
        name=name,
        train=make(torch.from_numpy(train.images), torch.from_numpy(train.labels), augment=augment),
        test=make(torch.from_numpy(test.images), torch.from_numpy(test.labels)),
        num_classes=source.num_classes,
        in_shape=(channels, height, width),
        split=source.split,
        digest=digest(train, test),
        embedded=name in ("digits", "synthetic"),
    )


def _load(
    name: str,
    root: str | None,
    download: bool | None,
    test_fraction: float | None,
    split_seed: int | None,
    samples: int | None,
) -> Source:
    # Imported on demand: scikit-learn and torchvision take seconds to import, and a run needs one of them at most.
    if name == "digits":
        from snnrepro.data import digits

        assert test_fraction is not None and split_seed is not None
        return digits.load(test_fraction, split_seed)
    if name == "synthetic":
        from snnrepro.data import synthetic

        assert test_fraction is not None and split_seed is not None and samples is not None
        return synthetic.load(samples, test_fraction, split_seed)
    from snnrepro.data import cifar

    assert root is not None and download is not None
    return cifar.load(name, Path(root), download)
