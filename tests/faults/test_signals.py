"""Signals outside of a training step: one line and an exit code, wherever they come, and nothing left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import command, env

from snnrepro import cli, start
from snnrepro.data.loading import loader
from snnrepro.ending import unwinding
from snnrepro.errors import Stopped, StorageError
from snnrepro.jobs import _Pool
from snnrepro.runs import RunLock
from snnrepro.train import guards
from snnrepro.train.guards import StopRequest

# Sends this process a signal in the middle of an import, then starts the command.
IN_AN_IMPORT = """
import os, signal, sys

class Finder:
    def find_spec(self, name, *_):
        if name == sys.argv[1]:
            os.kill(os.getpid(), getattr(signal, sys.argv[2]))

sys.meta_path.insert(0, Finder())
from snnrepro.start import main
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.parametrize(
    ("module", "name", "words", "code"),
    [
        ("snnrepro.cli", "SIGINT", ["train", "--help"], 130),
        ("omegaconf", "SIGTERM", ["table", "table1", "--scale", "mini"], 75),
        ("torch._C", "SIGHUP", ["doctor"], 75),
        # torch imports numpy from C++, which swallows what is raised there.
        ("numpy.linalg", "SIGINT", ["doctor"], 130),
    ],
)
@pytest.mark.slow
def test_during_imports_one_line_ends_the_command(module, name, words, code, tmp_path):
    line = [sys.executable, "-c", IN_AN_IMPORT, module, name, *words]
    found = subprocess.run(line, cwd=tmp_path, env=env(), capture_output=True, text=True, timeout=100)
    assert found.returncode == code, found.stderr
    assert found.stderr.count("\n") == 1 and ("interrupted" in found.stderr or name in found.stderr)


@pytest.mark.advice("stopped by {}; the last checkpoint stands, the same command goes on from there")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGHUP, 75)])
def test_a_signal_unwinds_what_runs_and_the_same_command_goes_on(number, code, monkeypatch, capsys):
    cleaned, before = [], signal.getsignal(number)

    def work(_words):
        try:
            os.kill(os.getpid(), number)
        finally:
            cleaned.append(signal.getsignal(number))

    with monkeypatch.context() as patch:
        patch.setattr(cli, "main", work)
        assert start.main(["train"]) == code
    assert cleaned == [signal.SIG_DFL], "a second signal ends the process at once"
    assert capsys.readouterr().err.count("\n") == 1
    assert signal.getsignal(number) == before
    assert start.main(["--help"]) == 0


def test_what_nohup_ignores_stays_ignored(monkeypatch):
    monkeypatch.setattr(cli, "main", lambda _words: os.kill(os.getpid(), signal.SIGHUP) or 0)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert start.main([]) == 0
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.signal
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_thread_may_start_a_command():
    found = []
    thread = threading.Thread(target=lambda: found.append(start.main(["--help"])))
    thread.start()
    thread.join()
    assert found == [0]


@pytest.mark.parametrize("number", StopRequest.SIGNALS)
def test_a_run_saves_and_stops_at_these(number):
    with StopRequest() as stop:
        os.kill(os.getpid(), number)
    assert stop.signal == number.name


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_second_ctrl_c_is_one_only_where_nobody_passes_it_on(ranks, monkeypatch):
    monkeypatch.setattr(guards, "world_size", lambda: ranks)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        if ranks == 1:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        else:
            os.kill(os.getpid(), signal.SIGINT)
    assert stop.signal == "SIGINT"


@pytest.mark.advice("the process that forks the runs was ended; the same command goes on from here")
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_a_sweep_answers_while_its_server_still_imports(number, tiny):
    words = command("train", "-m", *tiny, "seed=0,1")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(words, env=env(), text=True, start_new_session=True, **pipes)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None and not (server := [pid for pid in children.read_text().split() if _is_server(pid)]):
        time.sleep(0.01)
    if number == signal.SIGKILL:
        os.kill(int(server[0]), number)
    else:
        os.killpg(process.pid, number)
    _, err = process.communicate(timeout=100)
    # A server that was killed before the first run asked for it is started once more, without a word.
    assert process.returncode in ({0, 1, 5} if number == signal.SIGKILL else {75, 130}), err
    assert err.count("\n") == int(process.returncode != 0), err
    again = subprocess.run(words, env=env(), capture_output=True, text=True, timeout=100)
    assert again.returncode == 0, again.stderr


def _is_server(pid):
    try:
        return "forkserver" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False


def test_sweeps_hear_a_closed_terminal(monkeypatch):
    pool = object.__new__(_Pool)
    pool.queue, pool.running, pool.signal = [object()], {}, 0
    pool.total = pool.at_a_time = pool.threads = 1
    pool._start = lambda _job: os.kill(os.getpid(), signal.SIGHUP)
    with pytest.raises(Stopped, match="SIGHUP"):
        pool.drain()


def test_unwinding_restores_what_was_there():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), unwinding():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


ORPHANS = """
import os, sys, time
from pathlib import Path
from snnrepro.build import build_dataset
from snnrepro.compose import compose_run
from snnrepro.data.loading import loader
from snnrepro.data.order import EpochOrder
from snnrepro.runs import RunLock

run = compose_run(sys.argv[2:])
with RunLock(Path(sys.argv[1])):
    data = build_dataset(run)
    batches = iter(loader(data.train, EpochOrder(160, seed=0, batch_size=1), workers=2, pin_memory=False))
    for _ in range(8):
        next(batches)
    print(*Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split(), flush=True)
    time.sleep(1000)
"""


@pytest.mark.slow
def test_loader_processes_end_with_a_killed_run_and_free_its_lock(tiny, tmp_path):
    line = [sys.executable, "-c", ORPHANS, str(tmp_path / "run"), *tiny]
    process = subprocess.Popen(line, env=env(), stdout=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in process.stdout.readline().split()]
    for worker in workers:
        # One that hangs, as in a read from a lost file server, does not look whether its parent lives.
        os.kill(worker, signal.SIGSTOP)
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 30
    while any(map(_lives, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(workers) >= 2 and not any(map(_lives, workers))
    # A process of several threads looks ended before the last of them has closed its files.
    while not _free(tmp_path / "run") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _free(tmp_path / "run")


def _free(folder):
    try:
        with RunLock(folder):
            return True
    except StorageError:
        return False


def _lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def test_loaders_ask_for_it():
    assert loader([], [], workers=1, pin_memory=False).worker_init_fn is not None
