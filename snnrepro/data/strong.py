"""RandAugment and erasing of whole batches, each image's draw a function of (seed, epoch, index)."""

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image
from timm.data.auto_augment import rand_augment_transform

from snnrepro.data.draw import ERASE, RAND_AUGMENT, generator, random_bits
from snnrepro.data.images import ImageSet

Augment = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


class Strong:
    """An augmentation behind the one that ``images`` has: images (B, C, H, W) uint8 to uint8, float32 where erased.

    rand_augment: timm's description, or None. erase: the share of images that lose a rectangle. erase_with: noise or
    mean.
    """

    def __init__(self, images: ImageSet, seed: int, rand_augment: str | None, erase: float, erase_with: str):
        self.before, self.seed, self.erase, self.erase_with = images.augment, seed, erase, erase_with
        self.mean, self.std = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (images.mean, images.std))
        self.rand_augment = None
        if rand_augment is not None:
            colour = tuple(round(value) for value in images.mean)
            self.rand_augment = rand_augment_transform(
                rand_augment, {"img_mean": colour if len(colour) > 1 else colour[0]}
            )

    def __call__(self, images: np.ndarray, epoch: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Returns the augmented images. epoch, index: int64 (B,)."""
        if self.before is not None:
            images = self.before(images, epoch, index)
        if self.rand_augment is not None:
            images = np.stack([self._rand(*sample) for sample in zip(images, epoch, index, strict=True)])
        if self.erase > 0:
            images = images.astype(np.float32)
            for image, e, i in zip(images, epoch, index, strict=True):
                self._erase(image, generator(self.seed, ERASE, e, i))
        return images

    def _rand(self, image: np.ndarray, epoch: int, index: int) -> np.ndarray:
        # As PIL has it: (H, W, 3), or (H, W) in grey.
        pixels = image.transpose(1, 2, 0) if len(image) > 1 else image[0]
        with _drawing_from(int(random_bits(self.seed, RAND_AUGMENT, epoch, np.array(index)))):
            changed = np.asarray(self.rand_augment(Image.fromarray(pixels)))  # type: ignore[misc]
        return changed.transpose(2, 0, 1) if changed.ndim == 3 else changed[None]

    def _erase(self, image: np.ndarray, draw: np.random.Generator) -> None:
        """Erases a rectangle of 2 to 33 % of the area, sides at most 1 to 0.3: timm's, after Zhong et al. (2020)."""
        if draw.random() >= self.erase:
            return
        _, height, width = image.shape
        for _ in range(10):
            area = draw.uniform(0.02, 1 / 3) * height * width
            ratio = math.exp(draw.uniform(math.log(0.3), math.log(1 / 0.3)))
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < h < height and 0 < w < width:
                top, left = draw.integers(0, height - h + 1), draw.integers(0, width - w + 1)
                patch = image[:, top : top + h, left : left + w]
                noise = draw.standard_normal(patch.shape, np.float32) if self.erase_with == "noise" else 0
                patch[:] = self.mean + self.std * noise
                return


@contextmanager
def _drawing_from(bits: int) -> Iterator[None]:
    """Lets Python's and numpy's global generators, which timm draws from, start from ``bits`` while entered."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002 - timm's
    random.seed(bits)
    np.random.seed(bits % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
