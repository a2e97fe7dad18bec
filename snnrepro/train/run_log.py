"""``run.log`` in a run's folder: what the run printed, and why it ended, with the traceback of a crash."""

import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO

from snnrepro.collectives import of_other_rank, rank
from snnrepro.errors import Crash, UserError, shortage

FILE = "run.log"


class _Copying:
    """A stream that also writes into the log; what only moves the cursor, as a progress bar does, is left out."""

    def __init__(self, stream: TextIO, log: TextIO):
        self._stream, self._log = stream, log

    def write(self, text: str) -> int:
        if "\r" not in text:
            _write(self._log, text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def run_log(path: Path) -> Iterator[None]:
    """Writes what the run in the folder ``path`` prints while entered into its log too. Rank 0 prints, and writes.

    Raises Crash, whose traceback is in the log, in place of an error that is nobody's fault but ours. Where the log
    cannot be written the run goes on: if that matters, the next checkpoint says so.
    """
    with _opened(path / FILE) as log:
        try:
            if rank() > 0:
                yield
                return
            _write(log, f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}, process {os.getpid()}\n")
            copies: list[Any] = [_Copying(stream, log) for stream in (sys.stdout, sys.stderr)]
            with redirect_stdout(copies[0]), redirect_stderr(copies[1]):
                yield
        except UserError as error:
            _write(log, f"{type(error).__name__}: {error}\n")
            raise
        except Exception as error:
            _write(log, f"rank {rank()}: {''.join(traceback.format_exception(error))}")
            if shortage(error) is not None or isinstance(error, OSError) or of_other_rank(error):
                # Said in words of their own further out.
                raise
            first = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise Crash(f"{first}; the traceback is in {path / FILE}") from error


@contextmanager
def _opened(file: Path) -> Iterator[TextIO]:
    try:
        log = open(file, "a", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115 - closed below
    except OSError:
        log = open(os.devnull, "a", encoding="utf-8")  # noqa: SIM115
    try:
        yield log
    finally:
        with suppress(OSError):
            log.close()


def _write(log: TextIO, text: str) -> None:
    with suppress(OSError, ValueError):
        log.write(text)
