"""ImageNet (ILSVRC 2012) from its folders: ``train/<class>/*.JPEG`` and ``val/<class>/*.JPEG``, decoded on demand.

Crops are a function of (seed, epoch, index), so neither workers nor ranks nor a resumed run change them.
"""

import hashlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from snnrepro.data.decode import decode
from snnrepro.data.draw import AUGMENT, generator
from snnrepro.data.images import ImageSet
from snnrepro.errors import DataError

CLASSES, TRAIN, TEST = 1000, 1_281_167, 50_000
# Of the pixels, for values in 0..255; torchvision's, which the paper's code uses.
MEAN = tuple(255 * value for value in (0.485, 0.456, 0.406))
STD = tuple(255 * value for value in (0.229, 0.224, 0.225))
# Share of the shorter side that evaluation cuts out: 224 of 256.
_CENTRE = 224 / 256


class FolderSet(ImageSet):
    """Images in files, decoded when a batch asks for them.

    files: paths; labels: int64 (N,). size: pixels along each side. seed: of the crops, None for evaluation: the shorter
    side resized to size * 256 / 224, the centre cut out.
    """

    def __init__(self, name: str, files: list[str], labels: Tensor, size: int, seed: int | None):
        super().__init__(name, torch.empty(0), labels, mean=MEAN, std=STD)
        self.files, self.size, self.seed = files, size, seed

    def __getitems__(self, keys: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Returns images uint8 (B, 3, size, size) and labels int64 (B,) of (epoch, index). Raises DataError."""
        images = torch.stack([self._image(epoch, index) for epoch, index in keys])
        if self.augment is not None:
            images = torch.from_numpy(self.augment(images.numpy(), *np.array(keys, dtype=np.int64).T))
        return images, self.labels[torch.tensor([index for _, index in keys])]

    def as_stored(self) -> None:
        """Turns off what is random about the images: crops and mirrors."""
        super().as_stored()
        self.seed = None

    def where(self, index: int) -> str:
        """Returns the file of sample ``index``."""
        return self.files[index]

    def _image(self, epoch: int, index: int) -> Tensor:
        image = decode(self.files[index])
        size = [self.size, self.size]
        if self.seed is None:
            image = F.resize(image, [round(self.size / _CENTRE)], antialias=True)
            return F.center_crop(image, size)
        draw = generator(self.seed, AUGMENT, epoch, index)
        top, left, height, width = random_crop(image.shape[-2], image.shape[-1], draw)
        image = F.resized_crop(image, top, left, height, width, size, antialias=True)
        return F.horizontal_flip(image) if draw.random() < 0.5 else image


class SyntheticSet(ImageSet):
    """Random pixels in the shape of the real ones: what is left of a step's time is not the loader's."""

    def __init__(self, name: str, count: int, size: int):
        super().__init__(name, torch.empty(0), torch.arange(count) % CLASSES, mean=MEAN, std=STD)
        self.pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, size, size), dtype=np.uint8))

    def __getitems__(self, keys: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Returns one random image for all, uint8 (B, 3, size, size), and labels int64 (B,)."""
        index = torch.tensor([index for _, index in keys])
        return self.pixels.expand(len(keys), *self.pixels.shape).contiguous(), self.labels[index]


def random_crop(height: int, width: int, draw: np.random.Generator) -> tuple[int, int, int, int]:
    """Returns (top, left, height, width) of a crop with 8 to 100 % of the area and a ratio of 3/4 to 4/3.

    As torchvision's RandomResizedCrop: ten attempts, then the largest centred crop with a ratio in that range.
    """
    low, high = 3 / 4, 4 / 3
    for _ in range(10):
        area = height * width * draw.uniform(0.08, 1.0)
        ratio = math.exp(draw.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(draw.integers(0, height - h + 1)), int(draw.integers(0, width - w + 1)), h, w
    w, h = width, height
    if width / height < low:
        h = round(width / low)
    elif width / height > high:
        w = round(height * high)
    return (height - h) // 2, (width - w) // 2, h, w


def load(root: Path, size: int, seed: int, synthetic: bool) -> tuple[ImageSet, ImageSet, str, str]:
    """Returns (train, test, split, digest). Raises DataError naming what is missing and how it should look."""
    if synthetic:
        sets = (SyntheticSet("imagenet", TRAIN, size), SyntheticSet("imagenet", TEST, size))
        return *sets, f"synthetic pixels, {TRAIN} train / {TEST} test", hashlib.sha256(b"synthetic").hexdigest()
    root = root.expanduser().absolute()
    passed: list[str] = []
    names = _classes(root / "train", passed)
    if len(names) != CLASSES:
        raise DataError(f"{root / 'train'}: {len(names)} class folders, ImageNet has {CLASSES}; unpack all archives")
    found, hasher = [], hashlib.sha256()
    for part, count in (("train", TRAIN), ("val", TEST)):
        others = names if part == "train" else _classes(root / part, passed)
        if others != names:
            odd = sorted(set(names) ^ set(others))[0]
            raise DataError(f"{root / part}: its class folders are not those of train, first {odd}; sort val by class")
        files = [(label, file) for label, name in enumerate(names) for file in _files(root / part / name, passed)]
        if len(files) != count:
            raise DataError(f"{root / part}: {len(files)} images, ImageNet has {count}; unpack its archives again")
        for _, file in files:
            hasher.update(file[len(str(root)) :].encode(errors="surrogateescape") + b"\n")
        labels = torch.tensor([label for label, _ in files])
        found.append(
            FolderSet("imagenet", [file for _, file in files], labels, size, seed if part == "train" else None)
        )
    if passed:
        more = f" and {len(passed) - 1} more" if len(passed) > 1 else ""
        print(f"passed over, as neither classes nor images: {passed[0]}{more}", flush=True)
    return found[0], found[1], f"published, {TRAIN} train / {TEST} test", hasher.hexdigest()


def _entries(folder: Path, passed: list[str]) -> list[os.DirEntry]:
    """Returns what is in a folder by name, whatever its order; names that systems and archives add go to ``passed``."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot read: {error.strerror}; check the folder and its rights") from None
    passed += [entry.path for entry in entries if _foreign(entry.name)]
    return [entry for entry in entries if not _foreign(entry.name)]


def _foreign(name: str) -> bool:
    return name.startswith((".", "__MACOSX", "@eaDir", "$RECYCLE.BIN")) or name in ("lost+found", "Thumbs.db")


def _classes(folder: Path, passed: list[str]) -> list[str]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; set dataset.root to the folder that holds train/ and val/")
    entries = _entries(folder, passed)
    passed += [entry.path for entry in entries if not entry.is_dir()]
    return [entry.name for entry in entries if entry.is_dir()]


def _files(folder: Path, passed: list[str]) -> Iterator[str]:
    """Yields the images of a class in the order of their names. Raises DataError for what cannot be one."""
    for entry in _entries(folder, passed):
        if not entry.name.lower().endswith((".jpeg", ".jpg", ".png")):
            passed.append(entry.path)
            continue
        if not entry.is_file():
            raise DataError(f"{entry.path}: not a file, or a link to nowhere; unpack its archive again")
        if entry.stat().st_size == 0:
            raise DataError(f"{entry.path}: empty file; unpack its archive again")
        yield entry.path
