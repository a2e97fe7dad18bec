"""Ten random patterns under noise, 8x8: learnable, made in no time, for smoke tests and timing."""

import math

import numpy as np

from snnrepro.data.draw import SYNTHETIC, random_bits
from snnrepro.data.images import Source, channel_statistics, take

CLASSES, SIDE = 10, 8


def load(samples: int, test_fraction: float, split_seed: int) -> Source:
    """Returns ``samples`` images in all; the last ``test_fraction`` of them is the test set.

    An image is the average of its class's pattern and of its own noise, both uniform over 0..255.
    """
    pixel = np.arange(SIDE * SIDE)
    patterns = random_bits(split_seed, SYNTHETIC, 0, np.arange(CLASSES)[:, None], pixel) >> np.uint64(56)
    noise = random_bits(split_seed, SYNTHETIC, 1, np.arange(samples)[:, None], pixel) >> np.uint64(56)
    labels = np.arange(samples) % CLASSES
    images = ((patterns[labels] + noise) // 2).astype(np.uint8).reshape(samples, 1, SIDE, SIDE)
    first_test = samples - math.ceil(samples * test_fraction)
    train, test = (take(images, labels, index) for index in np.split(np.arange(samples), [first_test]))
    split = f"made from split_seed {split_seed}, {first_test} train / {samples - first_test} test"
    return Source(train, test, split, CLASSES, *channel_statistics(train.images))
