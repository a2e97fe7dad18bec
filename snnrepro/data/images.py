"""Labelled images or frames: what a source delivers, what is trained on, and the digest of both."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


@dataclass(frozen=True, slots=True)
class Part:
    """One side of a split: index int64 (N,), ascending; images (N, C, H, W); labels int64 (N,).

    Images are uint8 and those of this side. Frames of events, (M, T, 2, H, W), are those of the whole dataset, mapped
    from disk, and ``index`` names the rows of this side.
    """

    index: np.ndarray
    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, slots=True)
class Source:
    """A dataset before augmentation. mean, std: per channel, in stored units. digest: of frames, None for images."""

    train: Part
    test: Part
    split: str
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str | None = None


def take(images: np.ndarray, labels: np.ndarray, index: np.ndarray) -> Part:
    """Returns the part of a dataset that ``index`` selects, in ascending order."""
    index = np.sort(index).astype(np.int64)
    return Part(index, np.ascontiguousarray(images[index]), labels[index].astype(np.int64))


def digest(train: Part, test: Part, of_frames: str | None = None) -> str:
    """Returns the hex sha256 over indices, labels and pixels of both parts: what was trained and tested on.

    of_frames: the digest that frames have already, in place of their pixels.
    """
    hasher = hashlib.sha256()
    for part in (train, test):
        hasher.update(repr(part.images.shape).encode())
        hasher.update(part.index.astype("<i8").tobytes())
        hasher.update(part.labels.astype("<i8").tobytes())
        hasher.update(np.ascontiguousarray(part.images).data if of_frames is None else of_frames.encode())
    return hasher.hexdigest()


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns (mean, std) per channel of uint8 images (N, C, H, W)."""
    # Integer sums are exact, so the statistics do not depend on the summation order of a numpy version.
    values = images.astype(np.int64)
    count = images.size // images.shape[1]
    mean = values.sum((0, 2, 3)) / count
    std = np.sqrt((values**2).sum((0, 2, 3)) / count - mean**2)
    return tuple(mean.tolist()), tuple(std.tolist())


@cache
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    # Kept on the device: a copy from the host in every step would make the GPU wait.
    return torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)


class ImageSet(Dataset):
    """Images that a loader fetches a batch at a time, as stored: uint8 is a quarter of the bytes to move to a device.

    images: uint8 (N, C, H, W), or frames float16 (M, T, C, H, W). labels: int64 (N,). rows: where among the images the
    samples of this set lie, int64 (N,), or None for all. mean and std: per channel in stored units.
    augment(images, epoch, index) -> images, all numpy, or None for a test set.
    """

    def __init__(
        self,
        name: str,
        images: Tensor,
        labels: Tensor,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        rows: np.ndarray | None = None,
        augment: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None = None,
    ):
        self.name, self.images, self.labels = name, images, labels
        self.mean, self.std, self.rows = tuple(mean), tuple(std), rows
        self.augment = augment

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, keys: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Returns stored images (B, ...), augmented where the set is, and labels int64 (B,) of (epoch, index)."""
        epoch, index = np.array(keys, dtype=np.int64).T
        images = self.images.numpy()[index if self.rows is None else self.rows[index]]
        if self.augment is not None:
            images = self.augment(images, epoch, index)
        return torch.from_numpy(images), self.labels[torch.from_numpy(index)]

    def as_stored(self) -> None:
        """Turns off what is random about the images."""
        self.augment = None

    def where(self, index: int) -> str:
        """Returns in words which sample is number ``index`` of this set."""
        return f"sample {index}" if self.rows is None else f"recording {self.rows[index]}"

    def normalise(self, images: Tensor) -> Tensor:
        """Returns float32 images with the set's mean and std removed per channel, on the device of ``images``."""
        mean, std = (_per_channel(values, images.device) for values in (self.mean, self.std))
        return (images.float() - mean) / std
