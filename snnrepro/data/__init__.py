"""Datasets by name: images in memory, their split, and loaders whose batches depend on (seed, epoch) alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from snnrepro.data.augment import crop_and_flip
from snnrepro.data.images import ImageSet, Source, digest
from snnrepro.data.loading import loader
from snnrepro.data.order import EpochOrder
from snnrepro.options import EMBEDDED, EVENT_DATASETS

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


def build_data(name: str, options: Mapping[str, Any], *, seed: int, timesteps: int) -> Data:
    """Returns the dataset ``name``; options: the keys of the ``dataset`` group, None where it does not use one.

    seed: the run's, drives the augmentation of the training images. timesteps: the frames of a recording of events.
    Raises DataError for missing or damaged files.
    """
    if name == "imagenet":
        return _imagenet(options, seed)
    source = _load(name, options, timesteps)
    padding, flip = options["crop_padding"], options["flip"]
    augment = partial(crop_and_flip, seed=seed, padding=padding, flip=flip) if padding or flip else None
    make = partial(ImageSet, name, mean=source.mean, std=source.std)
    train, test = source.train, source.test
    # One mapping of a whole dataset's frames serves both sides.
    rows = (None, None) if source.digest is None else (train.index, test.index)
    channels, height, width = train.images.shape[-3:]
    return Data(
        name=name,
        train=make(torch.from_numpy(train.images), torch.from_numpy(train.labels), rows=rows[0], augment=augment),
        test=make(torch.from_numpy(test.images), torch.from_numpy(test.labels), rows=rows[1]),
        num_classes=source.num_classes,
        in_shape=(channels, height, width),
        split=source.split,
        digest=digest(train, test, source.digest),
        embedded=name in EMBEDDED,
    )


def _imagenet(options: Mapping[str, Any], seed: int) -> Data:
    from snnrepro.data import imagenet

    size, synthetic = options["size"], bool(options["synthetic"])
    train, test, split, of_files = imagenet.load(Path(options["root"]), size, seed, synthetic)
    return Data("imagenet", train, test, imagenet.CLASSES, (3, size, size), split, of_files, synthetic)


def _load(name: str, options: Mapping[str, Any], timesteps: int) -> Source:
    # Imported on demand: scikit-learn and torchvision take seconds to import, and a run needs one of them at most.
    if name == "digits":
        from snnrepro.data import digits

        return digits.load(options["test_fraction"], options["split_seed"])
    if name == "synthetic":
        from snnrepro.data import synthetic

        return synthetic.load(options["samples"], options["test_fraction"], options["split_seed"])
    if name in EVENT_DATASETS:
        from snnrepro.data.events import dataset

        return dataset.load(name, options, timesteps)
    from snnrepro.data import cifar

    return cifar.load(name, Path(options["root"]), options["download"])
