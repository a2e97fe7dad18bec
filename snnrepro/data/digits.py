"""scikit-learn's 1,797 handwritten digits, 8x8, 10 classes, values 0..16: real data that ships with a package."""

from pathlib import Path
from typing import Annotated

import numpy as np
import sklearn
from pydantic import Field
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from typing_extensions import TypedDict

from snnrepro.data.images import Source, channel_statistics, digest, take
from snnrepro.errors import DataError
from snnrepro.stored import Count, Kind, Share, exact

SPLITS = Path(__file__).with_name("splits")


@exact
class Split(TypedDict):
    """A stored split: the indices of the test images, and the digest of all images and labels in their order."""

    test_fraction: Share
    sha256: str
    test: list[Annotated[Count, Field(lt=1797)]]


SPLIT: Kind[Split] = Kind(Split, "reinstall snnrepro")


def stratified(labels: np.ndarray, test_fraction: float, split_seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (train, test) indices, ascending, with the classes of ``labels`` in equal shares on both sides."""
    everything = np.arange(len(labels))
    train, test = train_test_split(everything, test_size=test_fraction, random_state=split_seed, stratify=labels)
    return np.sort(train), np.sort(test)


def load(test_fraction: float, split_seed: int) -> Source:
    """Returns the digits, split by class shares.

    The default split is stored with its digest: the stored indices hold whatever a later scikit-learn would draw.
    Raises DataError where the installed images or labels are not those the digest was taken over.
    """
    bunch = load_digits()
    images, labels = bunch.images.astype(np.uint8)[:, None], bunch.target
    file = SPLITS / f"digits_seed{split_seed}.json"
    stored = SPLIT.read(file) if file.exists() else None
    if stored is not None and stored["test_fraction"] == test_fraction:
        test_index = np.array(stored["test"], np.int64)
        if not np.isin(test_index, np.arange(len(labels))).all():
            raise DataError(f"{file}: its list does not match its digest; reinstall snnrepro")
        train_index = np.setdiff1d(np.arange(len(labels)), test_index)
    else:
        stored = None
        train_index, test_index = stratified(labels, test_fraction, split_seed)
    train, test = take(images, labels, train_index), take(images, labels, test_index)
    if stored is not None and digest(train, test) != stored["sha256"]:
        raise DataError(
            f"digits: scikit-learn {sklearn.__version__} delivers other images or labels than {file} was made for; "
            "reinstall scikit-learn"
        )
    split = f"stratified, {len(train_index)} train / {len(test_index)} test, split_seed {split_seed}"
    return Source(train, test, split, 10, *channel_statistics(train.images))
