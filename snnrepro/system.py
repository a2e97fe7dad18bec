"""What differs between operating systems and machines, in one place: cores, threads, file locks. Imports no torch."""

import os
import threading

from snnrepro.errors import ConfigError, UserError

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]


def require_posix() -> None:
    """Raises UserError on Windows, whose file locks and signals are others."""
    if fcntl is None:
        raise UserError("snnrepro runs on Linux and macOS; on Windows use WSL: wsl --install, then the same commands")


def usable_cores() -> int:
    """Returns the number of cores that this process may run on, at least 1."""
    # macOS cannot tie a process to cores.
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def lock(handle: int, *, wait: bool) -> None:
    """Locks an open file for this process alone, until it is closed or the process ends, even by kill -9.

    Raises BlockingIOError where another process holds it and ``wait`` is false, UserError on Windows.
    """
    require_posix()
    fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def require_threads(key: str, count: int) -> None:
    """Raises ConfigError naming ``key`` where this machine does not start so many threads; OpenMP would abort."""
    if count <= usable_cores():
        return
    end = threading.Event()
    started: list[threading.Thread] = []
    try:
        while len(started) < count:
            thread = threading.Thread(target=end.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError:
        raise ConfigError(
            f"{key}={count}: this machine starts no more than {len(started)} threads; it has {usable_cores()} cores: "
            f"{key}={usable_cores()}"
        ) from None
    finally:
        end.set()
        for thread in started:
            thread.join()
