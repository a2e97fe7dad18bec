"""Event datasets as frames: recordings of CIFAR10-DVS, and simulated ones of digits and of CIFAR-10."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from snnrepro import io
from snnrepro.data.events import files, simulate, slicing
from snnrepro.data.events.cache import Made, cached_frames
from snnrepro.data.events.reader import READERS
from snnrepro.data.events.splits import CLASSES
from snnrepro.data.events.splits import load as load_split
from snnrepro.data.images import Part, Source
from snnrepro.errors import DataError

_LUMA = np.array([0.299, 0.587, 0.114])


class Cut(NamedTuple):
    """How recordings become frames: ``timesteps`` of ``size`` x ``size`` pixels, by equal number or time."""

    timesteps: int
    by: str
    size: int


def find(root: Path, container: str, *, download: bool) -> list[Path]:
    """Returns the recordings of CIFAR10-DVS below ``root``, class by class. Raises DataError naming what is missing."""
    return files.find(root.expanduser().absolute(), container, download=download)


def recorded(paths: list[Path], root: Path, container: str, cut: Cut, split: str, split_seed: int | None) -> Source:
    """Returns CIFAR10-DVS as frames float16 (N, timesteps, 2, size, size): counts of events.

    Frames are made at the first use and mapped from a cache below ``root`` afterwards. Raises DataError for damaged
    recordings.
    """
    root, (timesteps, by, size) = root.expanduser().absolute(), cut
    per_class = len(paths) // len(CLASSES)
    content = {"container": container, "by": by, "timesteps": timesteps, "size": size}
    content["files"] = files.fingerprint(paths, root)
    make = partial(_read, paths=paths, container=container, timesteps=timesteps, by=by, size=size)
    frames, digest = cached_frames(root / "frames", content, len(paths), (timesteps, 2, size, size), make)
    labels = np.repeat(np.arange(len(CLASSES)), per_class)
    train, test = load_split(split, per_class, split_seed or 0)
    seed = f", split_seed {split_seed}" if split == "random_seeded" else ""
    return _source(
        frames, labels, train, test, f"{split}{seed}, {len(train)} train / {len(test)} test, {container}", digest
    )


def simulated(name: str, images: Source, cut: Cut, *, threshold: float) -> Source:
    """Returns frames as ``recorded`` does, of ``images`` that a simulated camera saw.

    threshold: the camera's, in log intensity. Frames are kept in the user's cache.
    """
    parts = (images.train, images.test)
    # Recordings are numbered, and cached, in the order of the images, whatever the split.
    shared = np.intersect1d(images.train.index, images.test.index).size > 0
    offset = len(images.train.index) if shared else 0
    index = np.concatenate([images.train.index, images.test.index + offset])
    pixels = np.concatenate([_grey(part.images) for part in parts])[np.argsort(index)]
    labels = np.concatenate([part.labels for part in parts])[np.argsort(index)]
    camera = simulate.Camera(cut.size, threshold)
    content = {"name": name, "by": cut.by, "timesteps": cut.timesteps, "camera": repr(camera)}
    make = partial(_simulate, images=pixels, camera=camera, timesteps=cut.timesteps, by=cut.by)
    shape = (cut.timesteps, 2, camera.sensor, camera.sensor)
    frames, digest = cached_frames(io.cache_home() / "frames", content, len(pixels), shape, make)
    train, test = images.train.index, images.test.index + offset
    return _source(frames, labels, train, test, f"{images.split}, simulated recordings", digest)


def _source(
    frames: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray, split: str, digest: str
) -> Source:
    if np.intersect1d(train, test).size:
        raise DataError(f"{split}: a recording is on both sides of the split")
    # Raw counts, as in the literature: nothing is subtracted or divided.
    mean, std = (0.0, 0.0), (1.0, 1.0)
    # The whole array is mapped once for both parts; each names the rows that are its own.
    first, second = (Part(index.astype(np.int64), frames, labels[index].astype(np.int64)) for index in (train, test))
    return Source(first, second, split, int(labels.max()) + 1, mean, std, digest)


def _grey(images: np.ndarray) -> np.ndarray:
    if images.shape[1] == 1:
        # Digits hold values 0..16.
        return np.minimum(images[:, 0].astype(np.int64) * 16, 255).astype(np.uint8)
    return np.rint(np.tensordot(images, _LUMA, (1, 0))).astype(np.uint8)


def _read(index: np.ndarray, *, paths: list[Path], container: str, timesteps: int, by: str, size: int) -> Made:
    torch.set_num_threads(1)
    read, _ = READERS[container]
    return _stored(((str(paths[i]), slicing.to_frames(read(paths[i]), timesteps, by, 128)) for i in index), size)


def _simulate(index: np.ndarray, *, images: np.ndarray, camera: simulate.Camera, timesteps: int, by: str) -> Made:
    torch.set_num_threads(1)
    events = simulate.record(images[index], index, 0, camera)
    counts = (slicing.to_frames(one, timesteps, by, camera.sensor) for one in events)
    return _stored(((f"simulated recording {i}", one) for i, one in zip(index, counts, strict=True)), camera.sensor)


def _stored(counts: Iterable[tuple[str, np.ndarray]], size: int) -> Made:
    """Returns frames (n, T, 2, size, size) of counts with the names of their recordings, and what was lost in them."""
    frames, remarks = [], []
    for source, one in counts:
        frames.append(slicing.resize(one, size))
        if remark := slicing.too_large(one):
            remarks.append(f"{source}: {remark}")
    return np.stack(frames), remarks
