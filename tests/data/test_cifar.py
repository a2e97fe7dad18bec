"""Small files in CIFAR's on-disk format; torchvision's digest lists are set to theirs."""

import hashlib
import io
import itertools
import pickle
import socket
import tarfile
import urllib.error
from http.client import IncompleteRead

import numpy as np
import pytest
from torchvision import datasets
from torchvision.datasets import utils

from snnrepro.data.cifar_options import CifarOption
from snnrepro.errors import DataError

PER_FILE = 6


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_batch(path, key, classes, seed):
    rng = np.random.default_rng(seed)
    content = {
        "data": rng.integers(0, 256, (PER_FILE, 3072), dtype=np.uint8),
        key: rng.integers(0, classes, PER_FILE).tolist(),
    }
    path.write_bytes(pickle.dumps(content, protocol=2))
    return content


@pytest.fixture(params=["cifar10", "cifar100"])
def tree(request, tmp_path, monkeypatch):
    """Returns (name, root, torchvision class, contents by file name) of a small archive, unpacked and packed."""
    name = request.param
    archive = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    key, classes = ("labels", 10) if name == "cifar10" else ("fine_labels", 100)
    folder = tmp_path / archive.base_folder
    folder.mkdir()
    contents = {}
    for kind in ("train_list", "test_list"):
        files = [filename for filename, _ in getattr(archive, kind)]
        for filename in files:
            contents[filename] = write_batch(folder / filename, key, classes, len(contents))
        monkeypatch.setattr(archive, kind, [[filename, md5(folder / filename)] for filename in files])
    meta = folder / archive.meta["filename"]
    meta.write_bytes(pickle.dumps({archive.meta["key"]: [str(k) for k in range(classes)]}, protocol=2))
    monkeypatch.setattr(archive, "meta", archive.meta | {"md5": md5(meta)})
    with tarfile.open(tmp_path / archive.filename, "w:gz") as tar:
        tar.add(folder, archive.base_folder)
    monkeypatch.setattr(archive, "tgz_md5", md5(tmp_path / archive.filename))
    return name, tmp_path, archive, contents


@pytest.fixture(autouse=True)
def requests(monkeypatch):
    """Returns the list of URLs asked for; every request fails as without a network."""
    asked = []

    def refuse(request, *args, **kwargs):
        asked.append(getattr(request, "full_url", request))
        raise urllib.error.URLError("network is unreachable")

    monkeypatch.setattr(utils.urllib.request, "urlopen", refuse)
    return asked


def build(name, root, *, download=False):
    option = CifarOption(name=name, root=str(root), download=download, crop_padding=4, flip=True)
    return option.load(seed=0, timesteps=4)


def one_line(caught):
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_published_split_pixels_and_labels(tree):
    name, root, archive, contents = tree
    data = build(name, root)
    files = {"train": archive.train_list, "test": archive.test_list}
    for dataset, kind in ((data.train, "train"), (data.test, "test")):
        stored = [contents[filename] for filename, _ in files[kind]]
        pixels = np.concatenate([content["data"] for content in stored])
        # A row holds 1024 red, 1024 green, 1024 blue values, each row by row.
        np.testing.assert_array_equal(dataset.images.numpy().reshape(-1, 3072), pixels)
        labels = [c["labels"] if "labels" in c else c["fine_labels"] for c in stored]
        assert dataset.labels.tolist() == list(itertools.chain(*labels))
    assert (data.name, data.in_shape, data.embedded) == (name, (3, 32, 32), False)
    assert data.num_classes == (10 if name == "cifar10" else 100)
    assert data.split == f"published, {len(data.train)} train / {len(data.test)} test"
    images, labels = data.train.__getitems__([(0, 0), (1, 3)])
    assert (tuple(images.shape), tuple(labels.shape)) == ((2, 3, 32, 32), (2,))
    assert max(data.train.mean) < 255 and min(data.train.mean) > 100


@pytest.mark.parametrize("which", ["train_list", "test_list", "meta"])
@pytest.mark.parametrize("fault", ["missing", "truncated", "garbage", "folder"])
def test_a_damaged_file_is_named_with_the_fix(tree, which, fault):
    name, root, archive, _ = tree
    entry = getattr(archive, which)
    path = root / archive.base_folder / (entry["filename"] if which == "meta" else entry[-1][0])
    content = path.read_bytes()
    path.unlink()
    if fault == "truncated":
        path.write_bytes(content[:-1])
    elif fault == "garbage":
        path.write_bytes(b"not a pickle")
    elif fault == "folder":
        path.mkdir()
    with pytest.raises(DataError) as caught:
        build(name, root)
    message = one_line(caught)
    assert message.startswith(f"{path}: {'missing' if fault in ('missing', 'folder') else 'damaged'}")
    assert "dataset.download=true" in message and str(root / archive.filename) in message


