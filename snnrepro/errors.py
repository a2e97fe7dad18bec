"""What can go wrong for a user, and the exit code each case ends with."""

import os
import re
import sys


class UserError(Exception):
    """A problem the user can act on: printed as one line, without a traceback."""

    exit_code = 1
    # Whether every rank of a run raises it, so that one needs to say so.
    common = False


class ConfigError(UserError):
    """An override or a configuration file is wrong."""

    exit_code = 2
    common = True


class LauncherError(ConfigError):
    """The variables of a launcher are wrong, so that nobody knows how many processes would say so."""

    common = False


class DivergedError(UserError):
    """Loss, gradient or state became non-finite."""

    exit_code = 3
    common = True


class DataError(UserError):
    """A dataset is missing or damaged."""

    exit_code = 4


class StorageError(UserError):
    """A file cannot be read or written, or another process holds the run."""

    exit_code = 5


class RankError(UserError):
    """Another process of the run ended or hangs."""

    exit_code = 6


class Crash(UserError):
    """A fault of this program, or of a library: not the user's."""


class AbsorptionError(UserError):
    """A network contains what threshold absorption cannot make exact."""


class MemoryShortage(UserError):
    """The system, or the GPU, has no more memory."""


class Stopped(UserError):
    """A signal ended the run after its state was saved; the same command resumes it."""

    exit_code = 75
    common = True


def shortage(error: BaseException) -> MemoryShortage | None:
    """Returns what to say where an error, of Python, torch or the system, means that memory is short; else None."""
    text = str(error).lower()
    if isinstance(error, ImportError) and ("map segment" in text or "allocate memory" in text):
        return MemoryShortage("not enough memory to load the libraries; raise the limit of this shell (ulimit -v)")
    words = ("allocate memory", "out of memory", "bad_alloc", "not enough memory")
    if not isinstance(error, MemoryError) and not any(word in text for word in words):
        return None
    wanted = re.search(r"allocate ([\d.]+ ?\w+)", str(error))
    return MemoryShortage(
        f"not enough memory{f' for another {wanted[1]}' if wanted else ''}; lower batch_size, or raise micro_batches, "
        "which keeps it; where it was evaluating, lower runtime.eval_batch_size"
    )


def report(error: UserError) -> int:
    """Prints the error as one line and returns the exit code."""
    if error.common and os.environ.get("RANK", "0") != "0":
        return error.exit_code
    try:
        print(f"{'stopped' if isinstance(error, Stopped) else 'error'}: {error}", file=sys.stderr, flush=True)
    except OSError:
        # Nobody can read it, as on a full disk. Left in the buffer, it would change the exit code.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    return error.exit_code
