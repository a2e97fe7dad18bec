"""Ranks that stop, die, hang or fail: the others end soon, say which one it was, and the same command resumes."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import TINY, command, env
from faults.digest import run_digest

pytestmark = [pytest.mark.slow, pytest.mark.dist]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
FAULTY = str(Path(__file__).with_name("faulty.py"))
WORDS = [*TINY, "model.dropout=0.3", "runtime.rank_timeout=8"]


def environment(folder, fault):
    return {**env(), "FAULT": fault, "FAULT_LOG": str(folder / "steps")}


def start(folder, fault="none"):
    line = [*TORCHRUN, FAULTY, "train", *WORDS]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(line, cwd=folder, env=environment(folder, fault), text=True, **pipes)


def run(folder, fault="none"):
    folder.mkdir(exist_ok=True)
    process = start(folder, fault)
    out, err = process.communicate(timeout=90)
    return process.returncode, out, err, time.time()


def digest(folder):
    (path,) = folder.glob("outputs/runs/*")
    return run_digest(path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    code, _, err, _ = run(folder)
    assert code == 0, err
    return digest(folder)


@pytest.mark.advice("lost rank {} (ended, or hangs): {}; the same command resumes")
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("kill:1:3", "error: rank 0: lost rank 1 (ended, or hangs)"),
        ("kill:0:6", "error: rank 1: lost rank 0 (ended, or hangs)"),
        ("exit:1:0", "error: rank 0: lost rank 1 (ended, or hangs)"),
        ("hang:1:3", "error: rank 0: lost rank 1 (ended, or hangs)"),
        ("data:1:7", "error: dataset=synthetic: a file is damaged"),
        ("SIGTERM:1:3", "stopped: stopped by a signal to another rank after step 4"),
        ("SIGUSR1:0:6", "stopped: stopped by SIGUSR1 after step 7"),
    ],
)
def test_the_others_say_what_happened_and_the_run_resumes(tmp_path, undisturbed, fault, says):
    code, _, err, ended = run(tmp_path, fault)
    assert code != 0
    assert says in err
    # The faulty rank's last line is the step of its fault, so a busy machine's slow start does not count.
    last = (tmp_path / f"steps.{fault.split(':')[1]}").read_text().splitlines()[-1]
    assert 0 < ended - float(last.split()[1]) < 8 + 15
    if fault.startswith("hang"):
        assert "faulty.py" in err and "Timeout" in err, "the stack of the rank that hangs"
    code, _, err, _ = run(tmp_path)
    assert code == 0, err
    assert digest(tmp_path) == undisturbed


def test_not_a_number_on_one_rank_ends_both_at_the_same_step(tmp_path):
    code, out, err, _ = run(tmp_path, "nan:1:4")
    assert code != 0 and "lost rank" not in err
    assert out.count("diverged: epoch 1, step 5: ") == 1
    steps = [len((tmp_path / f"steps.{rank}").read_text().splitlines()) for rank in range(2)]
    assert steps == [5, 5]
    assert len(list(tmp_path.glob("outputs/runs/*/record.json"))) == 1


def wait_for_steps(folder, count):
    files = [folder / f"steps.{rank}" for rank in range(2)]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        lines = [file.read_text().splitlines() if file.exists() else [] for file in files]
        if all(len(of_rank) >= count and of_rank[-1].count(" ") == 2 for of_rank in lines):
            return [int(of_rank[-1].split()[2]) for of_rank in lines]
        time.sleep(0.05)
    raise AssertionError("no steps")


def test_a_killed_launcher_leaves_no_orphans_and_a_checkpoint(tmp_path, undisturbed):
    process = start(tmp_path, "slow")
    workers = wait_for_steps(tmp_path, 3)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(map(alive, workers)):
        time.sleep(0.1)
    assert not any(map(alive, workers))
    assert list(tmp_path.glob("outputs/runs/*/checkpoints/*.json"))
    code, out, err, _ = run(tmp_path)
    assert code == 0, err
    assert "resuming at epoch 1" in out
    assert digest(tmp_path) == undisturbed


def alive(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return False


@pytest.mark.advice("stopped by {}; the same command resumes")
def test_a_signal_to_our_own_launcher_saves_and_exits_75(tmp_path):
    line = command("train", *WORDS, "runtime.processes=2", "epochs=500")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(line, cwd=tmp_path, env=env(), text=True, **pipes)
    for out in process.stdout:
        if out.startswith("epoch 2/"):
            break
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert "state saved; the same command resumes" in err
    again = subprocess.Popen(line, cwd=tmp_path, env=env(), text=True, **pipes)
    assert any(out.startswith("resuming at epoch") for out in again.stdout)
    again.send_signal(signal.SIGTERM)
    again.communicate(timeout=60)


@pytest.mark.advice("without torchrun, add runtime.processes=N")
def test_sweeps_are_refused_under_torchrun(tmp_path):
    line = [*TORCHRUN, "-m", "snnrepro", "train", "-m", *WORDS, "seed=0,1"]
    found = subprocess.run(line, cwd=tmp_path, env=env(), text=True, capture_output=True, timeout=60)
    assert found.returncode != 0
    assert found.stderr.count("error: -m: a sweep starts the processes of its runs itself") == 1
    line = command("train", "-m", *WORDS, "seed=0,1", "runtime.processes=2")
    found = subprocess.run(line, cwd=tmp_path, env=env(), text=True, capture_output=True, timeout=120)
    assert found.returncode == 0 and "2 runs" in found.stdout, found.stderr
