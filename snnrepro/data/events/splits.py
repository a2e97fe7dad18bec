"""Which recordings of CIFAR10-DVS are held out: three rules that the literature uses, and that differ in difficulty.

The data came without a split. A file ``splits/dvs_cifar10_<name>.json`` lists the held-out numbers of every class with
their digest, so that neither the order of a directory nor a library decides.
"""

import hashlib
from pathlib import Path
from typing import NotRequired

import numpy as np
from typing_extensions import TypedDict

from snnrepro.data.draw import SPLIT, random_bits
from snnrepro.errors import DataError
from snnrepro.options import EVENT_SPLITS
from snnrepro.stored import Count, Fault, Kind, exact

FOLDER = Path(__file__).resolve().parent.parent / "splits"


@exact
class Split(TypedDict):
    """A stored split: of each class the numbers that are held out, and their digest."""

    per_class: Count
    sha256: str
    split_seed: NotRequired[Count]
    test: list[list[Count]]


def _check(split: Split) -> None:
    if [len(row) for row in split["test"]] != [split["per_class"] // 10] * 10:
        raise Fault(f"test: a tenth of {split['per_class']} is needed for each of 10 classes")


STORED: Kind[Split] = Kind(Split, "reinstall snnrepro", check=_check)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def held_out(split: str, per_class: int, split_seed: int) -> np.ndarray:
    """Returns the numbers of the held-out recordings of every class, int64 (10, per_class / 10), ascending.

    tebn_first100: numbers 0-99 (TEBN, TAB). last100: the last tenth in alphabetical order of the file names, 91-99 and
    909-999 (Spikformer and its successors). random_seeded: drawn for every class, a function of split_seed.
    """
    count, numbers = per_class // 10, np.arange(per_class)
    if split == "tebn_first100":
        rows = [numbers[:count]] * len(CLASSES)
    elif split == "last100":
        rows = [np.array(sorted(numbers, key=str)[-count:])] * len(CLASSES)
    else:
        draws = [random_bits(split_seed, SPLIT, label, numbers) for label in range(len(CLASSES))]
        rows = [np.argsort(draw, kind="stable")[:count] for draw in draws]
    return np.sort(np.stack(rows), 1)


def digest(test: np.ndarray) -> str:
    """Returns the hex sha256 of held-out numbers (10, count)."""
    return hashlib.sha256(test.astype("<i8").tobytes()).hexdigest()


def load(split: str, per_class: int, split_seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (train, test) as indices ``class * per_class + number``, ascending.

    Raises DataError where the stored list of the split is not what its digest was taken over.
    """
    if split not in EVENT_SPLITS:
        raise ValueError(f"split={split!r} is not one of {', '.join(EVENT_SPLITS)}")
    file = FOLDER / f"dvs_cifar10_{split}.json"
    stored = STORED.read(file)
    test = held_out(split, per_class, split_seed)
    if per_class == stored["per_class"] and split_seed == stored.get("split_seed", split_seed):
        test = np.array(stored["test"], np.int64)
        if digest(test) != stored["sha256"]:
            raise DataError(f"{file}: its list does not match its digest; reinstall snnrepro")
    index = np.sort((np.arange(len(CLASSES))[:, None] * per_class + test).ravel())
    train = np.setdiff1d(np.arange(len(CLASSES) * per_class), index)
    return train, index
