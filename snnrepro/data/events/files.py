"""The files of CIFAR10-DVS on disk: where they come from, whether all are there, in an order that is their own."""

import hashlib
import shutil
from pathlib import Path

from snnrepro.data.events.reader import READERS
from snnrepro.data.events.splits import CLASSES
from snnrepro.data.fetch import fetch_archive
from snnrepro.errors import DataError

PER_CLASS = 1000
# Archives and unpacked files of either distribution, together.
_DISK_GB = 25
_URL = "https://ndownloader.figshare.com/files/"
# The original distribution, one archive for each class: number at figshare, md5.
_AEDAT2 = {
    "airplane": ("7712788", "0afd5c4bf9ae06af762a77b180354fdd"),
    "automobile": ("7712791", "8438dfeba3bc970c94962d995b1b9bdd"),
    "bird": ("7712794", "a9c207c91c55b9dc2002dc21c684d785"),
    "cat": ("7712812", "52c63c677c2b15fa5146a8daf4d56687"),
    "deer": ("7712815", "b6bf21f6c04d21ba4e23fc3e36c8a4a3"),
    "dog": ("7712818", "f379ebdf6703d16e0a690782e62639c3"),
    "frog": ("7712842", "cad6ed91214b1c7388a5f6ee56d08803"),
    "horse": ("7712851", "e7cbbf77bec584ffbf913f00e682782a"),
    "ship": ("7712836", "41c7bd7d6b251be82557c6cce9a7d5c9"),
    "truck": ("7712839", "89f3922fd147d9aeff89e76a2b0b70a7"),
}
# tonic's copy, one archive with an archive for each class.
_AEDAT4 = ("38023437", "CIFAR10DVS.zip", "ce3a4a0682dc0943703bd8f749a7701c")


def find(root: Path, container: str, *, download: bool) -> list[Path]:
    """Returns the recordings by class and number, ``<class>/cifar10_<class>_<number><suffix>`` below ``root``.

    The order is that of the classes and numbers, never a directory's. With ``download`` missing archives are fetched
    first. Raises DataError naming the first class folder or file that is missing, and how to get it.
    """
    suffix = READERS[container][1]
    fault = _first_fault(root, suffix)
    if fault and download:
        _download(root, container)
        fault = _first_fault(root, suffix)
    if fault:
        raise DataError(
            f"{fault}; add dataset.download=true (needs about {_DISK_GB} GB), or unpack {_manual(container)} there, "
            "or set dataset.root to the folder that holds the ten class folders"
        )
    return [root / label / f"cifar10_{label}_{i}{suffix}" for label in CLASSES for i in range(PER_CLASS)]


def fingerprint(paths: list[Path], root: Path) -> str:
    """Returns a hash of names and sizes: changes when a file is replaced by another. Raises DataError."""
    hasher = hashlib.sha256()
    for path in paths:
        try:
            size = path.stat().st_size
        except OSError as error:
            raise DataError(f"{path}: cannot read: {error.strerror}; unpack its archive again") from None
        hasher.update(f"{path.relative_to(root)} {size}\n".encode(errors="surrogateescape"))
    return hasher.hexdigest()[:16]


def _first_fault(root: Path, suffix: str) -> str | None:
    for label in CLASSES:
        folder = root / label
        if not folder.is_dir():
            return f"{folder}: no such folder"
        try:
            names = {path.name for path in folder.iterdir()}
        except OSError as error:
            return f"{folder}: cannot read: {error.strerror}"
        missing = [i for i in range(PER_CLASS) if f"cifar10_{label}_{i}{suffix}" not in names]
        if missing:
            first = f"cifar10_{label}_{missing[0]}{suffix}"
            return f"{folder}: {len(missing)} of {PER_CLASS} recordings missing, first {first}"
    return None


def _manual(container: str) -> str:
    if container == "aedat4":
        return f"{_URL}{_AEDAT4[0]} and the ten archives inside it"
    return ", ".join(f"{_URL}{number} ({label}.zip)" for label, (number, _) in list(_AEDAT2.items())[:2]) + ", ..."


def _download(root: Path, container: str) -> None:
    there = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(there).free / 1e9
    if free < _DISK_GB:
        raise DataError(f"{root}: {free:.0f} GB free, CIFAR10-DVS needs about {_DISK_GB} GB")
    if container == "aedat2":
        for label, (number, md5) in _AEDAT2.items():
            fetch_archive(f"{_URL}{number}", root, f"{label}.zip", md5)
        return
    number, filename, md5 = _AEDAT4
    fetch_archive(f"{_URL}{number}", root, filename, md5)
    for label in CLASSES:
        fetch_archive(None, root, f"{label}.zip", None)
