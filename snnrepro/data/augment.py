"""Random crop and flip of whole batches, each image's draw a function of (seed, epoch, index)."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from snnrepro.data.draw import AUGMENT, random_bits


def crop_and_flip(
    images: np.ndarray, epoch: np.ndarray, index: np.ndarray, *, seed: int, padding: int, flip: bool
) -> np.ndarray:
    """Returns the images (B, ..., H, W) shifted by up to ``padding`` pixels and mirrored with probability 1/2.

    epoch, index: int64 (B,). Frames and channels of a sample move as one. What moves in from outside is 0, a black
    pixel, as in torchvision's RandomCrop before Normalize.
    """
    count, *inner, height, width = images.shape
    images = images.reshape(count, -1, height, width)
    bits = random_bits(seed, AUGMENT, epoch, index)
    # One 64-bit draw read as mixed-radix digits: row, column, mirror; the bias of the modulo is below 2**-53.
    bits, top = np.divmod(bits, np.uint64(2 * padding + 1))
    bits, left = np.divmod(bits, np.uint64(2 * padding + 1))
    padded = np.pad(images, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = sliding_window_view(padded, (height, width), axis=(2, 3))
    cropped = windows[np.arange(count), :, top.astype(np.intp), left.astype(np.intp)]
    if flip:
        mirrored = (bits & np.uint64(1)).astype(bool)
        cropped[mirrored] = cropped[mirrored, ..., ::-1]
    return cropped.reshape(count, *inner, height, width)