@pytest.mark.advice("add dataset.download=true, which fetches {} or unpacks {} where you put it")
def test_download_unpacks_an_archive_that_is_there_without_network(tree, requests):
    name, root, archive, _ = tree
    expected = build(name, root).digest
    for filename, _ in (*archive.train_list, *archive.test_list):
        (root / archive.base_folder / filename).unlink()
    assert build(name, root, download=True).digest == expected
    assert requests == []


def test_download_does_nothing_where_all_files_are_good(tree, requests):
    name, root, archive, _ = tree
    (root / archive.filename).unlink()
    build(name, root, download=True)
    assert requests == []


@pytest.mark.parametrize("state", ["missing", "damaged"])
def test_download_without_network(tree, requests, state):
    name, root, archive, _ = tree
    packed = root / archive.filename
    content = packed.read_bytes()
    packed.unlink()
    if state == "damaged":
        packed.write_bytes(content[: len(content) // 2])
    (root / archive.base_folder / archive.train_list[0][0]).unlink()
    with pytest.raises(DataError) as caught:
        build(name, root, download=True)
    message = one_line(caught)
    assert message.startswith(f"{packed}: {state}")
    assert archive.url in message and "network is unreachable" in message
    assert requests[0] == archive.url


@pytest.mark.parametrize(
    "error", [TimeoutError("timed out"), IncompleteRead(b"half"), ConnectionResetError(104, "reset")]
)
def test_a_failing_transfer_is_a_data_error(tree, monkeypatch, error):
    name, root, archive, _ = tree

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(utils.urllib.request, "urlopen", fail)
    with pytest.raises(DataError) as caught:
        build(name, root / "elsewhere", download=True)
    assert one_line(caught).startswith(f"{root / 'elsewhere' / archive.filename}: missing")


class Answer(io.BytesIO):
    """What a server sends: a page of its own, half an archive, or nothing."""

    length, url = None, None


@pytest.mark.parametrize("sent", [b"<html>404</html>", b"", "half"])
def test_what_is_not_the_archive_is_one_line(tree, monkeypatch, sent):
    name, root, archive, _ = tree
    packed = (root / archive.filename).read_bytes()
    content = packed[: len(packed) // 2] if sent == "half" else sent
    monkeypatch.setattr(utils.urllib.request, "urlopen", lambda *_, **__: Answer(content))
    with pytest.raises(DataError) as caught:
        build(name, root / "elsewhere", download=True)
    message = one_line(caught)
    assert message.startswith(f"{root / 'elsewhere' / archive.filename}: {'damaged' if content else 'empty'}")
    # The next attempt begins anew.
    monkeypatch.setattr(utils.urllib.request, "urlopen", lambda *_, **__: Answer(packed))
    assert build(name, root / "elsewhere", download=True).digest == build(name, root).digest


def test_a_pickle_that_is_not_the_published_one_is_never_loaded(tree, tmp_path):
    name, root, archive, _ = tree

    class Attack:
        def __reduce__(self):
            return open, (str(tmp_path / "owned"), "w")

    (root / archive.base_folder / archive.test_list[0][0]).write_bytes(pickle.dumps(Attack()))
    with pytest.raises(DataError, match="damaged"):
        build(name, root)
    assert not (tmp_path / "owned").exists()


def test_a_transfer_has_a_time_limit_and_leaves_none_behind(tree, monkeypatch):
    name, root, _, _ = tree
    limits = []

    def look(*args, **kwargs):
        limits.append(socket.getdefaulttimeout())
        raise urllib.error.URLError("unreachable")

    monkeypatch.setattr(utils.urllib.request, "urlopen", look)
    before = socket.getdefaulttimeout()
    with pytest.raises(DataError):
        build(name, root / "elsewhere", download=True)
    assert limits and all(limit is not None for limit in limits)
    assert socket.getdefaulttimeout() == before


def test_a_root_that_cannot_be_written(tree):
    name, root, _, _ = tree
    (root / "file").write_text("")
    with pytest.raises(DataError) as caught:
        build(name, root / "file" / "data", download=True)
    assert str(root / "file" / "data") in one_line(caught)


def test_an_archive_that_cannot_be_unpacked(tree):
    name, root, archive, _ = tree
    filename = archive.train_list[0][0]
    (root / archive.base_folder / filename).unlink()
    (root / archive.base_folder / filename / "in the way").mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        build(name, root, download=True)
    assert one_line(caught).startswith(f"{root / archive.filename}: cannot be unpacked")


def test_a_relative_root_is_named_in_full(tree, monkeypatch):
    name, root, archive, _ = tree
    monkeypatch.chdir(root)
    with pytest.raises(DataError) as caught:
        build(name, "elsewhere")
    assert one_line(caught).startswith(str(root / "elsewhere" / archive.base_folder))
