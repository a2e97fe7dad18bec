"""ImageNet's folders on a small tree of real JPEGs: order, crops, evaluation, and every damage in one line."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from snnrepro.build import build_dataset
from snnrepro.cli import main
from snnrepro.compose import compose_run
from snnrepro.data import imagenet
from snnrepro.data.loading import loader
from snnrepro.data.order import EpochOrder
from snnrepro.errors import DataError

NAMES = ("n01440764", "n01443537", "n02102040")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, value in (("CLASSES", 3), ("TRAIN", 12), ("TEST", 6)):
        monkeypatch.setattr(imagenet, name, value)


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 2)):
        # In descending order, so that the order of creation is not the right one.
        for name in reversed(NAMES):
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for i in reversed(range(count)):
                size = rng.integers(40, 90, 2)
                pixels = np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((23, 23, 1)))[: size[0], : size[1]]
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}_{i}.JPEG", quality=95)
    return tmp_path / "data"


def build(root, *words, size=32):
    return build_dataset(compose_run(["dataset=imagenet", f"dataset.root={root}", f"dataset.size={size}", *words]))


def test_files_labels_and_shapes(root):
    data = build(root)
    assert (len(data.train), len(data.test), data.num_classes, data.in_shape) == (12, 6, 3, (3, 32, 32))
    assert [Path(file).name for file in data.train.files[:5]] == [
        "n01440764_0.JPEG", "n01440764_1.JPEG", "n01440764_2.JPEG", "n01440764_3.JPEG", "n01443537_0.JPEG"]  # fmt: skip
    images, labels = data.train.__getitems__([(0, 0), (0, 5), (0, 11)])
    assert images.shape == (3, 3, 32, 32) and images.dtype == torch.uint8 and labels.tolist() == [0, 1, 2]
    x = data.train.normalise(images)
    assert x.dtype == torch.float32 and x.abs().max() < 3
    assert not data.embedded


def test_evaluation_is_torchvisions(root):
    data = build(root, size=28)
    plain = v2.Compose([v2.Resize(32, antialias=True), v2.CenterCrop(28)])
    for index in range(6):
        expected = plain(imagenet.decode(data.test.files[index]))
        assert torch.equal(data.test.__getitems__([(0, index)])[0][0], expected)
    twice = [data.test.__getitems__([(epoch, 2)])[0] for epoch in (0, 5)]
    assert torch.equal(*twice)


def test_crops_depend_on_seed_epoch_and_index_alone(root):
    data, again, other = build(root), build(root), build(root, "seed=1")
    one = data.train.__getitems__([(3, 7)])[0]
    assert torch.equal(one, again.train.__getitems__([(3, 1), (3, 7)])[0][1:])
    assert not torch.equal(one, data.train.__getitems__([(4, 7)])[0])
    assert not torch.equal(one, other.train.__getitems__([(3, 7)])[0])
    order = EpochOrder(12, seed=0, batch_size=5)
    batches = [[i for i, _ in loader(data.train, order, workers=w, pin_memory=False)] for w in (0, 2)]
    assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))


def test_crops_have_torchvisions_distribution():
    draw = np.random.default_rng(0)
    ours = np.array([imagenet.random_crop(300, 400, draw) for _ in range(4000)])
    torch.manual_seed(0)
    image = torch.empty(3, 300, 400)
    theirs = np.array([
        v2.RandomResizedCrop.make_params(v2.RandomResizedCrop(224), [image]) for _ in range(4000)
    ])  # fmt: skip
    theirs = np.array([[p["top"], p["left"], p["height"], p["width"]] for p in theirs])
    assert (ours[:, 0] + ours[:, 2] <= 300).all() and (ours[:, 1] + ours[:, 3] <= 400).all()
    for column in range(4):
        assert abs(ours[:, column].mean() - theirs[:, column].mean()) < 6
        assert abs(ours[:, column].std() - theirs[:, column].std()) < 6
    assert imagenet.random_crop(10, 1000, draw)[2] == 10, "no crop of that shape fits: the centre"


def test_a_directorys_order_changes_nothing(root, monkeypatch):
    first = build(root)
    original = os.scandir
    monkeypatch.setattr(imagenet.os, "scandir", lambda path: sorted(original(path), key=lambda e: e.name, reverse=True))
    second = build(root)
    assert second.digest == first.digest and second.train.files == first.train.files


def spoil(root, what):
    file = root / "train" / NAMES[1] / f"{NAMES[1]}_2.JPEG"
    if what == "no such folder":
        shutil.rmtree(root)
    elif what == "missing class folder":
        shutil.rmtree(root / "train" / NAMES[2])
    elif what == "other classes in val":
        (root / "val" / NAMES[0]).rename(root / "val" / "n99999999")
    elif what == "unsorted val":
        for path in (root / "val").glob("*/*"):
            path.rename(root / "val" / path.name)
        for name in NAMES:
            (root / "val" / name).rmdir()
    elif what == "half-extracted":
        file.unlink()
    elif what == "empty file":
        file.write_bytes(b"")
    elif what == "truncated":
        file.write_bytes(file.read_bytes()[:60])
    elif what == "not an image":
        file.write_bytes(b"<html>404</html>")


SAYS = {
    "no such folder": r"train: no such folder; set dataset\.root",
    "missing class folder": "train: 2 class folders, ImageNet has 3",
    "other classes in val": "val: its class folders are not those of train, first n01440764",
    "unsorted val": "val: its class folders are not those of train.*sort val by class",
    "half-extracted": "train: 11 images, ImageNet has 12",
    "empty file": "n01443537_2.JPEG: empty file",
    "truncated": "n01443537_2.JPEG: not a readable image",
    "not an image": "n01443537_2.JPEG: not a readable image",
}


@pytest.mark.parametrize("what", SAYS)
def test_damage_is_one_line(root, what):
    spoil(root, what)
    with pytest.raises(DataError, match=SAYS[what]) as caught:
        data = build(root)
        for workers in (2, 0):
            list(loader(data.train, EpochOrder(12, seed=0, batch_size=4), workers=workers, pin_memory=False))
    assert "\n" not in str(caught.value)


JUNK = ["train/.ipynb_checkpoints/a.JPEG", "train/__MACOSX/n01440764/._a.JPEG", "val/.DS_Store", "val/Thumbs.db",
        "train/n01440764/._n01440764_0.JPEG", "train/n01440764/.ipynb_checkpoints/n01440764_0-checkpoint.JPEG",
        "val/n02102040/Thumbs.db", "train/notes.txt", "val/.ipynb_checkpoints/a.JPEG"]  # fmt: skip


@pytest.mark.parametrize("names", [*([name] for name in JUNK), JUNK], ids=lambda names: str(len(names)))
def test_what_systems_leave_in_folders_is_passed_over_and_said_once(root, capsys, names):
    expected = build(root)
    assert "passed over" not in capsys.readouterr().out
    for name in names:
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_bytes(b"junk")
    data = build(root)
    assert data.digest == expected.digest and data.train.files == expected.train.files
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and out.startswith("passed over, as neither classes nor images: ")
    assert len(names) == 1 or f" and {len(names) - 1} more" in out


def test_links_are_followed_and_what_is_no_file_is_named(root, tmp_path):
    expected = build(root)
    (root / "train" / NAMES[0]).rename(tmp_path / "elsewhere")
    (root / "train" / NAMES[0]).symlink_to(tmp_path / "elsewhere")
    assert build(root).digest == expected.digest
    file = root / "train" / NAMES[1] / f"{NAMES[1]}_2.JPEG"
    for make in (os.mkfifo, os.mkdir, lambda path: path.symlink_to("/nowhere")):
        file.unlink()
        make(file)
        with pytest.raises(DataError, match=r"n01443537_2\.JPEG: not a file"):
            build(root)
        if file.is_dir():
            file.rmdir()
            file.touch()


def test_a_folder_that_cannot_be_read_is_named(root, monkeypatch):
    original = os.scandir

    def refuse(path):
        if path.name == NAMES[1]:
            raise PermissionError(13, "Permission denied")
        return original(path)

    monkeypatch.setattr(imagenet.os, "scandir", refuse)
    with pytest.raises(DataError, match="n01443537: cannot read: Permission denied"):
        build(root)


def test_synthetic_pixels_need_no_files_and_train(tmp_path, capsys):
    words = ["dataset=imagenet", "dataset.synthetic=true", "dataset.root=/nowhere", "dataset.size=32", "epochs=1",
             "model=sew_resnet34", "model.widths=[4,4,4,4]", "model.blocks=[1,1,1,1]", "batch_size=6", "timesteps=2",
             "runtime.backend=reference", "runtime.device=cpu", f"runtime.output_dir={tmp_path}"]  # fmt: skip
    assert main(["train", *words]) == 0
    out = capsys.readouterr().out
    assert "synthetic pixels, 12 train / 6 test" in out and "not numbers of the paper" in out
