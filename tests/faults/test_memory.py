"""A lack of memory is one line whose advice works, never a traceback and never a result."""

import resource
import subprocess

import pytest
import torch
from conftest import TINY, command, env

from snnrepro import cli, start
from snnrepro.errors import MemoryShortage, shortage

CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 5242880 "
    "bytes. Error code 12 (Cannot allocate memory)"
)
GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 15 GiB")
LIBRARY = ImportError("libtorch_cpu.so: failed to map segment from shared object")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (CPU, "5242880 bytes; lower batch_size"),
        (GPU, "20.00 GiB; lower batch_size"),
        (MemoryError(), "not enough memory; lower batch_size"),
        (RuntimeError("std::bad_alloc"), "lower batch_size"),
        (OSError(12, "Cannot allocate memory"), "lower batch_size"),
        (LIBRARY, "to load the libraries; raise the limit"),
    ],
)
def test_it_is_one_line(error, says, monkeypatch, capsys):
    def work(_words):
        raise error

    monkeypatch.setattr(cli, "main", work)
    assert start.main(["train"]) == MemoryShortage.exit_code
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ImportError("no module x"), ValueError("memory")])
def test_other_errors_keep_their_traceback(error):
    assert shortage(error) is None


@pytest.mark.advice("which keeps it; where it was evaluating, lower runtime.eval_batch_size")
@pytest.mark.advice("not enough memory to load the libraries; raise the limit of this shell")
@pytest.mark.slow
def test_the_advice_works(tmp_path):
    words = [*TINY, "epochs=1", "dataset.samples=400", "batch_size=320", "timesteps=64", "model.stem_width=64"]

    def run(gigabytes, *more):
        def limit():
            resource.setrlimit(resource.RLIMIT_AS, (int(gigabytes * 2**30),) * 2)

        line = command("train", *words, *more)
        return subprocess.run(line, cwd=tmp_path, env=env(), capture_output=True, text=True, preexec_fn=limit)

    found = run(1)
    assert found.returncode == 1 and found.stderr.startswith("error: not enough memory to load"), found.stderr
    found = run(4.8)
    assert found.returncode == 1 and "lower batch_size, or raise micro_batches" in found.stderr, found.stderr
    assert found.stderr.count("\n") == 1 and not list(tmp_path.glob("outputs/runs/*/record.json"))
    found = run(4.8, "micro_batches=16", "runtime.eval_batch_size=16")
    assert found.returncode == 0, found.stderr
