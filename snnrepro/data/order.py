"""Which images make up which batch: a function of (seed, epoch), so the position in a run is two integers."""

import math
from collections.abc import Iterator

import numpy as np

from snnrepro.data.draw import ORDER, random_bits


def permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    """Returns a shuffle of 0..size-1, int64 (size,)."""
    return np.argsort(random_bits(seed, ORDER, epoch, np.arange(size)), kind="stable")


class EpochOrder:
    """Batch sampler that yields lists of (epoch, index): shuffled per epoch, or in order where seed is None.

    Iterating serves epoch ``epoch`` from batch ``first_batch`` on; both are read when the iteration starts.
    """

    def __init__(self, size: int, *, seed: int | None, batch_size: int):
        self.size, self.seed, self.batch_size = size, seed, batch_size
        self.epoch = 0
        self.first_batch = 0

    def __len__(self) -> int:
        """Returns the batches of a whole epoch; the last one may be smaller."""
        return math.ceil(self.size / self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, first = self.epoch, self.first_batch
        order = np.arange(self.size) if self.seed is None else permutation(self.size, self.seed, epoch)
        for start in range(first * self.batch_size, self.size, self.batch_size):
            yield [(epoch, index) for index in order[start : start + self.batch_size].tolist()]
