"""What surrounds a run: variables that a launcher left, systems other than Linux, few threads, runs of other epochs."""

import importlib
import os
import socket
import subprocess
import sys
import threading

import pytest
from conftest import ROOT, command, env

from snnrepro import launch, system
from snnrepro.cli import main
from snnrepro.compose import compose_run
from snnrepro.errors import ConfigError
from snnrepro.identity import run_id
from snnrepro.runs import run_path, with_other_epochs

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
COMPLETE = "RANK=0 WORLD_SIZE=2 LOCAL_RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500"


def surround(monkeypatch, variables: str) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for pair in variables.split():
        monkeypatch.setenv(*pair.split("="))


LEFT = {
    "RANK=0 WORLD_SIZE=2": "RANK=0 WORLD_SIZE=2: without LOCAL_RANK, MASTER_ADDR, MASTER_PORT",
    "RANK=0": "RANK=0: without WORLD_SIZE",
    "RANK=1": "RANK=1: without WORLD_SIZE",
    "WORLD_SIZE=2": "WORLD_SIZE=2: without RANK",
    "RANK=a WORLD_SIZE=2": "RANK must be a whole number",
    "RANK=0 WORLD_SIZE=two": "WORLD_SIZE must be a whole number",
    "RANK=-1 WORLD_SIZE=2": "RANK must be a whole number",
    "RANK=0 WORLD_SIZE=": "WORLD_SIZE must be a whole number",
    "RANK=1 WORLD_SIZE=1": "without LOCAL_RANK",
    "RANK=0 WORLD_SIZE=2 LOCAL_RANK=0 MASTER_PORT=29500": "without MASTER_ADDR",
    "RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500": "without LOCAL_RANK",
    COMPLETE.replace("RANK=0", "RANK=2", 1): "contradict each other",
    COMPLETE.replace("29500", "99999"): "contradict each other",
    COMPLETE + " LOCAL_WORLD_SIZE=3": "contradict each other",
}


@pytest.mark.advice("if a launcher left them behind: unset {}")
@pytest.mark.parametrize(
    "command", [["train"], ["train", "-m", "seed=0,1"], ["train", "nosuch=1"], ["evaluate", "run=x"]]
)
@pytest.mark.parametrize("variables", LEFT)
def test_variables_that_a_launcher_left_are_named(variables, command, monkeypatch, capsys):
    surround(monkeypatch, variables)
    assert main(command) == ConfigError.exit_code
    err = capsys.readouterr().err
    assert LEFT[variables] in err and err.count("\n") == 1
    assert "torchrun --nproc-per-node=2 train.py" in err
    # The advice: without them there is one process.
    for name in err.partition("unset ")[2].partition(";")[0].split():
        monkeypatch.delenv(name)
    assert not launch.launched()


@pytest.mark.parametrize("variables", ["", "RANK=0 WORLD_SIZE=1", "WORLD_SIZE=1", "LOCAL_WORLD_SIZE=a", "LOCAL_RANK=3"])
def test_variables_of_one_process_are_no_fault(variables, monkeypatch):
    surround(monkeypatch, variables)
    assert not launch.launched() and launch.processes_here() == 1


def test_only_training_is_shared(monkeypatch, capsys):
    surround(monkeypatch, COMPLETE)
    assert launch.launched()
    for words in (["evaluate", "run=x"], ["table", "table10"], ["claims"], ["doctor"], ["plan"]):
        assert main(words) == 2
        assert f"{words[0]}: runs in one process" in capsys.readouterr().err
    assert main(["train", "-m", "seed=0,1"]) == 2
    assert "runtime.processes=N" in capsys.readouterr().err


def test_processes_that_do_not_come_are_waited_for_and_named(tiny, monkeypatch, capsys):
    surround(monkeypatch, COMPLETE.replace("29500", "1"))
    assert main(["train", *tiny, "runtime.rank_timeout=1"]) == 6
    err = capsys.readouterr().err
    assert "MASTER_ADDR:MASTER_PORT = 127.0.0.1:1" in err and "runtime.rank_timeout=1" in err


