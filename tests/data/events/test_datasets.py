"""Event datasets from files to batches: splits, cache, damage; a run on frames."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from recordings import aedat2, aedat4
from torchvision.datasets import utils

from snnrepro.build import build_dataset
from snnrepro.cli import main
from snnrepro.compose import compose_run
from snnrepro.data.events import cache, dataset, files, splits
from snnrepro.data.events.reader import READERS
from snnrepro.data.events.slicing import resize, to_frames
from snnrepro.errors import DataError, StorageError
from snnrepro.options import EVENT_SPLITS

PER_CLASS = 20
EVENTS = 300


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "PER_CLASS", PER_CLASS)
    monkeypatch.setenv("SNNREPRO_CACHE", str(tmp_path / "cache"))


def write(root, container):
    suffix = READERS[container][1]
    for label, name in enumerate(splits.CLASSES):
        (root / name).mkdir(parents=True)
        # In descending order, so that the order of creation is not the right one.
        for number in reversed(range(PER_CLASS)):
            rng = np.random.default_rng([label, number])
            t = np.sort(rng.integers(0, 10**6, EVENTS))
            x, y, p = (rng.integers(0, high, EVENTS) for high in (128, 128, 2))
            content = aedat2(t, x, y, p) if container == "aedat2" else aedat4(t, x, y, p)
            (root / name / f"cifar10_{name}_{number}{suffix}").write_bytes(content)
    return root


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "PER_CLASS", PER_CLASS)
        return {c: write(tmp_path_factory.mktemp(c) / "data", c) for c in READERS}


@pytest.fixture(params=list(READERS))
def root(request, written, tmp_path):
    return shutil.copytree(written[request.param], tmp_path / request.param)


def build(root, *words):
    container = root.name
    run = compose_run(["dataset=dvs_cifar10", f"dataset.root={root}", f"dataset.container={container}", *words])
    return build_dataset(run)


@pytest.mark.advice("or set dataset.root to the folder that holds the ten class folders")
def test_batches_are_the_frames_of_the_files(root):
    data = build(root, "dataset.crop_padding=0", "dataset.flip=false")
    assert (len(data.train), len(data.test), data.in_shape, data.num_classes) == (180, 20, (2, 48, 48), 10)
    assert data.split.startswith("tebn_first100, 180 train / 20 test")
    read, suffix = READERS[root.name]
    # tebn_first100 of 20 recordings holds out numbers 0 and 1 of every class.
    frames, labels = data.test.__getitems__([(0, 5), (0, 18)])
    assert labels.tolist() == [2, 9]
    expected = to_frames(read(root / "bird" / f"cifar10_bird_1{suffix}"), 4, "number", 128)
    np.testing.assert_array_equal(frames[0].numpy(), resize(expected, 48))
    images, labels = data.train.__getitems__([(0, 0), (0, 17), (0, 18)])
    assert labels.tolist() == [0, 0, 1] and images.shape == (3, 4, 2, 48, 48)


def test_frames_are_made_once_and_again_when_a_file_changes(root, capsys):
    first = build(root)
    assert "making frames of 200 recordings" in capsys.readouterr().out
    assert build(root).digest == first.digest
    assert build(root, "dataset.split=last100").digest != first.digest, "the split is part of what was trained on"
    assert "making" not in capsys.readouterr().out
    _, suffix = READERS[root.name]
    shutil.copy(root / "cat" / f"cifar10_cat_3{suffix}", root / "dog" / f"cifar10_dog_4{suffix}")
    (root / "dog" / f"cifar10_dog_4{suffix}").write_bytes(aedat2([1], [2], [3], [0]) if suffix == ".aedat" else
                                                          aedat4([1], [2], [3], [0]))  # fmt: skip
    assert build(root).digest != first.digest
    assert "making frames" in capsys.readouterr().out


def test_a_directorys_order_never_changes_a_split(root, monkeypatch):
    first = build(root)
    shutil.rmtree(root / "frames")
    original = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: sorted(original(self), reverse=True))
    assert build(root).digest == first.digest


@pytest.mark.parametrize("split", EVENT_SPLITS)
def test_stored_splits(split, monkeypatch, tmp_path):
    train, test = splits.load(split, 1000, 0)
    assert len(test) == 1000 and len(train) == 9000 and not np.intersect1d(train, test).size
    stored = json.loads((splits.FOLDER / f"dvs_cifar10_{split}.json").read_text())
    assert splits.digest(np.array(stored["test"])) == stored["sha256"]
    numbers = test.reshape(10, 100) % 1000
    if split == "tebn_first100":
        assert (numbers == np.arange(100)).all()
    elif split == "last100":
        # The last hundred of the names in alphabetical order.
        names = sorted(f"cifar10_cat_{i}" for i in range(1000))[-100:]
        assert sorted(int(name.rsplit("_", 1)[1]) for name in names) == numbers[3].tolist()
    else:
        assert len({tuple(row) for row in numbers}) == 10
        assert not np.array_equal(splits.load(split, 1000, 1)[1], test)
    # Control: a list that was tampered with is refused.
    stored["test"][0][0] = 999 if stored["test"][0][0] != 999 else 998
    (tmp_path / f"dvs_cifar10_{split}.json").write_text(json.dumps(stored))
    monkeypatch.setattr(splits, "FOLDER", tmp_path)
    with pytest.raises(DataError, match="does not match its digest"):
        splits.load(split, 1000, 0)


def test_control_a_leak_would_be_found():
    frames, labels = np.zeros((4, 1, 2, 8, 8), np.float16), np.arange(4)
    with pytest.raises(DataError, match="both sides"):
        dataset._source(frames, labels, np.array([0, 1, 2]), np.array([2, 3]), "", "")


def spoil(root, what):
    suffix = READERS[root.name][1]
    file = root / "deer" / f"cifar10_deer_7{suffix}"
    if what == "missing class folder":
        shutil.rmtree(root / "ship")
    elif what == "half-extracted":
        for number in range(5, PER_CLASS):
            (root / "horse" / f"cifar10_horse_{number}{suffix}").unlink()
    elif what == "one file missing":
        file.unlink()
    elif what == "empty recording":
        file.write_bytes(b"")
    elif what == "header only":
        file.write_bytes(b"#!AER-DAT2.0\r\n# x\r\n" if suffix == ".aedat" else b"#!AER-DAT4.0\r\n")
    elif what == "truncated":
        file.write_bytes(file.read_bytes()[:-5])
    elif what == "no data at all":
        shutil.rmtree(root)


SAYS = {
    "missing class folder": "ship: no such folder",
    "half-extracted": "horse: 15 of 20 recordings missing, first cifar10_horse_5",
    "one file missing": "deer: 1 of 20 recordings missing, first cifar10_deer_7",
    "empty recording": "cifar10_deer_7.*: empty file",
    "header only": "cifar10_deer_7.*: (no events|damaged)",
    "truncated": "cifar10_deer_7.*: (truncated|damaged)",
    "no data at all": "airplane: no such folder; add dataset.download=true .needs about 25 GB., or unpack https",
}


@pytest.mark.parametrize("what", SAYS)
def test_damage_ends_in_one_line(root, what):
    spoil(root, what)
    with pytest.raises(DataError, match=SAYS[what]) as caught:
        build(root)
    assert "\n" not in str(caught.value)
    assert not list(root.glob("frames/*.tmp.*")), "nothing half-made is left"


DAMAGES = ["bytes", "short", "no meta", "not an array", "empty array", "objects", "another shape", "an archive", "pipe",
           "folder in place of the array", "no JSON", "another JSON", "file in place of the folder"]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_reported_and_made_again(root, capsys, damage):
    first = build(root)
    (folder,) = (path.parent for path in root.glob("frames/*/meta.json"))
    frames = folder / "frames.npy"
    if damage == "bytes":
        content = bytearray(frames.read_bytes())
        content[-9] ^= 64
        frames.write_bytes(content)
    elif damage == "short":
        frames.write_bytes(frames.read_bytes()[:-100])
    elif damage == "no meta":
        (folder / "meta.json").unlink()
    elif damage in ("not an array", "empty array"):
        frames.write_bytes(b"nothing" if damage == "not an array" else b"")
    elif damage in ("objects", "another shape"):
        np.save(frames, np.array([{}] if damage == "objects" else [1.0]))
    elif damage == "an archive":
        with open(frames, "wb") as file:
            np.savez(file, a=np.zeros(3))
    elif damage == "file in place of the folder":
        shutil.rmtree(folder)
        folder.write_bytes(b"")
    elif damage in ("no JSON", "another JSON"):
        (folder / "meta.json").write_text("{" if damage == "no JSON" else "[]")
    else:
        frames.unlink()
        os.mkfifo(frames) if damage == "pipe" else frames.mkdir()
    capsys.readouterr()
    assert build(root).digest == first.digest
    assert "warning: " in capsys.readouterr().out


@pytest.mark.advice("cannot write frames: {}; check the disk")
def test_a_full_or_forbidden_disk_is_one_line(root, monkeypatch):
    usage = shutil.disk_usage(root)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(StorageError, match=r"do not fit, 0\.00 GB are free"):
        build(root)
    monkeypatch.undo()
    monkeypatch.setattr(files, "PER_CLASS", PER_CLASS)

    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.np.lib.format, "open_memmap", refuse)
    with pytest.raises(StorageError, match="No space left on device"):
        build(root)
    assert not list(root.glob("frames/*.tmp.*"))
    monkeypatch.undo()
    monkeypatch.setattr(files, "PER_CLASS", PER_CLASS)
    assert len(build(root).train), "with a disk that takes them the frames are made"


def test_a_count_that_frames_cannot_hold_is_said_whenever_they_are_used(root, capsys):
    suffix = READERS[root.name][1]
    count = 2**13 + 1
    many = (np.arange(count), np.full(count, 7), np.full(count, 9), np.ones(count, int))
    for name in ("cat", "dog"):
        content = aedat2(*many) if suffix == ".aedat" else aedat4(*many)
        (root / name / f"cifar10_{name}_4{suffix}").write_bytes(content)
    for _ in range(2):
        data = build(root, "timesteps=1", "dataset.size=128", "dataset.crop_padding=0", "dataset.flip=false")
        out = capsys.readouterr().out
        assert out.count("warning:") == 1 and f"cifar10_cat_4{suffix}: a pixel has {count} events" in out
        assert "(and 1 more recordings)" in out
    assert data.train.images.max() == 2**13


def free_disk(monkeypatch, size):
    """What the machine has left is not the test's matter."""
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(size, 0, size))


