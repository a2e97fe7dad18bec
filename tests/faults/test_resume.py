"""A run that is interrupted anywhere ends bit for bit where an undisturbed run ends."""

import random
import signal
import subprocess
import time

import pytest
import torch
from conftest import command, env
from faults.digest import run_digest

from snnrepro.compose import compose_run
from snnrepro.errors import Stopped
from snnrepro.runs import run_path
from snnrepro.train import loop
from snnrepro.train.loop import Trainer

# Dropout draws from the global generator, so a forgotten generator state shows.
WORDS = ["model.dropout=0.3", "neuron.learn_tau=true"]


class StopAfter:
    """Stands in for a signal that arrives during training step ``after``."""

    after = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    @property
    def signal(self):
        return "SIGTERM" if StopAfter.trainer.step >= StopAfter.after else ""


def interrupted_and_resumed(words, after, monkeypatch):
    """Trains to step ``after``, stops, and finishes with a new trainer; returns the run's digest."""
    run = compose_run(words)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "StopRequest", StopAfter)
        StopAfter.after, StopAfter.trainer = after, Trainer(run, run_path(run))
        with pytest.raises(Stopped, match=f"after step {after}"):
            StopAfter.trainer.fit()
    torch.manual_seed(999)  # a new process would not inherit the generator either
    Trainer(run, run_path(run)).fit()
    return run_digest(run_path(run))


@pytest.fixture
def undisturbed(tiny, tmp_path):
    run = compose_run([*tiny, *WORDS, f"runtime.output_dir={tmp_path}/undisturbed"])
    Trainer(run, run_path(run)).fit()
    return run_digest(run_path(run))


@pytest.mark.parametrize("after", range(1, 10))
def test_resume_is_exact_at_every_step(after, tiny, undisturbed, monkeypatch):
    assert interrupted_and_resumed([*tiny, *WORDS], after, monkeypatch) == undisturbed


def test_worker_processes_change_nothing(tiny, tmp_path, undisturbed):
    run = compose_run([*tiny, *WORDS, "runtime.workers=2", f"runtime.output_dir={tmp_path}/workers"])
    Trainer(run, run_path(run)).fit()
    assert run_digest(run_path(run)) == undisturbed


@pytest.mark.parametrize("forgotten", ["generators", "u_init", "momentum", "position"])
def test_control_a_forgotten_state_shows(forgotten, tiny, undisturbed, monkeypatch):
    original = Trainer.resume

    def forgetful(self):
        original(self)
        if forgotten == "u_init" and self.step:
            self.model.sn1.u_init.zero_()
        if forgotten == "momentum":
            self.optimizer.state.clear()
        if forgotten == "position":
            self.batch = 0

    monkeypatch.setattr(Trainer, "resume", forgetful)
    if forgotten == "generators":
        monkeypatch.setattr(loop, "restore_generators", lambda *_: None)
    assert interrupted_and_resumed([*tiny, *WORDS], 3, monkeypatch) != undisturbed


@pytest.mark.slow
def test_kill_9_at_ten_random_moments(tiny, tmp_path):
    """Ten kills over a run of 20 epochs; each rerun goes on, and the end is the same to the byte."""
    words = [*tiny, *WORDS, "epochs=20", "dataset.samples=400"]
    calm = [*words, f"runtime.output_dir={tmp_path}/calm"]
    subprocess.run(command("train", *calm), env=env(), check=True, stdout=subprocess.DEVNULL)
    seconds = _train_seconds(run_path(compose_run(calm)))
    moments, kills = random.Random(0), 0
    for _ in range(10):
        process = subprocess.Popen(command("train", *words), env=env(), stdout=subprocess.PIPE, text=True)
        for line in process.stdout:
            if line.startswith("on cpu"):
                break
        time.sleep(moments.uniform(0, seconds / 6))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += process.returncode == -9
    assert kills >= 8, "the run ended before it was killed often enough"
    subprocess.run(command("train", *words), env=env(), check=True, stdout=subprocess.DEVNULL)
    assert run_digest(run_path(compose_run(words))) == run_digest(run_path(compose_run(calm)))


def _train_seconds(path) -> float:
    from snnrepro.runs import read_record

    record = read_record(path)
    assert record is not None
    return record["timing"]["train_seconds"]


@pytest.mark.advice("stopped by {} {}, state saved; the same command resumes")
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_and_stops_and_the_same_command_resumes(number, tiny, tmp_path):
    words = [*tiny, "epochs=40", "dataset.samples=400"]
    process = subprocess.Popen(
        command("train", *words), env=env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.startswith("epoch 2/"):
            break
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert signal.Signals(number).name in err and "the same command resumes" in err
    assert err.count("\n") == 1
    step = int(err.split("after step ")[1].split()[0])
    path = run_path(compose_run(words))
    assert max(int(file.stem) for file in (path / "checkpoints").glob("*.json")) == step
    again = subprocess.run(command("train", *words), env=env(), capture_output=True, text=True)
    assert again.returncode == 0 and f"step {step}\n" in again.stdout
