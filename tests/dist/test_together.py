"""What ranks decide, they decide together: words, clocks, long preparations, numbers that one of them has."""

import os
import signal
import socket
import subprocess
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch.distributed as dist
from conftest import TINY, command, env
from on_ranks import on_ranks

from snnrepro import distributed
from snnrepro.compose import compose_run
from snnrepro.errors import ConfigError, DivergedError
from snnrepro.launch import _code_of
from snnrepro.train import loop
from snnrepro.train.guards import StopRequest

PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


def decisions(rank, _ranks, words, folder):
    """What this rank saw, of faults that only one rank has."""
    seen = {}
    # Rank 0 prepares for longer than the others would wait for an answer.
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=1), dist.group.WORLD)
    seen["prepared"] = distributed.main_first(lambda: time.sleep(3 if rank == 0 else 0) or "data")
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=60), dist.group.WORLD)
    for case, values in {"alike": {"a": 1}, "seed": {"seed": rank}, "missing": {"a": 1} if rank else {}}.items():
        try:
            distributed.require_alike(values)
            seen[case] = ""
        except ConfigError as error:
            seen[case] = str(error)
    run = compose_run(words)
    trainer = loop.Trainer(run, Path(folder))
    saved, jump = [], [0.0]
    trainer.save = lambda: saved.append(trainer.step)
    original = trainer.train_step

    def step(batch):
        # The clock of rank 1 alone says that it is time to save.
        jump[0] += 1e6 if rank == 1 and trainer.step == 1 else 0
        return original(batch)

    trainer.train_step = step
    clock = time.perf_counter
    loop.time = SimpleNamespace(perf_counter=lambda: clock() + jump[0])
    trainer.train_epoch(StopRequest())
    seen["saved"] = saved

    def spoilt(x, y):
        answer = backward(x, y)
        if rank == 1:
            next(trainer.model.parameters()).grad.fill_(float("nan"))
        return answer

    trainer.train_step, trainer.forward_backward, backward = original, spoilt, trainer.forward_backward
    trainer.epoch, trainer.batch = 1, 0
    try:
        trainer.train_epoch(StopRequest())
    except DivergedError:
        seen["diverged"] = trainer.step
    return seen


@pytest.fixture(scope="module")
def decided(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    return on_ranks(folder, decisions, [*TINY, f"runtime.output_dir={folder}"], str(folder / "run"))


@pytest.mark.parametrize("what, right", [
    ("prepared", "data"), ("alike", ""), ("saved", [2]), ("diverged", 5),
    ("seed", "seed: 0 on rank 0, 1 on rank 1; start every rank with the same words, code and data"),
    ("missing", "a: None on rank 0, 1 on rank 1; start every rank with the same words, code and data"),
])  # fmt: skip
@pytest.mark.slow
@pytest.mark.dist
def test_all_ranks_see_the_same(what, right, decided):
    assert [seen.get(what) for seen in decided] == [right, right]


@pytest.mark.advice("start every rank with the same words, code and data")
@pytest.mark.slow
@pytest.mark.dist
def test_other_words_on_one_machine_are_named_at_the_start(tmp_path):
    def both(*words):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        numbers = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        started = [
            subprocess.Popen(
                command("train", *TINY, "epochs=1", *word),
                cwd=tmp_path,
                env={**env(), **place, **numbers, "RANK": str(rank)},
                **PIPES,
            )
            for rank, word in enumerate(words)
        ]
        return [(process.communicate(timeout=100)[1], process.returncode) for process in started]

    (err, code), other = both(["runtime.eval_batch_size=7"], ["runtime.rank_timeout=99"])
    assert code == 2 and "runtime.eval_batch_size: 7 on rank 0, 256 on rank 1" in err and err.count("\n") == 1
    assert other == ("", 2) and not list(tmp_path.glob("outputs/runs/*"))
    assert [code for _, code in both([], ["runtime.rank_timeout=99"])] == [0, 0]


@pytest.mark.parametrize(
    ("codes", "right", "says"),
    [
        ({0: 6, 1: -9}, 6, "rank 1 was ended by SIGKILL"),
        ({0: -15, 1: -11}, 6, "rank 1 was ended by SIGSEGV; the same"),
        ({0: 6, 1: 4}, 4, ""),
        ({0: 5, 1: 6}, 5, ""),
        ({0: 75, 1: 75}, 75, ""),
        ({0: 3, 1: 3}, 3, ""),
        ({0: 6, 1: 0}, 6, ""),
        ({0: -15, 1: 1}, 1, ""),
    ],
)
def test_the_exit_code_is_of_the_rank_that_knew(codes, right, says, capsys):
    failures = {rank: SimpleNamespace(exitcode=code) for rank, code in codes.items() if code}
    assert _code_of(SimpleNamespace(failures=failures)) == right
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == bool(says)


@pytest.mark.advice("{}{}; the same command resumes")
@pytest.mark.advice("stopped by {}; the same command resumes")
@pytest.mark.slow
@pytest.mark.dist
def test_a_killed_rank_ends_our_own_launcher_with_6_and_a_closed_terminal_with_75(tmp_path):
    words = command("train", *TINY, "runtime.processes=2", "runtime.rank_timeout=20", "epochs=5000")

    def ended(end, began="epoch 1/"):
        process = subprocess.Popen(words, cwd=tmp_path, env=env(), start_new_session=True, **PIPES)
        assert any(line.startswith(began) for line in process.stdout), process.stderr.read()
        end(process.pid)
        _, err = process.communicate(timeout=100)
        return process.returncode, err

    def kill_last_rank(launcher):
        children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
        ranks = [int(pid) for pid in children if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes()]
        os.kill(ranks[-1], signal.SIGKILL)

    code, err = ended(kill_last_rank)
    assert code == 6 and "rank 1 was ended by SIGKILL" in err, err
    assert all(line.startswith("error: ") for line in err.splitlines())
    code, err = ended(lambda group: os.killpg(group, signal.SIGHUP), "epoch ")
    assert code == 75 and "state saved" in err, err
    assert all(line.startswith("stopped: ") for line in err.splitlines())
    code, err = ended(lambda group: os.killpg(group, signal.SIGINT), "epoch ")
    assert code == 75 and "state saved" in err, err
