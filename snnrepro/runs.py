"""A run's folder: its identity, its lock and its record.

The identity is a hash of the resolved configuration, so the same command finds its run again. The presence
of ``record.json``, written last, is the status "finished"; there is no flag that could lie and no timestamp
in a path.
"""

import glob
import json
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from snnrepro import io
from snnrepro.compose import from_yaml, to_plain
from snnrepro.config import RunConfig
from snnrepro.errors import StorageError, UserError
from snnrepro.system import lock

# Raised whenever a change of the code changes results, so that an older result is never taken for a new one.
NUMERICS = 3

# Where and how a run executes does not make it another run; its precision does.
_ELSEWHERE = ("logger", "runtime", "dataset.root", "dataset.download")
PRECISION = "runtime.precision"


def in_identity(key: str) -> bool:
    """Returns whether another value of the dotted ``key`` makes another run. The record says what any key was."""
    return key == PRECISION or not any(key == outer or key.startswith(outer + ".") for outer in _ELSEWHERE)


def run_id(run: RunConfig) -> str:
    """Returns ``<dataset>-<model>-<family>-s<seed>-<10 hex digits>``; equal values give equal ids."""
    text = json.dumps({"numerics": NUMERICS, "config": _identity(to_plain(run))}, sort_keys=True)
    name = f"{run.dataset.name}-{run.model.name}-{run.neuron.family}-s{run.seed}"
    return f"{name}-{io.sha256(text.encode())[:10]}"


def _identity(plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the nested values without those that make no other run."""
    kept = {}
    for name, value in plain.items():
        key = prefix + name
        if isinstance(value, dict):
            kept[name] = _identity(value, key + ".")
        elif in_identity(key):
            kept[name] = value
    return kept


def run_path(run: RunConfig) -> Path:
    """Returns the folder of the run, whether or not it exists."""
    return Path(run.runtime.output_dir) / "runs" / run_id(run)


def read_record(path: Path) -> dict[str, Any] | None:
    """Returns the record of the run folder ``path``, or None where the run is not finished."""
    file = path / "record.json"
    return io.read_json(file) if file.exists() else None


def with_other_epochs(run: RunConfig) -> list[tuple[str, int]]:
    """Returns (run id, epochs) of the runs here that are ``run`` but for their number of epochs."""
    folder, id = run_path(run).parent, run_id(run)
    found = []
    # The hash is all that their names differ in.
    for path in sorted(folder.glob(f"{glob.escape(id.rpartition('-')[0])}-*")):
        try:
            other = from_yaml(path / "config.yaml")
            same = path.name != id and run_id(replace(run, epochs=other.epochs)) == path.name
        except UserError:
            # Not a run of this version, or not its epochs alone.
            continue
        if same:
            found.append((path.name, other.epochs))
    return found


class RunLock:
    """Exclusive ownership of a run folder for the life of a process; freed by the kernel even after kill -9.

    Entering raises StorageError naming the owner when another process holds the run.
    """

    def __init__(self, path: Path):
        self.file = path / "run.lock"
        self.handle = -1

    def __enter__(self) -> Self:
        io.make_dir(self.file.parent)
        try:
            self.handle = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o644)
            lock(self.handle, wait=False)
        except BlockingIOError:
            owner = os.read(self.handle, 200).decode(errors="replace").strip()
            os.close(self.handle)
            raise StorageError(f"{self.file.parent}: in use by {owner or 'another process'}; wait or stop it") from None
        except OSError as error:
            raise StorageError(f"{self.file}: cannot lock: {error.strerror}; check the folder and its rights") from None
        os.ftruncate(self.handle, 0)
        os.write(self.handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.handle)
