"""``snnrepro wandb-push``: what runs, tables and figures on disk say, told to Weights & Biases afterwards."""

import json
from collections.abc import Sequence
from pathlib import Path

from snnrepro import io
from snnrepro.checks import user_path
from snnrepro.errors import ConfigError, StorageError
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
    if path.is_dir():
        return _run_messages(path)
    return _figure_messages(path) if path.suffix == ".png" else _table_messages(path)


def _figure_messages(path: Path) -> list[Message]:
    try:
        digest = io.sha256(path.read_bytes())
    except OSError as error:
        raise StorageError(f"{path}: cannot read: {error.strerror}") from None
    return _artefact(path, "figures", digest, {"image": {"name": path.stem, "file": str(path)}})


def _artefact(path: Path, group: str, digest: str, message: Message) -> list[Message]:
    settings = settings_of(path.stem, None, None, path.resolve().parents[1])
    fresh = {"id": f"{path.stem}-{digest[:8]}", "group": group, "job_type": group.removesuffix("s"), "resume": "never"}
    return [{"init": settings | fresh}, message, {"finish": {}}]


def _run_messages(path: Path) -> list[Message]:
    record_file, metrics_file = path / "record.json", path / "metrics.jsonl"
    if not record_file.exists():
        raise StorageError(f"{record_file}: missing; only a finished run can be replayed")
    record = io.read_json(record_file)
    try:
        config, id = record["config"], record["id"]
        settings = settings_of(id, config["logger"]["project"], config["logger"]["entity"], path.resolve().parents[1])
        group = config["logger"]["group"] or group_of(config["dataset"]["name"], config["model"]["name"])
        text = metrics_file.read_text()
        metrics = [json.loads(line) for line in text.splitlines()]
    except (KeyError, TypeError) as error:
        raise StorageError(f"{record_file}: not the record of a run: {error!r}") from None
    except (OSError, ValueError) as error:
        raise StorageError(f"{metrics_file}: cannot read: {error}") from None
    fresh = f"{id}-{io.sha256((text + json.dumps(record)).encode())[:8]}"
    init = {**settings, "id": fresh, "group": group, "resume": "never", "config": config}
    summary = {key: value for key, value in record.items() if key != "config"}
    return [{"init": init}, *({"log": line} for line in metrics), {"finish": summary}]


def _table_messages(path: Path) -> list[Message]:
    from snnrepro.report.render import flat_rows

    document = io.read_json(path)
    try:
        if "claims" in document:
            columns = ["id", "where", "claim", "statistic", "verdict", "p", "paper"]
            rows = [[claim[column] for column in columns] for claim in document["claims"]]
        else:
            columns, rows = flat_rows(document)
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(f"{path}: neither a run folder nor a table: {error!r}") from None
    table = {"table": {"name": path.stem, "columns": columns, "rows": rows}}
    return _artefact(path, "tables", io.sha256(json.dumps(document).encode()), table)
