"""Random numbers as a pure function of counters: no state to save, no stream for workers to share.

numpy and torch do not promise the same shuffles from one version to the next; integer arithmetic does.
"""

import numpy as np

# What a draw is for: the same (seed, epoch, index) must not tie the order to the augmentation.
ORDER, AUGMENT, SYNTHETIC, SIMULATE, SPLIT, RAND_AUGMENT, ERASE, MIX = range(8)


def _mix(x: np.ndarray) -> np.ndarray:
    z = x + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def generator(seed: int, purpose: int, epoch: int, index: int) -> np.random.Generator:
    """Returns a generator of its own for one sample of one epoch."""
    return np.random.Generator(np.random.Philox(int(random_bits(seed, purpose, epoch, np.array(index)))))


def random_bits(*counters: int | np.ndarray) -> np.ndarray:
    """Returns uniform uint64 values, one per element of the broadcast ``counters`` (non-negative integers).

    Different values of the last counter give different results. Chained steps of SplitMix64 (Steele et al. 2014,
    doi:10.1145/2660193.2660195).
    """
    bits = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for counter in counters:
            bits = _mix(bits ^ np.asarray(counter).astype(np.uint64))
    return bits
