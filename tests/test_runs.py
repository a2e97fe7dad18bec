"""Identity, lock and record of a run; the files behind them."""

import os
import subprocess
import sys

import pytest

from snnrepro import io
from snnrepro.compose import compose_run
from snnrepro.errors import StorageError
from snnrepro.identity import run_id
from snnrepro.runs import RunLock, read_record


def test_equal_values_give_equal_ids():
    assert run_id(compose_run([])) == run_id(compose_run(["neuron.tau=2"])) == run_id(compose_run(["dataset=digits"]))


@pytest.mark.parametrize("word", ["runtime.output_dir=x", "runtime.workers=2", "runtime.threads=1", "logger=wandb"])
def test_paths_and_execution_do_not_make_another_run(word):
    assert run_id(compose_run([word])) == run_id(compose_run([]))


@pytest.mark.parametrize("word", ["seed=1", "neuron.v_threshold=0.5", "runtime.precision=bf16", "surrogate=arctan"])
def test_what_changes_results_makes_another_run(word):
    assert run_id(compose_run([word])) != run_id(compose_run([]))


def test_a_moved_dataset_is_the_same_run():
    assert run_id(compose_run(["dataset=cifar10"])) == run_id(compose_run(["dataset=cifar10", "dataset.root=/x"]))


def test_second_writer_is_refused_and_told_who_holds_the_run(tmp_path):
    with RunLock(tmp_path), pytest.raises(StorageError, match=f"process {os.getpid()}"), RunLock(tmp_path):
        pass
    with RunLock(tmp_path):
        pass


def test_lock_is_freed_when_its_owner_is_killed(tmp_path):
    code = f"""
import os, signal
from pathlib import Path
from snnrepro.runs import RunLock
with RunLock(Path({str(tmp_path)!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    with RunLock(tmp_path):
        pass


def test_damaged_record_is_named(tmp_path):
    assert read_record(tmp_path) is None
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(StorageError, match=r"record\.json"):
        read_record(tmp_path)


def test_atomic_write_keeps_the_old_content_on_failure(tmp_path, monkeypatch):
    file = tmp_path / "a"
    io.write_atomic(file, "old")

    def full(_fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        io.write_atomic(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_nan_is_never_written_as_json(tmp_path):
    with pytest.raises(ValueError):
        io.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_unwritable_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot create"):
        io.make_dir(tmp_path / "file" / "sub")