@pytest.mark.slow
@pytest.mark.advice("another program has this port; choose another one for all ranks")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_port_that_another_program_has_is_named(rank, tiny, cli, monkeypatch):
    """It takes connections and says nothing, on which rank 1 once waited without an end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        surround(monkeypatch, COMPLETE.replace("29500", str(taken)).replace("RANK=0", f"RANK={rank}"))
        result = cli("train", *tiny, "runtime.rank_timeout=1")
        assert result.returncode == 6 and result.stderr.count("\n") == 1
        says = "another program has this port; choose another one for all ranks" if rank == 0 else "does not answer"
        assert f"rank {rank} of 2" in result.stderr and f"127.0.0.1:{taken}" in result.stderr and says in result.stderr
        if rank == 0:
            with socket.create_server(("127.0.0.1", 0)) as free:
                other = str(free.getsockname()[1])
            ranks = [
                subprocess.Popen(
                    command("train", *tiny, "epochs=1", "runtime.rank_timeout=60"),
                    env={**env(), "RANK": number, "LOCAL_RANK": number, "MASTER_PORT": other},
                )
                for number in "01"
            ]
            assert [process.wait() for process in ranks] == [0, 0]


@pytest.mark.parametrize("name", ["SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"])
def test_other_launchers_are_said_to_share_nothing(name, monkeypatch, capsys):
    surround(monkeypatch, "")
    monkeypatch.setenv(name, "2")
    launch.note_other_launchers()
    assert capsys.readouterr().out.startswith(f"{name}=2: this process trains by itself")
    monkeypatch.setenv(name, "1")
    launch.note_other_launchers()
    assert capsys.readouterr().out == ""


def test_a_system_that_ties_no_process_to_cores(monkeypatch, tiny, capsys):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert system.usable_cores() == os.cpu_count()
    assert main(["doctor"]) == 0 and f"{os.cpu_count()} cores" in capsys.readouterr().out
    assert main(["train", *tiny, "epochs=1", "runtime.threads=null"]) == 0


def test_affinity_and_locks_are_asked_in_one_place():
    others = {"system.py"}
    for path in [*(ROOT / "snnrepro").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]:
        if path.name not in others:
            assert not {"sched_getaffinity", "fcntl"} & set(path.read_text().replace(".", " ").split()), path


@pytest.mark.parametrize("words", [["doctor"], ["train"], ["train", "--help"], ["table", "table10"], []])
def test_windows_gets_one_line(words, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    try:
        importlib.reload(system)
        assert main(words) == 1
    finally:
        monkeypatch.undo()
        importlib.reload(system)
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "on Windows use WSL" in err


def test_more_threads_than_the_machine_starts(tiny, monkeypatch, capsys):
    original, started = threading.Thread.start, []

    def start(self):
        if len(started) == 30:
            raise RuntimeError("can't start new thread")
        started.append(self)
        original(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    assert main(["train", *tiny, "runtime.threads=1024"]) == 2
    err = capsys.readouterr().err
    assert "runtime.threads=1024: this machine starts no more than 30 threads" in err
    advice = err.split()[-1]
    assert compose_run([advice]).runtime.threads == system.usable_cores()
    assert not any(thread.is_alive() for thread in started)


def test_a_run_with_other_epochs_is_another_run_and_says_so(tiny, capsys):
    assert main(["train", *tiny, "epochs=1"]) == 0
    assert "starts from zero" not in capsys.readouterr().out
    run = compose_run([*tiny, "epochs=2"])
    assert with_other_epochs(run) == [(run_id(compose_run([*tiny, "epochs=1"])), 1)]
    for other in ("optimizer.lr=0.5", "seed=1", "neuron=lif", "timesteps=3"):
        assert not with_other_epochs(compose_run([*tiny, "epochs=2", other]))
    damaged = run_path(run).parent / f"{run_id(run)[:-10]}0123456789"
    damaged.mkdir()
    (damaged / "config.yaml").write_text("a: [")
    assert main(["train", *tiny, "epochs=2"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "starts from zero" in line]
    assert len(lines) == 1 and lines[0].startswith("epochs=2: ") and "epochs=1" in lines[0]
    assert main(["train", *tiny, "epochs=2"]) == 0
    assert "starts from zero" not in capsys.readouterr().out


def test_the_advice_of_an_evaluation_works(tiny, capsys):
    words = [word for word in tiny if not word.startswith("runtime.backend")]
    assert main(["train", *tiny]) == 0
    path = run_path(compose_run(tiny))
    evaluate = ["evaluate", f"run={path.name}", *[word for word in words if word.startswith("runtime.output_dir")]]
    capsys.readouterr()
    assert main([*evaluate, "timesteps=33", "runtime.backend=compiled"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "runtime.backend=reference" in err
    advice = next(word for word in err.split() if word.endswith("=reference"))
    assert main([*evaluate, "timesteps=33", advice]) == 0
    assert "timesteps=33: top-1" in capsys.readouterr().out
    for key in ("runtime.precision=bf16", "runtime.eval_batch_size=7", "runtime.threads=null", "runtime.workers=0"):
        assert main([*evaluate, key]) == 0
    capsys.readouterr()
    for wrong in ("timesteps=0", "timesteps=1000000", "runtime.backend=nosuch", "runtime.eval_batch_size=0",
                  "runtime.workers=x", "runtime.precision=fp8", "runtime.threads=1,2"):  # fmt: skip
        assert main([*evaluate, wrong]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and wrong.partition("=")[0] in err
