"""The only code that writes files: atomic, durable, digest-checked."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from snnrepro.checks import user_path
from snnrepro.errors import StorageError


def _storage_error(action: str, path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path}: cannot {action}: {error.strerror or error}; check the folder, its rights and the disk"
    )


def cache_home() -> Path:
    """Returns the folder for what can be made again: SNNREPRO_CACHE, or snnrepro in the user's cache.

    Raises ConfigError where that is no path.
    """
    given = os.environ.get("SNNREPRO_CACHE")
    if given:
        return Path(user_path("SNNREPRO_CACHE", given))
    return Path(user_path("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME") or "~/.cache"), "snnrepro")


def make_dir(path: Path) -> None:
    """Creates ``path`` and its parents. Raises StorageError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _storage_error("create", path, error) from None


def write_atomic(path: Path, data: bytes | str) -> None:
    """Writes ``path`` so that readers see the old or the new content, never a part; durable on return.

    Raises StorageError and leaves no temporary file behind when the disk is full or read-only.
    """
    payload = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    try:
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
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _storage_error("write", path, error) from None


def keep_lines(path: Path, count: int) -> None:
    """Shortens a text file, where there is one, to its first ``count`` lines. Raises StorageError."""
    if path.exists():
        lines = path.read_text().splitlines()[:count]
        write_atomic(path, "".join(line + "\n" for line in lines))


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` as JSON, atomically. NaN is refused: it is not JSON, and never a result."""
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file. Raises StorageError when it is missing or not JSON."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: cannot read: {error}") from None


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
