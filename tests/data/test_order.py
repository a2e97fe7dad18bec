import itertools

import numpy as np
import pytest

from snnrepro.data.draw import AUGMENT, ORDER, random_bits
from snnrepro.data.order import EpochOrder, permutation

MASK = 2**64 - 1


def splitmix64(state):
    """The published algorithm in Python's own integers."""
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def slow_bits(*counters):
    bits = 0
    for counter in counters:
        bits = splitmix64(bits ^ counter)
    return bits


def batches(order):
    return [[index for _, index in batch] for batch in order]


def test_bits_start_as_the_published_generator_does():
    # First output of SplitMix64 seeded with 0, as its reference implementation prints it.
    assert int(random_bits(0)) == 0xE220A8397B1DCDAF


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1])
def test_bits_equal_integer_restatement(seed):
    index = np.array([0, 1, 5, 49_999])
    expected = [slow_bits(seed, AUGMENT, 3, int(i)) for i in index]
    assert random_bits(seed, AUGMENT, 3, index).tolist() == expected


def test_permutation_equals_integer_restatement():
    expected = sorted(range(50), key=lambda i: slow_bits(11, ORDER, 4, i))
    assert permutation(50, 11, 4).tolist() == expected


def test_every_epoch_serves_every_index_once_and_epochs_and_seeds_differ():
    seen = {}
    for seed in (0, 1):
        order = EpochOrder(100, seed=seed, batch_size=32)
        for order.epoch in (0, 1):
            indices = list(itertools.chain(*batches(order)))
            assert sorted(indices) == list(range(100))
            seen[seed, order.epoch] = tuple(indices)
    assert len(set(seen.values())) == 4


def test_first_positions_are_uniform_over_epochs():
    first = [int(permutation(10, 0, epoch)[0]) for epoch in range(2000)]
    counts = np.bincount(first, minlength=10)
    assert ((counts - 200) ** 2 / 200).sum() < 27.9  # chi-square, 9 degrees of freedom, p = 0.001


def test_last_partial_batch_is_kept():
    order = EpochOrder(70, seed=0, batch_size=32)
    assert [len(batch) for batch in order] == [32, 32, 6]
    assert len(order) == 3
    assert len(EpochOrder(64, seed=0, batch_size=32)) == 2


def test_without_seed_in_order():
    order = EpochOrder(5, seed=None, batch_size=2)
    order.epoch = 3
    assert list(order) == [[(3, 0), (3, 1)], [(3, 2), (3, 3)], [(3, 4)]]


def test_first_batch_gives_the_tail_of_the_same_epoch():
    whole, resumed = (EpochOrder(100, seed=5, batch_size=16) for _ in range(2))
    whole.epoch = resumed.epoch = 2
    resumed.first_batch = 3
    assert list(resumed) == list(whole)[3:]
    resumed.first_batch = len(resumed)
    assert list(resumed) == []


def test_a_started_iteration_keeps_its_epoch():
    order = EpochOrder(8, seed=0, batch_size=4)
    expected = list(order)
    running = iter(order)
    got = [next(running)]
    order.epoch, order.first_batch = 1, 1
    assert got + list(running) == expected
