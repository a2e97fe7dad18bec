"""A run's folder: its lock and its record.

Its name is the run's identity, so the same command finds its run again. The presence of ``record.json``, written last,
is the status "finished"; there is no flag that could lie and no timestamp in a path.
"""

import glob
import os
import re
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from snnrepro import io, stored
from snnrepro.config import RunConfig
from snnrepro.config_values import from_plain, of_today, to_yaml
from snnrepro.errors import ConfigError, StorageError
from snnrepro.identity import names_of, names_one_run, run_id
from snnrepro.records import RECORD, REPAIR, Line, Record, line_of, task_of
from snnrepro.system import lock
from snnrepro.tasks.base import TaskOption


def run_path(run: RunConfig) -> Path:
    """Returns the folder of the run, whether or not it exists."""
    return Path(run.runtime.output_dir) / "runs" / run_id(run)


def name_of(folder: Path) -> str:
    """Returns the name by which a run's folder was asked for; a link counts as the folder."""
    return Path(os.path.abspath(folder)).name


def read_record(path: Path) -> Record | None:
    """Returns the record of the run folder ``path``, or None where the run is not finished.

    Raises StorageError for a damaged record, and for one of another run than the folder is named after.
    """
    file = path / "record.json"
    if not stored.exists(file):
        return None
    record = RECORD.read(file)
    try:
        of_today(record["config"])
    except ConfigError as error:
        raise StorageError(f"{file}: config: {error}; an option with which it was trained is not here") from None
    # The folder of a run that an older version finished may have its name of today.
    if names_one_run(record["config"], record["id"], name_of(path)):
        return record
    if record["id"] == name_of(path):
        raise StorageError(f"{file}: config: not that of the run {record['id']}; {REPAIR}")
    raise StorageError(
        f"{file}: id: it belongs to {record['id']}, not to {name_of(path)}; give the folder the name of its id "
        "back, or remove the run's folder and train it again"
    )


def stored_lines(path: Path, epochs: int, task: type[TaskOption]) -> list[str]:
    """Returns the lines of epochs 1 to ``epochs`` in the run's metrics.jsonl as text; later ones are left out.

    Raises StorageError where one is damaged, missing or misplaced.
    """
    file = path / "metrics.jsonl"
    texts = stored.read_text(file, REPAIR).splitlines()[:epochs] if epochs else []
    parse_lines(texts, epochs, file, task)
    return texts


def read_lines(path: Path, record: Record) -> list[Line]:
    """Returns what a finished run wrote after every epoch. Raises StorageError unless the file holds these lines."""
    file, final = path / "metrics.jsonl", record["final"]
    if final is None:
        return []
    return parse_lines(stored.read_text(file, REPAIR).splitlines(), final["epoch"], file, task_of(record["config"]))


def parse_lines(texts: list[str], epochs: int, where: object, task: type[TaskOption]) -> list[Line]:
    """Returns the lines of epochs 1 to ``epochs``. Raises StorageError where one is damaged, missing or misplaced."""
    kind = line_of(task)
    lines = [kind.parse(text, f"{where}: line {number}") for number, text in enumerate(texts, 1)]
    for number in range(1, epochs + 1):
        if number > len(lines) or lines[number - 1]["epoch"] != number:
            raise StorageError(f"{where}: line {number}: epoch {number} is missing; {REPAIR}")
    if len(lines) > epochs:
        raise StorageError(f"{where}: line {epochs + 1}: the run has {epochs} epochs; {REPAIR}")
    return lines


# 1: keys that an option does not use are stored as null. 2: they are not stored.
CONFIG_FORMAT = 2
# Where checkpoints of other programs lie: not runs, so their configuration has no id.
IMPORTED = "imported"


def write_config(path: Path, run: RunConfig) -> None:
    """Writes ``config.yaml`` into the folder ``path``. Raises StorageError.

    That of an older version stays: by it the run's checkpoints are known, which have its former name.
    """
    if names_one_run(_older_config(path), run_id(run)):
        return
    io.write_atomic(path / "config.yaml", f"# format {CONFIG_FORMAT}\n{to_yaml(run)}")


