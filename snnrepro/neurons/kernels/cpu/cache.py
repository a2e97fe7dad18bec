"""Where the libraries compiled from ``lif.cpp`` live, how a missing one is made, and how one is loaded."""

import atexit
import ctypes
import os
import platform
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path

import torch

from snnrepro import io
from snnrepro.errors import ConfigError, StorageError, UserError
from snnrepro.neurons.dynamics import Dynamics
from snnrepro.system import lock

SOURCES = ("lif.cpp", "lif_sweep.h", "lif_vector.h")
_VALUES = {torch.float32: "float", torch.bfloat16: "BFloat16", torch.float16: "Float16"}
# Without contraction into fused multiply-adds: a membrane is rounded as in the reference, forward and backward.
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC", "-shared", "-ffp-contract=off", "-fno-math-errno",
         "-fno-trapping-math", "-Wno-psabi")  # fmt: skip

_OTHERWISE = "runtime.backend=reference works without them"
# Seconds that a compiler may take; it needs a few.
_PATIENCE = 600


def compiler() -> str | None:
    """Returns the path of the C++ compiler, ``CXX`` or g++, c++, clang++, or None where there is none."""
    command = _compiler()
    return command[0] if command else None


def no_compiler() -> str:
    """Returns in words that there is none, and why."""
    command = os.environ.get("CXX")
    return f"no C++ compiler found as CXX={command}" if command else "no C++ compiler found"


def _compiler() -> list[str]:
    """Returns the compiler's path and its own arguments, as in ``CXX="ccache g++"``; nothing where there is none."""
    try:
        commands = [shlex.split(os.environ.get("CXX", ""))]
    except ValueError:
        return []
    for command in commands if commands[0] else [["g++"], ["c++"], ["clang++"]]:
        if path := shutil.which(command[0]):
            return [path, *command[1:]]
    return []


def cache_folder() -> Path:
    """Returns the folder of this machine's libraries: other instructions, compiler or source mean another folder.

    Raises ConfigError where the user has no home folder.
    """
    return io.cache_home() / "kernels" / _fingerprint()


@cache
def library(rules: Dynamics, dtype: torch.dtype) -> ctypes.CDLL:
    """Returns the loaded library of one set of rules, for inputs of ``dtype``; compiles it first where missing.

    One library serves every gamma. Where the cache cannot be written, it is compiled for this process alone. Raises
    UserError when that fails too.
    """
    macros = {
        "TIMESTEPS": str(rules.timesteps),
        "FAMILY": rules.family.upper(),
        "SURROGATE": rules.surrogate.upper(),
        "RESET": rules.reset.upper(),
        "DETACH": str(int(rules.detach_reset)),
        "VALUE": _VALUES[dtype],
    }
    name = "-".join(["lif", *macros.values()]).lower() + ".so"
    try:
        path = cache_folder() / name
        _compile_once(macros, path)
    except (OSError, StorageError, ConfigError) as error:
        path = _own_folder(str(error)) / name
        _compile_once(macros, path)
    try:
        loaded = ctypes.CDLL(str(path))
        loaded.lif_run  # noqa: B018 - raises where the compiler made something else
    except (OSError, AttributeError) as error:
        raise UserError(f"{path}: the compiled LIF kernels cannot be loaded: {error}; {_OTHERWISE}") from None
    return loaded


def _own_folder(why: str) -> Path:
    """Returns a folder that lives as long as this process, and says once why it is needed."""
    first = _temporary_folder.cache_info().currsize == 0
    try:
        folder = _temporary_folder()
    except OSError as error:
        raise UserError(f"{why}; nor can a temporary folder be made: {error}; {_OTHERWISE}") from None
    if first:
        print(
            f"{why}; the LIF kernels are compiled into {folder} for this process, SNNREPRO_CACHE names another folder"
        )
    return folder


