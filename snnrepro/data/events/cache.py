"""Frames of a whole dataset in one memory-mapped array, made once: by one process, complete or not at all.

A cache is a folder named by the hash of what determines its content. Its ``meta.json``, with the digest of the array,
is inside when the folder appears.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import TypedDict

from snnrepro import io, stored
from snnrepro.errors import StorageError
from snnrepro.stored import Kind, exact
from snnrepro.system import lock, usable_cores

# Raised when the code changes what a recording turns into.
VERSION = 1
_CHUNK = 64


@exact
class Meta(TypedDict):
    """``meta.json``: the digest of the array, and what determines it."""

    sha256: str
    content: dict[str, Any]


META: Kind[Meta] = Kind(Meta, "remove the folder, it is made again")
Make = Callable[[np.ndarray], np.ndarray]


def cached_frames(
    folder: Path, content: Mapping[str, Any], count: int, shape: tuple[int, ...], make: Make
) -> tuple[np.ndarray, str]:
    """Returns frames float16 (count, *shape), mapped from disk, and their hex sha256; makes them where missing.

    content: plain values that determine the frames. make(index (n,)) -> (n, *shape), a function that can be sent to
    other processes. A cache that is damaged is reported and made again. Raises StorageError when the disk refuses.
    """
    name = hashlib.sha256(json.dumps({"version": VERSION, **content}, sort_keys=True).encode()).hexdigest()[:16]
    target = folder / name
    io.make_dir(folder)
    with _alone(folder / f"{name}.lock", target):
        if (fault := _fault(target, count, shape)) is None:
            frames, digest = _open(target), META.read(target / "meta.json")["sha256"]
            if _digest(frames) == digest:
                return frames, digest
            fault = "its content does not match its digest"
        if stored.exists(target):
            print(f"warning: {target}: {fault}; making it again", flush=True)
            _remove(target)
        for left in io.abandoned(target):
            _remove(left)
        _build(target, dict(content), count, shape, make)
    return _open(target), META.read(target / "meta.json")["sha256"]


@contextmanager
def _alone(file: Path, target: Path) -> Iterator[None]:
    try:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StorageError(f"{file}: cannot lock: {error.strerror}; check the folder and its rights") from None
    try:
        try:
            lock(handle, wait=False)
        except BlockingIOError:
            print(f"{target}: another process is making these frames; waiting for it", flush=True)
            lock(handle, wait=True)
        yield
    finally:
        os.close(handle)


def _fault(target: Path, count: int, shape: tuple[int, ...]) -> str | None:
    if not stored.exists(target / "meta.json"):
        return "incomplete"
    try:
        META.read(target / "meta.json")
        frames = _open(target)
    except (OSError, ValueError, StorageError):
        return "unreadable"
    return None if frames.shape == (count, *shape) and frames.dtype == np.float16 else "of another shape"


def _remove(path: Path) -> None:
    try:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    except OSError as error:
        raise StorageError(f"{path}: cannot remove: {error.strerror}; check the folder and its rights") from None


def _open(target: Path) -> np.ndarray:
    if not (target / "frames.npy").is_file():
        raise OSError("not a file")
    # Copy on write: torch wants memory that it could write to.
    return np.load(target / "frames.npy", mmap_mode="c")


def _digest(frames: np.ndarray) -> str:
    hasher = hashlib.sha256()
    for start in range(0, len(frames), _CHUNK):
        hasher.update(np.ascontiguousarray(frames[start : start + _CHUNK]).data)
    return hasher.hexdigest()


def _build(target: Path, content: dict[str, Any], count: int, shape: tuple[int, ...], make: Make) -> None:
    temporary = io.temporary_of(target)
    size = 2 * count * int(np.prod(shape))
    try:
        temporary.mkdir()
        free = shutil.disk_usage(temporary).free
        if free < size:
            raise StorageError(f"{target}: {size / 1e9:.2f} GB of frames do not fit, {free / 1e9:.2f} GB are free")
        frames = np.lib.format.open_memmap(temporary / "frames.npy", "w+", np.float16, (count, *shape))
        print(f"making frames of {count} recordings, {size / 1e9:.2f} GB in {target}", flush=True)
        done = 0
        for part in _made(make, np.array_split(np.arange(count), -(-count // _CHUNK))):
            frames[done : done + len(part)] = part
            done += len(part)
            if sys.stderr.isatty():
                print(f"\r{done}/{count}", end="" if done < count else "\n", file=sys.stderr, flush=True)
        frames.flush()
        META.write(temporary / "meta.json", {"sha256": _digest(frames), "content": content})
        os.replace(temporary, target)
    except OSError as error:
        raise StorageError(f"{target}: cannot write frames: {error.strerror}; check the disk") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _made(make: Make, chunks: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields what ``make`` returns for each chunk, in order, from a process for each core where it is worth one."""
    cores = usable_cores()
    if cores == 1 or len(chunks) < 8:
        yield from map(make, chunks)
        return
    # Fresh processes: a fork would inherit torch's threads in an undefined state.
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        yield from pool.map(make, chunks)
