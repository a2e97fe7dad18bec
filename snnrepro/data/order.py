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

    Iterating serves epoch ``epoch`` from batch ``first_batch`` on; both are read when the iteration starts. Of several
    ranks each serves its own stretch of every batch: which samples a batch holds does not depend on their number.
    """

    def __init__(self, size: int, *, seed: int | None, batch_size: int, rank: int = 0, ranks: int = 1):
        self.size, self.seed, self.batch_size = size, seed, batch_size
        self.rank, self.ranks = rank, ranks
        self.epoch = 0
        self.first_batch = 0

    def __len__(self) -> int:
        """Returns the batches of a whole epoch; the last one may be smaller."""
        return math.ceil(self.size / self.batch_size)

    def batch_len(self, batch: int) -> int:
        """Returns the samples in a batch of the epoch, those of all ranks together."""
        return min(self.batch_size, self.size - batch * self.batch_size)

    def stretch(self, batch: int) -> tuple[int, int]:
        """Returns where in the epoch's order the part of this rank in a batch begins and ends."""
        start, count = batch * self.batch_size, self.batch_len(batch)
        low, high = (start + count * r // self.ranks for r in (self.rank, self.rank + 1))
        return low, high

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, first = self.epoch, self.first_batch
        order = np.arange(self.size) if self.seed is None else permutation(self.size, self.seed, epoch)
        for batch in range(first, len(self)):
            low, high = self.stretch(batch)
            # A rank may have no part in a small batch; nothing is padded.
            if low < high:
                yield [(epoch, index) for index in order[low:high].tolist()]
