"""A run's folder that others remove, move or take while it trains; locks that a file system does not have."""

import errno
import fcntl
import shutil
from pathlib import Path

import numpy as np
import pytest

from snnrepro import jobs
from snnrepro.cli import main
from snnrepro.compose import compose_run
from snnrepro.data.events.cache import cached_frames
from snnrepro.errors import StorageError
from snnrepro.runs import RunLock, run_path
from snnrepro.train.loop import Trainer


def removed(path):
    shutil.rmtree(path)


def with_its_parents(path):
    shutil.rmtree(path.parents[1])


def moved(path):
    path.rename(path.parents[1] / "elsewhere")


def taken(path):
    shutil.rmtree(path)
    path.mkdir()
    (path / "run.lock").write_text("process 1 on another machine\n")


@pytest.mark.advice("nothing more is written; the same command goes on with what is there")
@pytest.mark.parametrize("moment", ["train_step", "finish_epoch", "write_record"])
@pytest.mark.parametrize("fault", [removed, with_its_parents, moved, taken])
def test_a_run_writes_only_into_the_folder_that_it_locked(fault, moment, tiny, capsys, monkeypatch):
    path, original = run_path(compose_run(tiny)), getattr(Trainer, moment)

    def disturbed(self, *arguments):
        if (self.step == 3) or moment != "train_step":
            monkeypatch.setattr(Trainer, moment, original)
            fault(path)
        return original(self, *arguments)

    monkeypatch.setattr(Trainer, moment, disturbed)
    assert main(["train", *tiny]) == 5
    err = capsys.readouterr().err
    assert "was removed or moved while the run trained" in err and err.count("\n") == 1
    left = [file.name for file in path.rglob("*")] if path.exists() else []
    assert left == (["run.lock"] if fault is taken else [])
    assert main(["train", *tiny]) == 0, "the same command"


@pytest.mark.advice("cannot lock: {}; check the folder and its rights")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EIO])
def test_a_file_system_without_locks_is_named(number, tiny, tmp_path, capsys, monkeypatch):
    def refuse(*_):
        raise OSError(number, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse)
        assert main(["train", *tiny]) == 5
        with pytest.raises(StorageError, match="cannot lock: No locks available"):
            cached_frames(tmp_path / "frames", {}, 2, (1,), lambda index: np.zeros((len(index), 1), np.float16))
    err = capsys.readouterr().err
    assert "on a file system that has locks" in err and err.count("\n") == 1
    assert main(["train", *tiny]) == 0


def test_a_sweep_counts_what_another_program_finished_meanwhile(tiny, monkeypatch, capsys):
    words = [*tiny, "epochs=1"]
    job, other = (jobs.Job([*words, f"seed={seed}"], compose_run([*words, f"seed={seed}"])) for seed in (0, 1))
    drain = jobs._Pool.drain

    def meanwhile(pool):
        locks = [RunLock(each.path) for each in (job, other)]
        with locks[0], locks[1]:
            drain(pool)
        assert main(["train", *job.words]) == 0

    monkeypatch.setattr(jobs._Pool, "drain", meanwhile)
    jobs.run_jobs([job, other])
    assert capsys.readouterr().out.count("in use by process") == 2
    assert (job.status, other.status, other.code) == ("done", "failed", 5)


def test_the_lock_of_a_killed_process_is_no_lock(tmp_path):
    # Its number may be that of a living process by now.
    Path(tmp_path, "run.lock").write_text("process 1 on this machine\n")
    with RunLock(tmp_path) as lock:
        lock.held(lambda: None)