@cache
def _temporary_folder() -> Path:
    folder = tempfile.mkdtemp(prefix="snnrepro-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _sound(path: Path) -> bool:
    """Returns whether a library is there as it was written: loading a part of one may end the process."""
    try:
        return path.with_suffix(".sha256").read_bytes().decode() == io.sha256(path.read_bytes())
    except UnicodeDecodeError:
        return False
    except FileNotFoundError:
        return False


def _compile_once(macros: dict[str, str], path: Path) -> None:
    """Makes the library where it is missing or damaged. Raises OSError or StorageError where it cannot be written."""
    if _sound(path):
        return
    io.make_dir(path.parent)
    # Jobs of a sweep start together: one compiles, the others wait and find the library.
    with (path.parent / "lock").open("w") as file:
        lock(file.fileno(), wait=True)
        if _sound(path):
            return
        for left in path.parent.glob("*.tmp.*"):
            io.remove(left)
        made = _compile(macros, path)
        io.write_atomic(path.with_suffix(".sha256"), io.sha256(made))
        io.write_atomic(path, made)


def _compile(macros: dict[str, str], path: Path) -> bytes:
    """Returns the library's content. Raises UserError when the compilation fails; its log lies beside ``path``."""
    if not _compiler():
        raise UserError(f"{no_compiler()}; install g++, or use runtime.backend=reference")
    print("compiling the LIF kernels of these rules for this machine, once", flush=True)
    started = time.perf_counter()
    log = ""
    with tempfile.TemporaryDirectory(prefix="snnrepro-") as scratch:
        made = Path(scratch, path.name)
        for flags in (FLAGS, [flag for flag in FLAGS if flag != "-fopenmp"]):
            failed = _run([*_compiler(), *flags, *_arguments(macros, made)])
            if failed is None and made.exists():
                note = "" if flags is FLAGS else ", without OpenMP: the layers run on one thread"
                print(f"compiled in {time.perf_counter() - started:.0f} s{note}", flush=True)
                return made.read_bytes()
            log = log or failed or "the compiler reports success and wrote nothing\n"
    io.write_atomic(path.parent / "error.log", log)
    lines = log.splitlines()
    first = next((line for line in lines if "error" in line), lines[-1]).strip()[:200]
    raise UserError(f"compiling the LIF kernels failed, see {path.parent / 'error.log'}; {_OTHERWISE}: {first}")


def _run(command: list[str]) -> str | None:
    """Returns what a compiler said when it failed, or None."""
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=_PATIENCE
        )
    except subprocess.TimeoutExpired:
        return f"{command[0]} did not end within {_PATIENCE} s\n"
    except OSError as error:
        return f"{command[0]} does not start: {error}\n"
    # A signal to the whole group of processes reaches the compiler too.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if result.returncode in (-number, 128 + number):
            raise KeyboardInterrupt(number.name)
    return None if result.returncode == 0 else f"{result.stderr}\nexit code {result.returncode}\n"


def _arguments(macros: dict[str, str], output: Path) -> list[str]:
    defined = [f"-D{name}={value}" for name, value in macros.items()]
    return [*defined, str(Path(__file__).parent / SOURCES[0]), "-o", str(output)]


@cache
def _fingerprint() -> str:
    """Returns a digest of all that a library depends on besides its rules."""
    here = Path(__file__).parent
    parts = [" ".join(FLAGS).encode(), *((here / name).read_bytes() for name in SOURCES), _target()]
    return io.sha256(b"\0".join(parts))[:16]


def _target() -> bytes:
    """Returns what the compiler makes code for: itself, and the instructions it takes for this machine's.

    It alone knows them on every system and in every container. Where it cannot say, nothing is shared with another
    machine.
    """
    command = [*_compiler(), "-march=native", "-dM", "-E", "-x", "c++", "/dev/null"]
    try:
        result = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=True)
        return b"\n".join(sorted(result.stdout.splitlines()))
    except (OSError, subprocess.SubprocessError):
        return "\0".join([*command, *platform.uname()]).encode()