def test_download_asks_for_the_archives_and_says_what_failed(tmp_path, monkeypatch):
    free_disk(monkeypatch, 10**11)
    asked = []

    def refuse(request, *_, **__):
        asked.append(request.full_url)
        raise OSError("network is unreachable")

    monkeypatch.setattr(utils.urllib.request, "urlopen", refuse)
    for container, number in (("aedat2", "7712788"), ("aedat4", "38023437")):
        root = tmp_path / container
        root.mkdir()
        with pytest.raises(DataError, match="cannot be fetched") as caught:
            build(root, "dataset.download=true")
        assert number in asked[-1] and "\n" not in str(caught.value)
    free_disk(monkeypatch, 10**9)
    with pytest.raises(DataError, match="1 GB free, CIFAR10-DVS needs about 25 GB"):
        build(root, "dataset.download=true")


def test_an_archive_of_zero_bytes_is_named(tmp_path, monkeypatch):
    free_disk(monkeypatch, 10**11)
    monkeypatch.setattr(utils.urllib.request, "urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("unreachable")))
    root = tmp_path / "aedat2"
    root.mkdir()
    (root / "airplane.zip").write_bytes(b"")
    with pytest.raises(DataError, match=r"airplane\.zip: empty, and https://.* cannot be fetched"):
        build(root, "dataset.download=true")


def test_a_root_without_parents_and_a_link_to_nowhere_are_named(tmp_path, root, monkeypatch):
    monkeypatch.setattr(utils.urllib.request, "urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("unreachable")))
    free_disk(monkeypatch, 10**11)
    with pytest.raises(DataError, match="cannot be fetched: unreachable"):
        build(tmp_path / "no" / "such" / root.name, "dataset.download=true")
    file = root / "deer" / f"cifar10_deer_7{READERS[root.name][1]}"
    file.unlink()
    file.symlink_to("/nowhere")
    with pytest.raises(DataError, match=r"cifar10_deer_7.*: cannot read: No such file"):
        build(root)


def tiny_digits(monkeypatch):
    original = dataset.simulate.record
    monkeypatch.setattr(dataset.simulate, "record", original)
    monkeypatch.setattr(cache, "ProcessPoolExecutor", None)
    monkeypatch.setattr(cache, "usable_cores", lambda: 1)


def test_digits_dvs_trains_on_frames_and_evaluates_at_other_steps(tmp_path, monkeypatch, capsys):
    tiny_digits(monkeypatch)
    words = ["dataset=digits_dvs", "dataset.size=8", "model.widths=[4,4,4]", "model.hidden=8", "epochs=1",
             "timesteps=2", "runtime.backend=reference", f"runtime.output_dir={tmp_path}"]  # fmt: skip
    assert main(["train", *words]) == 0
    out = capsys.readouterr().out
    assert "simulated recordings" in out and "embedded data" in out
    run = next(tmp_path.glob("runs/*")).name
    record = json.loads((tmp_path / "runs" / run / "record.json").read_text())
    assert len(record["final"]["top1_per_timestep"]) == 2
    assert main(["evaluate", f"run={run}", "timesteps=2,3", f"runtime.output_dir={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert "making frames" in out, "three frames of the same recordings"
    assert f"timesteps=2: top-1 {record['final']['top1']:.4f} %" in out and ", equal" in out


def test_frames_move_as_one(root):
    data = build(root)
    plain = build(root, "dataset.crop_padding=0", "dataset.flip=false")
    keys = [(3, i) for i in range(40)]
    moved, still = data.train.__getitems__(keys)[0], plain.train.__getitems__(keys)[0]
    again = data.train.__getitems__(keys)[0]
    assert torch.equal(moved, again) and not torch.equal(moved, still)
    # Every frame and polarity of a sample is shifted and mirrored alike.
    for sample, original in zip(moved[:8], still[:8], strict=True):
        candidates = [
            torch.roll(flipped, (dy, dx), (-2, -1))[..., 4:-4, 4:-4]
            for flipped in (original, original.flip(-1)) for dy in range(-4, 5) for dx in range(-4, 5)
        ]  # fmt: skip
        assert any(torch.equal(sample[..., 4:-4, 4:-4], candidate) for candidate in candidates)
