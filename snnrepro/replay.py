"""``snnrepro wandb-push``: what runs, tables and figures on disk say, told to Weights & Biases afterwards."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snnrepro import io, stored
from snnrepro.checks import user_path
from snnrepro.errors import ConfigError, StorageError
from snnrepro.records import REPAIR
from snnrepro.runs import read_lines, read_record
from snnrepro.tracking import Message, group_of, mirror, one_line, settings_of


def push(paths: Sequence[Path]) -> int:
    """Replays finished run folders, tables (JSON), claims (JSON) and figures (PNG) into W&B, each as one clean run.

    Returns 0.

    The same content always gets the same W&B id, so W&B refuses what it has already. Raises ConfigError without a
    path, StorageError for a path that is none of these, or where W&B fails.
    """
    if not paths:
        raise ConfigError("wandb-push: name at least one run folder or table, such as outputs/runs/RUN_ID")
    paths = [Path(user_path("wandb-push", str(path))) for path in paths]
    replays = [_messages(path) for path in paths]
    for path, messages in zip(paths, replays, strict=True):
        try:
            mirror(messages)
        except Exception as error:
            raise StorageError(f"{path}: W&B: {one_line(error)}") from None
    return 0


def _messages(path: Path) -> list[Message]:
    if stored.is_folder(path):
        return _run_messages(path)
    return _figure_messages(path) if path.suffix == ".png" else _table_messages(path)


def _figure_messages(path: Path) -> list[Message]:
    digest = io.sha256(stored.read_bytes(path, "draw it again with the figure command"))
    return _artefact(path, "figures", digest, {"image": {"name": path.stem, "file": str(path)}})


def _artefact(path: Path, group: str, digest: str, message: Message) -> list[Message]:
    settings = settings_of(path.stem, None, None, path.resolve().parent.parent)
    fresh = {"id": f"{path.stem}-{digest[:8]}", "group": group, "job_type": group.removesuffix("s"), "resume": "never"}
    return [{"init": settings | fresh}, message, {"finish": {}}]


def _run_messages(path: Path) -> list[Message]:
    record = read_record(path)
    if record is None:
        raise StorageError(f"{path / 'record.json'}: missing; only a finished run can be replayed")
    metrics, config, id = read_lines(path, record), record["config"], record["id"]
    logger = config["logger"]
    settings = settings_of(id, logger.get("project"), logger.get("entity"), path.resolve().parent.parent)
    group = logger.get("group") or group_of(config["dataset"]["name"], config["model"]["name"])
    text = stored.read_text(path / "metrics.jsonl", REPAIR) if metrics else ""
    fresh = f"{id}-{io.sha256((text + json.dumps(record)).encode())[:8]}"
    init = {**settings, "id": fresh, "group": group, "resume": "never", "config": config}
    summary = {key: value for key, value in record.items() if key != "config"}
    return [{"init": init}, *({"log": dict(line)} for line in metrics), {"finish": summary}]


def _table_messages(path: Path) -> list[Message]:
    from snnrepro.analysis.results import CLAIMS
    from snnrepro.report.document import TABLE
    from snnrepro.report.render import flat_rows

    text = stored.read_text(path, "name a run folder, a table (JSON), claims (JSON) or a figure (PNG)")
    rows: list[list[Any]]
    document: Mapping[str, Any]
    if stored.has_key(text, "claims"):
        verdicts = CLAIMS.parse(text, path)
        columns = ["id", "where", "claim", "statistic", "verdict", "p", "paper"]
        rows = [[claim[column] for column in columns] for claim in verdicts["claims"]]  # type: ignore[literal-required]
        document = verdicts
    else:
        document = filled = TABLE.parse(text, path)
        columns, rows = flat_rows(filled)
    table = {"table": {"name": path.stem, "columns": columns, "rows": rows}}
    return _artefact(path, "tables", io.sha256(json.dumps(document).encode()), table)
