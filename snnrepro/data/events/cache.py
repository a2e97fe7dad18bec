"""Frames of a whole dataset in one memory-mapped array, made once: by one process, complete or not at all.

A cache is a folder named by the hash of what determines its content. Its ``meta.json``, with the digest of the array,
is inside when the folder appears.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import TypedDict

from snnrepro import io, stored
from snnrepro.errors import DataError, StorageError
from snnrepro.launch import end_with_parent
from snnrepro.stored import Kind, exact
from snnrepro.system import lock, usable_cores

# Raised when the code changes what a recording turns into.
VERSION = 2
_CHUNK = 64


@exact
class Meta(TypedDict):
    """``meta.json``: the digest of the array, what determines it, and what has to be said about recordings."""

    sha256: str
    content: dict[str, Any]
    remarks: list[str]


META: Kind[Meta] = Kind(Meta, "remove the folder, it is made again")
# Frames, and what has to be said about some of them, a line each.
Made = tuple[np.ndarray, list[str]]
Make = Callable[[np.ndarray], Made]


def cached_frames(
    folder: Path, content: Mapping[str, Any], count: int, shape: tuple[int, ...], make: Make
) -> tuple[np.ndarray, str]:
    """Returns frames float16 (count, *shape), mapped from disk, and their hex sha256; makes them where missing.

    content: plain values that determine the frames. make(index (n,)) -> frames (n, *shape) and remarks, a function that
    can be sent to other processes. The first remark is printed whenever the frames are used. A cache that is damaged is
    reported and made again. Raises StorageError when the disk refuses.
    """
    name = hashlib.sha256(json.dumps({"version": VERSION, **content}, sort_keys=True).encode()).hexdigest()[:16]
    target = folder / name
    io.make_dir(folder)
    with _alone(folder / f"{name}.lock", target):
        found = _read(target, count, shape)
        if isinstance(found, str):
            if os.path.lexists(target):
                print(f"warning: {target}: {found}; making it again", flush=True)
                _remove(target)
            for left in io.abandoned(target):
                _remove(left)
            _build(target, dict(content), count, shape, make)
            found = _read(target, count, shape)
            if isinstance(found, str):
                raise StorageError(f"{target}: {found} although just made; check the disk")
    frames, digest, remarks = found
    if remarks:
        others = f" (and {len(remarks) - 1} more recordings)" if len(remarks) > 1 else ""
        print(f"warning: {remarks[0]}{others}", flush=True)
    return frames, digest


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
        except OSError as error:
            raise StorageError(
                f"{file}: cannot lock: {error.strerror}; check the folder and its rights, or choose one on a file "
                "system that has locks"
            ) from None
        yield
    finally:
        os.close(handle)


def _read(target: Path, count: int, shape: tuple[int, ...]) -> tuple[np.ndarray, str, list[str]] | str:
    """Returns (frames, digest, remarks) of a cache, or in words what is wrong with it."""
    # Opening a pipe would wait for its other end.
    if not stored.exists(target / "meta.json") or not (target / "frames.npy").is_file():
        return "incomplete"
    try:
        meta = META.read(target / "meta.json")
        digest, remarks = meta["sha256"], meta["remarks"]
        # Copy on write: torch wants memory that it could write to.
        frames = np.load(target / "frames.npy", mmap_mode="c", allow_pickle=False)
        fits = frames.shape == (count, *shape) and frames.dtype == np.float16
    except Exception:
        # numpy's own, and those of the parsers below it: the file may hold anything.
        return "unreadable"
    if not fits:
        return "of another shape"
    return (frames, digest, remarks) if _digest(frames) == digest else "its content does not match its digest"


def _remove(target: Path) -> None:
    try:
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink()
    except OSError as error:
        raise StorageError(f"{target}: cannot remove: {error.strerror}; remove it, it is made again") from None


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
        file = temporary / "frames.npy"
        frames = np.lib.format.open_memmap(file, "w+", np.float16, (count, *shape))
        _reserve(file)
        print(f"making frames of {count} recordings, {size / 1e9:.2f} GB in {target}", flush=True)
        done, remarks = 0, []
        for part, said in _made(make, np.array_split(np.arange(count), -(-count // _CHUNK))):
            frames[done : done + len(part)] = part
            done += len(part)
            remarks += said
            if sys.stderr.isatty():
                print(f"\r{done}/{count}", end="" if done < count else "\n", file=sys.stderr, flush=True)
        frames.flush()
        META.write(temporary / "meta.json", {"sha256": _digest(frames), "content": content, "remarks": remarks})
        os.replace(temporary, target)
    except BrokenProcessPool:
        raise DataError(f"{target}: a process that made frames was ended, as by a lack of memory; try again") from None
    except OSError as error:
        raise StorageError(f"{target}: cannot write frames: {error.strerror}; check the disk") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _reserve(file: Path) -> None:
    # A mapped file has holes, and writing into one on a full disk would end the process without a word.
    if hasattr(os, "posix_fallocate"):
        with open(file, "r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, file.stat().st_size)


def _follow_parent() -> None:
    # Ctrl-C is answered by the process that started this one; where that is killed, nobody wants these frames.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def _made(make: Make, chunks: list[np.ndarray]) -> Iterator[Made]:
    """Yields what ``make`` returns for each chunk, in order, from a process for each core where it is worth one."""
    cores = usable_cores()
    if cores == 1 or len(chunks) < 8:
        yield from map(make, chunks)
        return
    # Fresh processes: a fork would inherit torch's threads in an undefined state.
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn"), initializer=_follow_parent) as pool:
        yield from pool.map(make, chunks)
