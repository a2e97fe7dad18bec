"""Shared by all tests: a run that takes a second, and a clean process-wide state."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
TINY = [
    "dataset=synthetic",
    "model.stem_width=4",
    "model.widths=[4,4,8]",
    "model.blocks=[1,1,1]",
    "epochs=2",
    "runtime.threads=1",
    "runtime.backend=reference",
]


@pytest.fixture(autouse=True)
def _restore_torch_settings():
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """Words of a run of a second, with its outputs in ``tmp_path``."""
    return [*TINY, f"runtime.output_dir={tmp_path}"]


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Runs ``python -m snnrepro WORDS`` in an empty folder, as a user would."""

    def call(*words: str, timeout: float = 120, through: Sequence[str] = ()) -> subprocess.CompletedProcess:
        line = command(*words, through=through)
        return subprocess.run(line, capture_output=True, text=True, timeout=timeout, cwd=tmp_path, env=env())

    return call


def command(*words: str, through: Sequence[str] = ()) -> list[str]:
    """Returns the command line of a child process, started by the words ``through`` where given."""
    return [sys.executable, *through, "-m", "snnrepro", *words]


def with_on_path(site: Path, folder: Path, *words: str) -> subprocess.CompletedProcess:
    """Runs ``python -m snnrepro WORDS`` in ``folder``, with what is installed in ``site``."""
    own = env()
    own["PYTHONPATH"] = os.pathsep.join([str(site), own["PYTHONPATH"]])
    return subprocess.run(command(*words), env=own, cwd=folder, capture_output=True, text=True, timeout=240)


def without(words: Sequence[str], *keys: str) -> list[str]:
    """Returns the words without those about ``keys``, which another option does not have."""
    return [word for word in words if word.partition("=")[0] not in keys]


def env() -> dict[str, str]:
    """Returns the environment of a child process: one thread, no key, no network."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
