"""Where every command starts: from the first import on, a signal ends it in one line, after what runs has cleaned up.

Nothing here imports more than Python's own modules: the others take seconds, in which people change their minds.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from snnrepro.errors import Stopped, report, shortage

_ANSWERED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``snnrepro COMMAND ...`` and returns the exit code (0 done, others: errors.py, 130 Ctrl-C)."""
    with unwinding():
        try:
            from snnrepro.cli import main as command

            return command(argv)
        except KeyboardInterrupt as error:
            return interrupted(error)
        except Exception as error:
            short = shortage(error)
            if short is None:
                raise
            return report(short)


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
