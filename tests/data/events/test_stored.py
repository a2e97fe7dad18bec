"""What is stored beside events: archives, splits, frames, pictures; each fault in one line."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from snnrepro import io
from snnrepro.cli import main
from snnrepro.data import digits
from snnrepro.data.events import cache, splits
from snnrepro.data.fetch import fetch_archive
from snnrepro.errors import DataError, StorageError


def frames(folder):
    def make(index):
        return np.ones((len(index), 1, 2, 4, 4), np.float16), []

    return cache.cached_frames(folder, {}, 3, (1, 2, 4, 4), make)


@pytest.mark.advice("was ended, as by a lack of memory; try again")
def test_a_process_that_dies_while_it_makes_frames_is_one_line(tmp_path, monkeypatch):
    def die(*_):
        raise cache.BrokenProcessPool("A process in the process pool was terminated abruptly")

    with monkeypatch.context() as patch, pytest.raises(DataError, match="a process that made frames was ended"):
        patch.setattr(cache, "_made", die)
        frames(tmp_path)
    assert frames(tmp_path)[0].all()


@pytest.mark.advice("remove it, it is made again")
def test_a_damaged_cache_that_cannot_be_removed_is_one_line(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(16, "Device or resource busy")

    frames(tmp_path)
    (target,) = (path for path in tmp_path.iterdir() if path.is_dir())
    (target / "meta.json").write_text("{")
    with monkeypatch.context() as patch, pytest.raises(StorageError) as caught:
        patch.setattr(cache.shutil, "rmtree", refuse)
        frames(tmp_path)
    assert str(caught.value) == f"{target}: cannot remove: Device or resource busy; remove it, it is made again"
    shutil.rmtree(str(caught.value).partition(": ")[0])
    capsys.readouterr()
    assert frames(tmp_path)[0].all() and "warning" not in capsys.readouterr().out


@pytest.mark.advice("although just made; check the disk")
def test_a_disk_that_does_not_keep_what_is_written_is_one_line(tmp_path, monkeypatch):
    replace = os.replace

    def lose(source, target):
        (source / "frames.npy").write_bytes(b"")
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(StorageError, match="unreadable although just made; check the"):
        patch.setattr(cache, "os", SimpleNamespace(**{**vars(os), "replace": lose}))
        frames(tmp_path)
    # With a disk that keeps it.
    assert frames(tmp_path)[0].all()


@pytest.mark.parametrize("content", [b"PK not a zip", b""])
def test_an_archive_inside_the_archive_that_is_damaged_is_named(tmp_path, content):
    (tmp_path / "cat.zip").write_bytes(content)
    with pytest.raises(DataError) as caught:
        fetch_archive(None, tmp_path, "cat.zip", None)
    assert str(caught.value).startswith(f"{tmp_path / 'cat.zip'}: ") and "\n" not in str(caught.value)
    assert "None" not in str(caught.value)


STORED = ["[]", "{", '{"test": [[1]]}', '{"test": "x", "sha256": ""}', '{"test": [[1], [2, 3]], "sha256": "0"}', "null"]


@pytest.mark.parametrize("content", STORED)
def test_a_stored_split_that_is_none_is_one_line(tmp_path, monkeypatch, content):
    for name in ("dvs_cifar10_last100.json", "digits_seed0.json"):
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(splits, "FOLDER", tmp_path)
    monkeypatch.setattr(digits, "SPLITS", tmp_path)
    with pytest.raises(StorageError, match=r"dvs_cifar10_last100\.json: .*; reinstall snnrepro"):
        splits.load("last100", 1000, 0)
    with pytest.raises(StorageError, match=r"digits_seed0\.json: .*; reinstall snnrepro"):
        digits.load(0.2, 0)


def test_a_preview_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SNNREPRO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache.os, "sched_getaffinity", lambda _: {0})
    words = ["data", "preview", "digits_dvs", "dataset.size=8", "timesteps=1", "dataset.test_fraction=0.05"]
    assert main([*words, f"runtime.output_dir={tmp_path}/out"]) == 0
    assert (tmp_path / "out" / "preview_digits_dvs.png").stat().st_size > 0
    capsys.readouterr()

    def full(*_):
        raise OSError(28, "No space left on device")

    for folder in (tmp_path / "out", Path("/proc/nowhere")):
        with monkeypatch.context() as patch:
            if folder.exists():
                patch.setattr(io.os, "fsync", full)
            assert main([*words, f"runtime.output_dir={folder}"]) == StorageError.exit_code
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "preview_digits_dvs.png: cannot write" in err
    assert not list(tmp_path.rglob("*.tmp.*"))
