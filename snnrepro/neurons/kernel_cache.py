"""Where compiled libraries live, how a missing one is made, and how one is loaded."""

import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from snnrepro import io
from snnrepro.errors import UserError
from snnrepro.neurons.dynamics import Dynamics

SOURCES = ("analytic.py", "surrogates.py", "compile_worker.py")


class Kernel(NamedTuple):
    """What one library is compiled for: a function of ``analytic.py``, and what is not symbolic in it.

    steps: leading size of the input, 1 where the current is constant over the window. dtype: of the input.
    """

    function: str
    dyn: Dynamics
    steps: int
    shortcut: bool
    dtype: str
    channels_last: bool

    def file_name(self) -> str:
        """Returns the library's name in the cache; it says what is inside."""
        words = [self.function, *map(str, self.dyn), f"{self.steps}steps", self.dtype]
        words += [word for word in ("shortcut", "channels_last") if getattr(self, word)]
        return "-".join(words) + ".pt2"


def compiler() -> str | None:
    """Returns the path of the C++ compiler that Inductor would call, or None where there is none."""
    return shutil.which(os.environ.get("CXX", "g++"))


def cache_folder() -> Path:
    """Returns the folder of this machine's libraries: another CPU, torch or source file means another folder."""
    return io.cache_home() / "kernels" / _fingerprint()


@cache
def library(kernel: Kernel) -> Any:
    """Returns the loaded library, ``run(list of tensors) -> list of tensors``; compiles it first where missing.

    Raises UserError when the compilation fails.
    """
    path = cache_folder() / kernel.file_name()
    if not path.exists():
        _compile(_companions(kernel))
    from torch._inductor import aoti_load_package

    return aoti_load_package(str(path)).loader


def _companions(kernel: Kernel) -> list[Kernel]:
    """Returns the kernels to compile together with this one.

    The first of those that a residual network with static images needs brings all of them, so that they are made
    side by side; any other comes alone.
    """
    dyn = kernel.dyn
    steps, dtype = dyn.timesteps, kernel.dtype
    # A plain LIF is met first and has no layout; the default run has channels_last.
    channels_last = kernel.channels_last or kernel.function.startswith("lif")
    functions = ("norm_lif_backward", "norm_lif_reduce", "norm_lif_forward")
    usual = [Kernel(f, dyn, steps, shortcut, dtype, channels_last) for shortcut in (True, False) for f in functions]
    usual += [Kernel(f, dyn, 1, False, dtype, False) for f in ("lif_backward", "lif_forward")]
    return usual if kernel in usual else [kernel]


def _compile(kernels: list[Kernel]) -> None:
    folder = cache_folder()
    io.make_dir(folder)
    # Jobs of a sweep start together: one compiles, the others wait and find the libraries.
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [kernel for kernel in kernels if not (folder / kernel.file_name()).exists()]
        if not missing:
            return
        print(f"compiling {len(missing)} LIF kernels for this machine, once (about {4 * len(missing)} s)", flush=True)
        started = time.perf_counter()
        command = [sys.executable, "-m", "snnrepro.neurons.compile_worker", str(folder)]
        result = subprocess.run(command, input=json.dumps(missing), capture_output=True, text=True, check=False)
    if result.returncode:
        if result.returncode in (-signal.SIGINT, 128 + signal.SIGINT):
            raise KeyboardInterrupt
        io.write_atomic(folder / "error.log", result.stderr)
        raise UserError(
            f"compiling the LIF kernels failed, see {folder / 'error.log'}; runtime.backend=reference works"
        )
    print(f"compiled in {time.perf_counter() - started:.0f} s", flush=True)


@cache
def _fingerprint() -> str:
    """Returns a digest of all that a library depends on besides its ``Kernel``."""
    here = Path(__file__).parent
    parts = [torch.__version__.encode(), *((here / name).read_bytes() for name in SOURCES)]
    parts.append(torch.backends.cpu.get_cpu_capability().encode())
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        parts += [line.encode() for line in lines if line.startswith(("model name", "flags"))][:2]
    except OSError:
        parts.append(platform.processor().encode())
    return io.sha256(b"\0".join(parts))[:16]
