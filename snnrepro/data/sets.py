"""A dataset that is ready for training: images in memory, and how they were split."""

from dataclasses import dataclass
from functools import partial

import torch

from snnrepro.data.augment import crop_and_flip
from snnrepro.data.images import ImageSet, Source, digest


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


def ready(
    name: str, source: Source, *, seed: int, crop_padding: int = 0, flip: bool = False, embedded: bool = False
) -> Data:
    """Returns what a loader read as the dataset ``name``.

    seed: the run's, drives the augmentation of the training images: a random crop from ``crop_padding`` pixels more
    around them, and a mirrored image half of the time where ``flip``.
    """
    augment = partial(crop_and_flip, seed=seed, padding=crop_padding, flip=flip) if crop_padding or flip else None
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
        embedded=embedded,
    )
