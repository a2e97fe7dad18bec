"""How a command ends: signals and errors become one line and an exit code. Imports Python's own modules alone."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from snnrepro.errors import Stopped, StorageError, UserError, report, shortage

_ANSWERED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def ended(command: Callable[[], int]) -> int:
    """Returns the exit code of ``command``, or of the signal or lack of memory that ended it."""
    with unwinding():
        try:
            return command()
        except KeyboardInterrupt as error:
            return interrupted(error)
        except Exception as error:
            short = shortage(error)
            if short is None:
                raise
            return report(short)


def answered(command: Callable[[], int]) -> int:
    """Returns the exit code of ``command``, or of what its user did wrong, said in one line; a broken pipe passes."""
    try:
        return command()
    except UserError as error:
        return report(error)
    except BrokenPipeError:
        raise
    except OSError as error:
        if shortage(error) is not None:
            raise
        return report(_storage_error(error))


def _storage_error(error: OSError) -> StorageError:
    """Returns the line for a file or stream that the system refuses. Raises what is no matter of storage."""
    if error.filename is not None:
        return StorageError(f"{error.filename}: {error.strerror}; check the path, its rights and the disk")
    if error.errno != errno.ENOSPC:
        raise error
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return StorageError("the output cannot be written: no space left on the device")


@contextmanager
def unwinding() -> Iterator[None]:
    """Lets SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt, with the signal's name, while entered.

    The second one ends the process at once. Signals that are ignored stay so, as under nohup.
    """

    def unwind(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        error = KeyboardInterrupt(signal.Signals(number).name)
        if _importing(frame):
            # Libraries in C++ swallow exceptions there, or abort. There is nothing to clean up.
            os._exit(interrupted(error))
        raise error

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [number for number in _ANSWERED if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, unwind) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def interrupted(error: KeyboardInterrupt) -> int:
    """Says in one line that a signal ended the command, and returns the exit code."""
    name = error.args[0] if error.args else "SIGINT"
    if name != "SIGINT":
        return report(Stopped(f"stopped by {name}; the last checkpoint stands, the same command goes on from there"))
    if os.environ.get("RANK", "0") == "0":
        print("interrupted; the last checkpoint stands", file=sys.stderr, flush=True)
    return 130
