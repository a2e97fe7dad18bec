"""Where and how a run executes: device, threads, precision, backend, seeds, and what is recorded of them."""

import os
import platform
import random
import subprocess
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from snnrepro import __version__
from snnrepro.collectives import world_size
from snnrepro.errors import ConfigError
from snnrepro.execution import RuntimeConfig
from snnrepro.launch import processes_here
from snnrepro.neurons.kernels.cpu.cache import compiler, no_compiler
from snnrepro.plugins import plugins
from snnrepro.system import require_threads, usable_cores

AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(device: str) -> torch.device:
    """Returns the device; ``auto`` is CUDA where present. Raises ConfigError when CUDA is asked for and absent."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("runtime.device=cuda: torch finds no CUDA device here; use runtime.device=cpu")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


@cache
def resolve_backend(backend: str, device: str) -> str:
    """Returns the LIF implementation that ``auto`` stands for: triton on CUDA, compiled on CPUs.

    Without a C++ compiler ``auto`` on a CPU is the reference, and one line says so. Raises ConfigError for a backend
    that this machine cannot run.
    """
    cuda = resolve_device(device).type == "cuda"
    if backend == "triton" and not cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ConfigError("runtime.backend=triton: needs a CUDA device; use runtime.backend=auto")
    if backend == "compiled" and cuda:
        raise ConfigError("runtime.backend=compiled: made for CPUs; on CUDA use runtime.backend=auto or triton")
    if backend == "compiled" and compiler() is None:
        raise ConfigError(f"runtime.backend=compiled: {no_compiler()}; install g++ or use runtime.backend=auto")
    if backend != "auto":
        return backend
    if not cuda and compiler() is None:
        print(f"{no_compiler()}: LIF layers run on the slower reference backend; install g++ to compile them")
        return "reference"
    return "triton" if cuda else "compiled"


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """Returns the autocast context of ``precision`` (fp32: none). Neurons integrate in fp32 inside it."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, AUTOCAST_DTYPES[precision])


def place(model: nn.Module, device: torch.device, channels_last: bool) -> nn.Module:
    """Returns ``model``, moved to the device and into the asked memory format."""
    model.to(device)
    return model.to(memory_format=torch.channels_last) if channels_last else model


def set_up(runtime: RuntimeConfig, seed: int) -> torch.device:
    """Seeds everything, sets threads and determinism, and returns the device."""
    device = resolve_device(runtime.device)
    # The ranks on one machine share its cores.
    threads = runtime.threads or max(1, usable_cores() // processes_here())
    require_threads("runtime.threads", threads)
    torch.set_num_threads(threads)
    # cuBLAS reads this when it is first used; without it the deterministic switch below would refuse matmuls.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # The same switch as use_deterministic_algorithms, which also imports Inductor: 2 s that no run here needs.
    torch.set_deterministic_debug_mode("error" if runtime.deterministic else "default")
    # Every tensor here is written before it is read; filling each one first would cost 4 % of a small step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not runtime.deterministic
    seed_all(seed)
    return device


def seed_all(seed: int) -> None:
    """Seeds all random generators."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - what other libraries draw from
    random.seed(seed)


def rng_state() -> dict[str, Any]:
    """Returns the states of all random generators, as tensors and plain values only."""
    name, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    assert isinstance(keys, np.ndarray)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        # A checkpoint holds tensors and plain values; NumPy's uint32 keys become int64.
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
        "python": random.getstate(),
    }


def same_generators(state: dict[str, Any]) -> bool:
    """Returns whether ``rng_state`` was taken with as many GPUs as there are here."""
    return len(state["cuda"]) == (torch.cuda.device_count() if torch.cuda.is_available() else 0)


def restore_rng(state: dict[str, Any]) -> None:
    """Restores what ``rng_state`` returned; the generators of GPUs where there are as many."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and same_generators(state):
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    version, words, cached = state["python"]
    random.setstate((version, tuple(words), cached))


def provenance(runtime: RuntimeConfig, device: torch.device) -> dict[str, Any]:
    """Returns what produced a result: commit, versions, hardware, flags."""
    cuda = device.type == "cuda"
    return {
        "snnrepro": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "processor": _processor(),
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "processes": world_size(),
        "threads": torch.get_num_threads(),
        "backend": resolve_backend(runtime.backend, runtime.device),
        "precision": runtime.precision,
        "deterministic": runtime.deterministic,
        "channels_last": runtime.channels_last,
        "plugins": {plugin.distribution: plugin.version for plugin in plugins()},
    }


def code_of(provenance: dict[str, Any]) -> dict[str, Any]:
    """Returns the part of a provenance that says which code ran."""
    return {key: provenance[key] for key in ("snnrepro", "commit", "torch")}


def _commit() -> str | None:
    """Returns the checkout's commit, "-dirty" where files differ from it, or None outside a checkout."""
    folder = Path(__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return None
    # Also where another user owns the checkout, and under a hook of git, whose variables point to its own repository.
    command = ["git", "-c", f"safe.directory={folder}", "-C", str(folder)]
    command += ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
