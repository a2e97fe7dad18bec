"""Damaged checkpoints, full disks, sweeps that are stopped: what is lost is at most the current step."""

import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import command, env
from faults.digest import run_digest
from faults.test_resume import StopAfter

from snnrepro.cli import main
from snnrepro.compose import compose_run
from snnrepro.errors import Stopped
from snnrepro.runs import read_record, run_path
from snnrepro.train import loop
from snnrepro.train.checkpoint import Checkpoints
from snnrepro.train.loop import Trainer, train


@pytest.fixture
def stopped(tiny, monkeypatch):
    """Words of a run that was stopped in its third epoch, with several checkpoints."""
    words = [*tiny, "epochs=3"]
    run = compose_run(words)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "StopRequest", StopAfter)
        StopAfter.after, StopAfter.trainer = 12, Trainer(run, run_path(run))
        with pytest.raises(Stopped):
            StopAfter.trainer.fit()
    checkpoints = Checkpoints(run_path(run) / "checkpoints")
    assert len(checkpoints.steps()) >= 2
    return words, checkpoints


def halve(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_damaged_newest_checkpoint_falls_back_and_ends_the_same(stopped, tmp_path, capsys):
    words, checkpoints = stopped
    halve(checkpoints.file(checkpoints.steps()[-1]))
    assert main(["train", *words]) == 0
    assert "damaged" in capsys.readouterr().out
    calm = compose_run([*words, f"runtime.output_dir={tmp_path}/calm"])
    train(calm)
    assert run_digest(run_path(compose_run(words))) == run_digest(run_path(calm))


def test_no_valid_checkpoint_ends_with_one_line(stopped, capsys):
    words, checkpoints = stopped
    for step in checkpoints.steps():
        halve(checkpoints.file(step))
    assert main(["train", *words]) == 5
    err = capsys.readouterr().err
    assert "no valid checkpoint" in err and err.count("\n") == 1


def test_evaluating_a_damaged_checkpoint_ends_with_one_line(stopped, capsys):
    _, checkpoints = stopped
    file = checkpoints.file(checkpoints.steps()[-1])
    halve(file)
    assert main(["evaluate", f"checkpoint={file}"]) == 5
    assert "damaged" in capsys.readouterr().err


@pytest.mark.slow
def test_a_full_disk_ends_with_one_line_and_nothing_half_written(tiny, tmp_path):
    """A limit on file size stands in for the full disk: the checkpoint does not fit."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    result = subprocess.run(command("train", *tiny), env=env(), capture_output=True, text=True, preexec_fn=limit)
    assert result.returncode == 5
    assert result.stderr.count("\n") == 1 and "cannot write" in result.stderr
    folder = run_path(compose_run(tiny)) / "checkpoints"
    assert not list(folder.glob("*")) and read_record(folder.parent) is None
    result = subprocess.run(command("train", *tiny), env=env(), capture_output=True, text=True)
    assert result.returncode == 0, "the same command works once there is room"


@pytest.mark.advice("the same command goes on from here")
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_sweep_goes_on_where_it_was(number, tiny, tmp_path):
    words = ["-m", *tiny, "epochs=25", "dataset.samples=400", "seed=0,1,2"]
    process = subprocess.Popen(
        command("train", *words), env=env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.startswith("[1/"):
            break
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (75 if number == signal.SIGINT else -9)
    if number == signal.SIGINT:
        assert err.count("\n") == 1 and "SIGINT" in err
    done = [read_record(run_path(compose_run([*words[1:-1], f"seed={seed}"]))) for seed in range(3)]
    assert any(done) and not all(done)
    again = subprocess.run(command("train", *words), env=env(), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    for seed, record in enumerate(done):
        path = run_path(compose_run([*words[1:-1], f"seed={seed}"]))
        lines = (path / "metrics.jsonl").read_text().splitlines()
        assert len(lines) == 25, "no epoch is missing or written twice"
        assert record is None or record == read_record(path), "a finished run is not trained again"


@pytest.mark.slow
def test_without_the_server_that_forks_its_jobs_a_sweep_ends_and_goes_on(tiny):
    words = ["-m", *tiny, "epochs=25", "dataset.samples=400", "seed=0,1"]
    process = subprocess.Popen(
        command("train", *words), env=env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    runs = [run_path(compose_run([*words[1:-1], f"seed={seed}"])) for seed in range(2)]
    while not any((run / "metrics.jsonl").exists() for run in runs):
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (server,) = [int(pid) for pid in children if "forkserver" in Path(f"/proc/{pid}/cmdline").read_text()]
    os.kill(server, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "runs have no result; the same command retries them" in err
    again = subprocess.run(command("train", *words), env=env(), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    for run in runs:
        assert len((run / "metrics.jsonl").read_text().splitlines()) == 25, "no epoch is missing or written twice"