def read_config(path: Path) -> RunConfig:
    """Returns the configuration in the folder ``path``, of a run or an import.

    Raises StorageError where it is damaged, or not that of the run the folder is named after.
    """
    file = path / "config.yaml"
    plain = stored.read_yaml(file, REPAIR, CONFIG_FORMAT)
    try:
        run = from_plain(plain)
    except ConfigError as error:
        raise StorageError(f"{file}: {error}; {REPAIR}") from None
    if Path(os.path.abspath(path)).parent.name != IMPORTED and name_of(path) not in names_of(plain):
        raise StorageError(
            f"{file}: not the configuration of {name_of(path)}; give the folder the name of its run back, "
            "or remove the run's folder and train it again"
        )
    return run


def is_called(path: Path, name: str) -> bool:
    """Returns whether ``name`` is that of the run in the folder ``path``, or was with an older version."""
    return name == name_of(path) or names_one_run(_older_config(path), name, name_of(path))


def under_former_name(run: RunConfig) -> Path | None:
    """Returns the folder of ``run`` that an older version made, under the name of that version, or None."""
    folder, id = run_path(run).parent, run_id(run)
    paths = sorted(folder.glob(f"{glob.escape(id.rpartition('-')[0])}-*"))
    return next((path for path in paths if names_one_run(_older_config(path), path.name, id)), None)


def _older_config(path: Path) -> dict[str, Any]:
    """Returns the configuration that an older version wrote into ``path``; nothing where none did."""
    file = path / "config.yaml"
    try:
        if not stored.exists(file) or stored.read_text(file, REPAIR).startswith(f"# format {CONFIG_FORMAT}\n"):
            return {}
        return stored.read_yaml(file, REPAIR, CONFIG_FORMAT)
    except StorageError:
        return {}


def with_other_epochs(run: RunConfig) -> list[tuple[str, int]]:
    """Returns (run id, epochs) of the runs here that are ``run`` but for their number of epochs."""
    folder, id = run_path(run).parent, run_id(run)
    ids: dict[int, str] = {run.epochs: ""}
    found = []
    # The hash is all that their names differ in.
    for path in sorted(folder.glob(f"{glob.escape(id.rpartition('-')[0])}-*")):
        epochs = _epochs_said_in(path / "config.yaml")
        if epochs is None:
            continue
        # The id tells whether all else is equal: nothing more of the file needs to be read, which matters in a sweep.
        if epochs not in ids:
            ids[epochs] = run_id(replace(run, epochs=epochs))
        if ids[epochs] == path.name:
            found.append((path.name, epochs))
    return found


def _epochs_said_in(file: Path) -> int | None:
    try:
        said = re.search(r"^epochs: (\d{1,9})$", stored.read_text(file, REPAIR), re.M)
    except StorageError:
        return None
    return int(said[1]) if said else None


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
            self.handle = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o644)
            lock(self.handle, wait=False)
            os.ftruncate(self.handle, 0)
            os.write(self.handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        except BlockingIOError:
            owner = os.read(self.handle, 200).decode(errors="replace").strip()
            os.close(self.handle)
            raise StorageError(f"{self.file.parent}: in use by {owner or 'another process'}; wait or stop it") from None
        except OSError as error:
            raise StorageError(
                f"{self.file}: cannot lock: {error.strerror}; check the folder and its rights, or choose a "
                "runtime.output_dir on a file system that has locks"
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.handle)

    def held(self, write: Callable[[], None]) -> None:
        """Calls ``write``. Raises StorageError where the folder was removed, moved or replaced since it was locked."""
        try:
            ours = os.path.samestat(os.fstat(self.handle), os.stat(self.file))
        except OSError:
            ours = False
        if not ours:
            raise StorageError(
                f"{self.file.parent}: was removed or moved while the run trained, nothing more is written; "
                "the same command goes on with what is there"
            )
        write()
