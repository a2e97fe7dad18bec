"""Where the libraries compiled from ``lif.cpp`` live, how a missing one is made, and how one is loaded."""

import ctypes
import fcntl
import os
import platform
import shutil
import signal
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path

import torch

from snnrepro import io
from snnrepro.errors import UserError
from snnrepro.neurons.dynamics import Dynamics

SOURCES = ("lif.cpp", "lif_sweep.h", "lif_vector.h")
_VALUES = {torch.float32: "float", torch.bfloat16: "BFloat16", torch.float16: "Float16"}
# Without contraction into fused multiply-adds: a membrane is rounded as in the reference, forward and backward.
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC", "-shared", "-ffp-contract=off", "-fno-math-errno",
         "-fno-trapping-math", "-Wno-psabi")  # fmt: skip


def compiler() -> str | None:
    """Returns the path of the C++ compiler, ``CXX`` or g++, or None where there is none."""
    return shutil.which(os.environ.get("CXX", "g++"))


def cache_folder() -> Path:
    """Returns the folder of this machine's libraries: another CPU, compiler or source means another folder."""
    return io.cache_home() / "kernels" / _fingerprint()


@cache
def library(rules: Dynamics, dtype: torch.dtype) -> ctypes.CDLL:
    """Returns the loaded library of one set of rules, for inputs of ``dtype``; compiles it first where missing.

    One library serves every gamma. Raises UserError when the compilation fails.
    """
    macros = {
        "TIMESTEPS": str(rules.timesteps),
        "FAMILY": rules.family.upper(),
        "SURROGATE": rules.surrogate.upper(),
        "RESET": rules.reset.upper(),
        "DETACH": str(int(rules.detach_reset)),
        "VALUE": _VALUES[dtype],
    }
    path = cache_folder() / ("-".join(["lif", *macros.values()]).lower() + ".so")
    if not path.exists():
        _compile(macros, path)
    return ctypes.CDLL(str(path))


def _compile(macros: dict[str, str], path: Path) -> None:
    io.make_dir(path.parent)
    # Jobs of a sweep start together: one compiles, the others wait and find the library.
    with (path.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return
        print("compiling the LIF kernels of these rules for this machine, once", flush=True)
        started = time.perf_counter()
        # Whoever holds the lock is alone: what lies here was left by a compilation that was killed.
        for left in path.parent.glob("tmp*"):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            made = Path(scratch, path.name)
            result = subprocess.run(_command(macros, made), capture_output=True, text=True, check=False)
            if result.returncode == 0:
                made.replace(path)
                print(f"compiled in {time.perf_counter() - started:.0f} s", flush=True)
                return
    if result.returncode in (-signal.SIGINT, 128 + signal.SIGINT):
        raise KeyboardInterrupt
    io.write_atomic(path.parent / "error.log", result.stderr)
    raise UserError(
        f"compiling the LIF kernels failed, see {path.parent / 'error.log'}; runtime.backend=reference works"
    )


def _command(macros: dict[str, str], output: Path) -> list[str]:
    defined = [f"-D{name}={value}" for name, value in macros.items()]
    return [compiler() or "g++", *FLAGS, *defined, str(Path(__file__).parent / SOURCES[0]), "-o", str(output)]


@cache
def _fingerprint() -> str:
    """Returns a digest of all that a library depends on besides its rules."""
    here = Path(__file__).parent
    parts = [" ".join(FLAGS).encode(), *((here / name).read_bytes() for name in SOURCES)]
    if compiler() is not None:
        parts.append(subprocess.run([compiler() or "", "--version"], capture_output=True, check=False).stdout)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        parts += [line.encode() for line in lines if line.startswith(("model name", "flags"))][:2]
    except OSError:
        parts.append(platform.processor().encode())
    return io.sha256(b"\0".join(parts))[:16]
