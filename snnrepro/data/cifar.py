"""CIFAR-10 and CIFAR-100 from torchvision's archives, 3x32x32, with the published split."""

from pathlib import Path

import numpy as np
from torchvision import datasets

from snnrepro.data.fetch import fault as file_fault
from snnrepro.data.fetch import fetch_archive
from snnrepro.data.images import Part, Source
from snnrepro.errors import DataError

_ARCHIVES: dict[str, type[datasets.CIFAR10]] = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}
# As the authors' released code normalises, here for pixels in 0..1.
_MEAN_STD = {
    "cifar10": ((0.4913, 0.4821, 0.4465), (0.2470, 0.2434, 0.2615)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2673, 0.2564, 0.2762)),
}


def load(name: str, root: Path, download: bool) -> Source:
    """Returns CIFAR-10 or CIFAR-100; with ``download`` the archive is fetched into ``root`` where files are missing.

    Raises DataError naming the first missing or damaged file and what to do.
    """
    archive = _ARCHIVES[name]
    root = root.expanduser().absolute()
    fault = _first_fault(archive, root)
    if fault and download:
        fetch_archive(archive.url, root, archive.filename, archive.tgz_md5)
        fault = _first_fault(archive, root)
    if fault:
        raise DataError(
            f"{fault}; add dataset.download=true, which fetches {archive.url} or unpacks {root / archive.filename} "
            f"where you put it, or set dataset.root to the folder that holds {archive.base_folder}"
        )
    train, test = _read(archive, root, train=True), _read(archive, root, train=False)
    split = f"published, {len(train.index)} train / {len(test.index)} test"
    num_classes = 10 if name == "cifar10" else 100
    mean, std = (tuple(255 * value for value in values) for values in _MEAN_STD[name])
    return Source(train, test, split, num_classes, mean, std)


def _first_fault(archive: type[datasets.CIFAR10], root: Path) -> str | None:
    meta = (archive.meta["filename"], archive.meta["md5"])
    for filename, md5 in (*archive.train_list, *archive.test_list, meta):
        path = root / archive.base_folder / filename
        if fault := file_fault(path, md5):
            return f"{path}: {fault}"
    return None


def _read(archive: type[datasets.CIFAR10], root: Path, *, train: bool) -> Part:
    data = archive(str(root), train=train)
    images = np.ascontiguousarray(data.data.transpose(0, 3, 1, 2))
    labels = np.array(data.targets, dtype=np.int64)
    return Part(np.arange(len(labels)), images, labels)
