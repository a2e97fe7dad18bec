"""What is stored beside events: archives, splits, frames, pictures; each fault in one line."""

from pathlib import Path

import pytest

from snnrepro import io
from snnrepro.cli import main
from snnrepro.data import digits
from snnrepro.data.events import cache, splits
from snnrepro.data.fetch import fetch_archive
from snnrepro.errors import DataError, StorageError


def test_a_process_that_dies_while_it_makes_frames_is_one_line(tmp_path, monkeypatch):
    def die(*_):
        raise cache.BrokenProcessPool("A process in the process pool was terminated abruptly")

    monkeypatch.setattr(cache, "_made", die)
    with pytest.raises(DataError, match="a process that made frames was ended"):
        cache.cached_frames(tmp_path, {}, 3, (1, 2, 4, 4), lambda index: (index, []))


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
