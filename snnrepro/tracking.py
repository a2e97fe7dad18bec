"""Weights & Biases as a mirror of the records on disk: it may be absent, offline, slow or broken, never needed.

A child process (``python -m snnrepro.tracking``) talks to W&B; the run hands it lines and waits for it only at the
end, for ``LIMIT`` seconds. So W&B cannot reach a run's random state, signals, memory or exit.
"""

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from snnrepro import io, stored
from snnrepro.config import RunConfig
from snnrepro.errors import StorageError
from snnrepro.tracking_options import WandbOption

LIMIT = 15  # seconds: the longest wait for W&B, when it starts and when it ends
Message = dict[str, Any]  # one key: init, log, table, image or finish


class Tracker(Protocol):
    """What a training run tells about itself."""

    def log(self, metrics: dict[str, Any]) -> None:
        """Takes the metrics of one epoch, as in a line of metrics.jsonl."""

    def finish(self, record: Mapping[str, Any]) -> None:
        """Takes the record of the finished run."""


class NoTracker:
    """The tracker of ``logger=none``."""

    def log(self, metrics: dict[str, Any]) -> None:
        """Does nothing."""

    def finish(self, record: Mapping[str, Any]) -> None:
        """Does nothing."""


class Mirror:
    """A tracker whose child process tells W&B. Nothing here raises, and only the end waits."""

    def __init__(self, settings: dict[str, Any]):
        # A session of its own: Ctrl-C is for the run, which then ends its mirror in good order.
        command = [sys.executable, "-m", "snnrepro.tracking"]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)
        self.lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.put({"init": settings})
        threading.Thread(target=self._feed, daemon=True).start()

    def log(self, metrics: dict[str, Any]) -> None:
        """Hands over the metrics of one epoch."""
        self.put({"log": metrics})

    def finish(self, record: Mapping[str, Any]) -> None:
        """Hands over the record and waits until W&B has it, or ``LIMIT`` seconds."""
        self.close({key: value for key, value in record.items() if key != "config"})

    def put(self, message: Message) -> None:
        """Hands over any message."""
        self.lines.put(json.dumps(message, default=str) + "\n")

    def close(self, summary: dict[str, Any]) -> bool:
        """Hands over the summary and returns whether W&B took everything within ``LIMIT`` seconds."""
        self.put({"finish": summary})
        self.lines.put(None)
        try:
            return self.child.wait(LIMIT) == 0
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
            _complain(f"no answer for {LIMIT} s")
            return False

    def _feed(self) -> None:
        # In a thread, because a child that hangs leaves the pipe full. One that is gone has said why.
        assert self.child.stdin is not None
        with contextlib.suppress(OSError), self.child.stdin as pipe:
            while (line := self.lines.get()) is not None:
                pipe.write(line)
                pipe.flush()


def start(run: RunConfig, path: Path, id: str, epochs: Sequence[Mapping[str, Any]] = ()) -> Tracker:
    """Returns the tracker that ``run.logger`` asks for, for the run ``id`` in the folder ``path``. Never raises.

    epochs: the metrics of those so far. They are told again, because W&B cannot go on with a run that it has offline:
    the newest offline folder of a run is whole, and what W&B has already, by its step, it passes over.
    """
    logger = run.logger
    if not isinstance(logger, WandbOption):
        return NoTracker()
    settings = settings_of(id, logger.project, logger.entity, path.parents[1])
    group = logger.group or group_of(run.dataset.name, run.model.name)
    try:
        mirror = Mirror({**settings, "id": id, "group": group, "resume": "allow", "config": dataclasses.asdict(run)})
    except OSError as error:
        _complain(error)
        return NoTracker()
    for metrics in epochs:
        mirror.log(dict(metrics))
    return mirror


