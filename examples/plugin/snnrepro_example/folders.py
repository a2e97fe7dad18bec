"""Images in folders, one for each class, read into memory at one size."""

from pathlib import Path

import numpy as np
from PIL import Image

from snnrepro.data.images import Part, Source, channel_statistics
from snnrepro.errors import DataError


def load(root: Path, size: int, channels: int) -> Source:
    """Returns train and test images (N, channels, size, size). Raises DataError naming what is missing or no image."""
    classes = _classes(root / "train")
    if _classes(root / "test") != classes:
        raise DataError(f"{root / 'test'}: other classes than in {root / 'train'}; give both the same folders")
    train, test = (_part(root / side, classes, size, channels) for side in ("train", "test"))
    split = f"{len(train.labels)} train, {len(test.labels)} test, as in the folders"
    return Source(train, test, split, len(classes), *channel_statistics(train.images))


def _classes(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if len(names) < 2:
        raise DataError(f"{folder}: needs a folder for each of two classes or more; set dataset.root")
    return names


def _part(folder: Path, classes: list[str], size: int, channels: int) -> Part:
    files = [(file, label) for label, name in enumerate(classes) for file in sorted((folder / name).iterdir())]
    images = np.stack([_image(file, size, channels) for file, _ in files])
    return Part(np.arange(len(files)), images, np.array([label for _, label in files]))


def _image(file: Path, size: int, channels: int) -> np.ndarray:
    try:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB").resize((size, size)))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{file}: not an image that can be read ({type(error).__name__}); remove or replace it"
        ) from None
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
