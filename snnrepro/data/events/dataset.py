"""Event datasets as frames: recordings of CIFAR10-DVS, and simulated ones of digits and of CIFAR-10."""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

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

# Black strokes on white send several times the events of a photograph: a higher threshold keeps the counts alike.
_THRESHOLD = {"digits_dvs": 0.5, "cifar10_simdvs": 0.2}
_LUMA = np.array([0.299, 0.587, 0.114])


def load(name: str, options: Mapping[str, Any], timesteps: int) -> Source:
    """Returns the event dataset ``name`` as frames float16 (N, timesteps, 2, size, size): counts of events.

    options: keys of the ``dataset`` group. Frames are made at the first use and mapped from a cache afterwards. Raises
    DataError for missing or damaged recordings.
    """
    return _recorded(options, timesteps) if name == "dvs_cifar10" else _simulated(name, options, timesteps)


def _recorded(options: Mapping[str, Any], timesteps: int) -> Source:
    root, container = Path(options["root"]).expanduser().absolute(), options["container"]
    paths = files.find(root, container, download=options["download"])
    per_class = len(paths) // len(CLASSES)
    content = {"container": container, "by": options["slice_by"], "timesteps": timesteps, "size": options["size"]}
    content["files"] = files.fingerprint(paths, root)
    shape = (timesteps, 2, options["size"], options["size"])
    make = partial(
        _read, paths=paths, container=container, timesteps=timesteps, by=options["slice_by"], size=options["size"]
    )
    frames, digest = cached_frames(root / "frames", content, len(paths), shape, make)
    labels = np.repeat(np.arange(len(CLASSES)), per_class)
    train, test = load_split(options["split"], per_class, options["split_seed"] or 0)
    seed = f", split_seed {options['split_seed']}" if options["split"] == "random_seeded" else ""
    split = f"{options['split']}{seed}, {len(train)} train / {len(test)} test, {container}"
    return _source(frames, labels, train, test, split, digest)


def _simulated(name: str, options: Mapping[str, Any], timesteps: int) -> Source:
    if name == "digits_dvs":
        from snnrepro.data import digits

        images = digits.load(options["test_fraction"], options["split_seed"])
    else:
        from snnrepro.data import cifar

        images = cifar.load("cifar10", Path(options["root"]), options["download"])
    parts = (images.train, images.test)
    # Recordings are numbered, and cached, in the order of the images, whatever the split.
    offset = 0 if name == "digits_dvs" else len(images.train.index)
    index = np.concatenate([images.train.index, images.test.index + offset])
    pixels = np.concatenate([_grey(part.images) for part in parts])[np.argsort(index)]
    labels = np.concatenate([part.labels for part in parts])[np.argsort(index)]
    camera = simulate.Camera(options["size"], _THRESHOLD[name])
    content = {"name": name, "by": options["slice_by"], "timesteps": timesteps, "camera": repr(camera)}
    make = partial(_simulate, images=pixels, camera=camera, timesteps=timesteps, by=options["slice_by"])
    shape = (timesteps, 2, camera.sensor, camera.sensor)
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