def log_table(
    name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, logger: WandbOption, output_dir: Path
) -> bool:
    """Returns whether W&B has the table: logged now, within ``LIMIT`` seconds, or before with the same content."""
    digest = io.sha256(json.dumps([columns, rows]).encode())
    known = output_dir / "wandb" / f"{name}.sha256"
    with contextlib.suppress(StorageError):
        # A damaged note means that it is logged once more.
        if stored.exists(known) and stored.read_text(known, "") == digest:
            return True
    settings = settings_of(name, logger.project, logger.entity, output_dir)
    try:
        mirror = Mirror({**settings, "group": logger.group or "tables", "job_type": "table"})
    except OSError as error:
        _complain(error)
        return False
    mirror.put({"table": {"name": name, "columns": columns, "rows": rows}})
    logged = mirror.close({})
    if logged:
        io.write_atomic(known, digest)
    return logged


def group_of(dataset: str, model: str) -> str:
    """Returns the W&B group of a run that names none."""
    return f"{dataset}-{model}"


def settings_of(name: str, project: str | None, entity: str | None, output_dir: Path) -> dict[str, Any]:
    """Returns what every W&B run is started with."""
    project = project or os.environ.get("WANDB_PROJECT", "snnrepro")
    return {"name": name, "project": project, "entity": entity, "dir": str(output_dir)}


def mirror(messages: Iterable[Message]) -> None:
    """Tells W&B what ``messages`` say: init first, finish last. Raises whatever W&B raises."""
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    run: Any = None
    for message in messages:
        ((kind, value),) = message.items()
        if kind == "init":
            run = _init(wandb, value)
        elif kind == "log":
            run.log(flat(value), step=value["epoch"])
        elif kind == "table":
            table = wandb.Table(columns=value["columns"], data=value["rows"], allow_mixed_types=True)
            run.log({value["name"]: table})
        elif kind == "image":
            run.log({value["name"]: wandb.Image(value["file"])})
        else:
            run.summary.update(flat(value))
            run.finish()
            return
    # The messages ended before the run did: it stopped or was killed, and resumes as the same W&B run.
    run.finish(exit_code=1)


def _init(wandb: Any, settings: dict[str, Any]) -> Any:
    """Returns the W&B run: online where credentials work, else offline."""
    options = {**settings, "settings": wandb.Settings(init_timeout=LIMIT, console="off", silent=True)}
    mode = os.environ.get("WANDB_MODE")
    try:
        mode = mode or ("online" if wandb.login(prompt=False) else "offline")
        run = wandb.init(**options, mode=mode)
    except Exception as error:
        if mode not in (None, "online"):
            raise
        _complain(f"{one_line(error)}; going on offline")
        mode = "offline"
        run = wandb.init(**options, mode=mode)
    run.define_metric("epoch")
    run.define_metric("*", step_metric="epoch")
    where = run.url if mode == "online" else f"upload later with: wandb sync {Path(run.dir).parent}"
    print(f"wandb: {mode}: {where}", file=sys.stderr)
    return run


def flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested dicts and lists as one dict: keys joined with ``/``, items counted from 1, no nulls."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, list):
            item = {str(i): part for i, part in enumerate(item, 1)}
        if isinstance(item, dict):
            found |= flat(item, f"{prefix}{key}/")
        elif item is not None:
            found[prefix + key] = item
    return found


def one_line(error: object) -> str:
    """Returns an error as one line, without the key."""
    name = f"{type(error).__name__}: " if isinstance(error, BaseException) else ""
    text = " ".join(f"{name}{error}".split())
    key = os.environ.get("WANDB_API_KEY")
    return text.replace(key, "***") if key else text


def _complain(error: object) -> None:
    print(f"wandb: {one_line(error)}; the records on disk are complete without it", file=sys.stderr)


def _child() -> int:
    """Mirrors the messages on standard input; returns 0, or 1 after one line that says what failed."""
    try:
        mirror(_received())
    except Exception as error:
        _complain(error)
        return 1
    finally:
        _set_deadline()
    return 0


def _received() -> Iterator[Message]:
    for line in sys.stdin:
        message = json.loads(line)
        if "finish" in message:
            _set_deadline()
        yield message
    _set_deadline()


def _set_deadline() -> None:
    # Also for a run that was killed and cannot end its mirror; a run that is alive loses patience first.
    signal.alarm(LIMIT + 5)


if __name__ == "__main__":
    sys.exit(_child())
