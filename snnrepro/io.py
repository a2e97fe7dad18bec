"""The only code that writes files: atomic, durable, digest-checked."""

import hashlib
import json
import os
import re
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from snnrepro.checks import user_path
from snnrepro.errors import StorageError

DAY = 86400.0  # seconds


def _storage_error(action: str, path: Path, error: OSError | ValueError) -> StorageError:
    # A ValueError: a name or a text with characters that no file can have.
    reason = error.strerror if isinstance(error, OSError) else error
    return StorageError(f"{path}: cannot {action}: {reason or error}; check the folder, its rights and the disk")


def cache_home() -> Path:
    """Returns the folder for what can be made again: SNNREPRO_CACHE, or snnrepro in the user's cache.

    Raises ConfigError where that is no path.
    """
    given = os.environ.get("SNNREPRO_CACHE")
    if given:
        return Path(user_path("SNNREPRO_CACHE", given))
    return Path(user_path("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME") or "~/.cache"), "snnrepro")


def require_working_folder() -> None:
    """Raises StorageError where the folder that the process was started in is gone: relative paths mean nothing."""
    try:
        os.getcwd()
    except OSError as error:
        raise StorageError(f"working folder: {error.strerror}; change to a folder that exists (cd)") from None


def make_dir(path: Path) -> None:
    """Creates ``path`` and its parents. Raises StorageError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise _storage_error("create", path, error) from None


def write_atomic(path: Path, data: bytes | str) -> None:
    """Writes ``path`` so that readers see the old or the new content, never a part; durable on return.

    Raises StorageError and leaves no temporary file behind when the disk is full or read-only.
    """
    temporary = temporary_of(path)
    try:
        payload = data.encode() if isinstance(data, str) else data
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except (OSError, ValueError) as error:
        with suppress(OSError, ValueError):
            temporary.unlink(missing_ok=True)
        raise _storage_error("write", path, error) from None
    with suppress(OSError):
        for left in abandoned(path):
            left.unlink(missing_ok=True)


def temporary_of(path: Path) -> Path:
    """Returns the name under which this process writes ``path`` before it moves it there."""
    return path.with_name(f"{path.name}.tmp.{os.getpid()}@{socket.gethostname()}")


def abandoned(path: Path) -> list[Path]:
    """Returns the temporary files of ``path`` that nobody writes any more, because the process or a day is over."""
    name = re.compile(re.escape(path.name) + r"\.tmp\.(\d{1,9})(?:@(.+))?")
    found = []
    for entry in os.scandir(path.parent):
        if match := name.fullmatch(entry.name):
            # A process of another machine cannot be asked.
            over = match[2] == socket.gethostname() and not _alive(int(match[1]))
            if over or time.time() - entry.stat(follow_symlinks=False).st_mtime > DAY:
                found.append(Path(entry.path))
    return found


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # Somebody else's.
        return True
    return True


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` as JSON, atomically. NaN is refused: it is not JSON, and never a result."""
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def append_line(path: Path, line: str) -> None:
    """Appends one line and syncs it to disk. Raises StorageError."""
    try:
        with open(path, "a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _storage_error("append to", path, error) from None


def remove(path: Path) -> None:
    """Removes a file if it exists. Raises StorageError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _storage_error("remove", path, error) from None


def sha256(data: bytes) -> str:
    """Returns the hex digest of ``data``."""
    return hashlib.sha256(data).hexdigest()
