"""The tables of the paper as data: which runs fill a cell, and what the paper prints in it.

A file ``snnrepro/paper/tables/tableNN.yaml`` both makes its runs and finds them. ``run`` lists command-line words and
may stand at the scale, the table, a row and a column; it is a list, or one list per scale.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from snnrepro.checks import nearest, one_of
from snnrepro.errors import ConfigError
from snnrepro.identity import PRECISION
from snnrepro.options import PRECISIONS

FOLDER = Path(__file__).resolve().parent.parent / "paper" / "tables"
SCALES = ("paper", "mini")
EpochName = Literal["last", "best"]
EPOCHS: tuple[EpochName, ...] = ("last", "best")
DIVERGED = "div"

Words = Mapping[str, tuple[str, ...]]  # by scale
Printed = float | Literal["div"] | None  # a number, DIVERGED, or nothing printed


@dataclass(frozen=True, slots=True)
class Scale:
    """data: what the runs are trained on, in words; cost: what a run takes, where it is known.

    epoch: whose accuracy is compared with the paper's, last or best; where best, a table shows both.
    """

    data: str
    words: tuple[str, ...]
    epoch: EpochName
    cost: str | None


@dataclass(frozen=True, slots=True)
class Row:
    """baseline: the rows below are compared with it. not_run: why it has no runs, else None."""

    label: tuple[str, ...]
    words: Words
    paper: tuple[Printed, ...]
    std: tuple[float | None, ...]
    baseline: bool
    not_run: str | None


@dataclass(frozen=True, slots=True)
class Column:
    """metric: where its value is in a record, None: the table's. baseline: the others are compared with it."""

    label: str
    words: Words
    metric: str | None
    baseline: bool


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the paper; ``metric`` is a dotted path into a run's record."""

    name: str
    title: str
    note: str
    words: Words
    scales: Mapping[str, Scale]
    seeds: tuple[int, ...]
    metric: str
    row_labels: tuple[str, ...]
    column_label: str
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]


def names() -> list[str]:
    """Returns the tables that exist, such as ["table2", "table10", "mp_init"]: the paper's, then our own."""
    return list(_files())


def _files() -> dict[str, Path]:
    """Returns the file of each table by its name: table02.yaml holds ``table2``."""
    paths = sorted(FOLDER.glob("*.yaml"), key=lambda path: (not path.stem.startswith("table"), path.stem))
    return {re.sub(r"^table0?", "table", path.stem): path for path in paths}


def load(name: str) -> Table:
    """Returns the table called ``name``. Raises ConfigError for an unknown name or a faulty file."""
    files = _files()
    if name not in files:
        raise ConfigError(f"{name}: no such table; there are {', '.join(files)}{nearest(name, files)}")
    return read(name, files[name])


def read(name: str, path: Path) -> Table:
    """Returns the table in the file ``path``. Raises ConfigError naming file and key."""
    try:
        return _table(name, yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot read: {' '.join(str(error).split())}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _table(name: str, value: Any) -> Table:
    needed = ("title", "scales", "seeds", "metric", "row_labels", "rows")
    spec = _section("the file", value, needed, ("note", "run", "column_label", "columns"))
    scales = _section("scales", spec["scales"], SCALES)
    columns = _list("columns", spec.get("columns", [{"label": ""}]))
    table = Table(
        name=name,
        title=_text("title", spec["title"]),
        note=_text("note", spec.get("note", "")),
        words=_words("run", spec.get("run", [])),
        scales={scale: _scale(f"scales.{scale}", scales[scale]) for scale in SCALES},
        seeds=_seeds(spec["seeds"]),
        metric=_text("metric", spec["metric"]),
        row_labels=_texts("row_labels", spec["row_labels"]),
        column_label=_text("column_label", spec.get("column_label", "")),
        columns=tuple(_column(f"columns[{i}]", column) for i, column in enumerate(columns)),
        rows=tuple(_row(f"rows[{i}]", row, len(columns)) for i, row in enumerate(_list("rows", spec["rows"]))),
    )
    for i, row in enumerate(table.rows):
        if len(row.label) != len(table.row_labels):
            raise ConfigError(f"rows[{i}].label: {len(table.row_labels)} labels are needed, one per row_labels")
    baselines = sum(column.baseline for column in table.columns)
    if baselines > 1 or (baselines and any(row.baseline for row in table.rows)):
        raise ConfigError("baseline: either one column or some of the rows can be the baseline")
    return table


def _scale(where: str, value: Any) -> Scale:
    spec = _section(where, value, ("data", "precision", "epoch", "run"), ("cost",))
    cost = _text(f"{where}.cost", spec["cost"]) if "cost" in spec else None
    one_of(f"{where}.precision", spec["precision"], PRECISIONS)
    one_of(f"{where}.epoch", spec["epoch"], EPOCHS)
    words = (f"{PRECISION}={spec['precision']}", *_word_list(f"{where}.run", spec["run"]))
    return Scale(_text(f"{where}.data", spec["data"]), words, spec["epoch"], cost)


def _row(where: str, value: Any, width: int) -> Row:
    spec = _section(where, value, ("label",), ("run", "paper", "std", "baseline", "not_run"))
    if ("run" in spec) == ("not_run" in spec):
        raise ConfigError(f"{where}: either run or not_run is needed")
    std = _printed(f"{where}.std", spec.get("std"), width)
    if DIVERGED in std:
        raise ConfigError(f"{where}.std: numbers are needed")
    return Row(
        label=_texts(f"{where}.label", spec["label"]),
        words=_words(f"{where}.run", spec.get("run", [])),
        paper=_printed(f"{where}.paper", spec.get("paper"), width),
        std=tuple(value if isinstance(value, float) else None for value in std),
        baseline=_flag(f"{where}.baseline", spec),
        not_run=_text(f"{where}.not_run", spec["not_run"]) if "not_run" in spec else None,
    )


def _column(where: str, value: Any) -> Column:
    spec = _section(where, value, ("label",), ("run", "metric", "baseline"))
    return Column(
        label=_label(f"{where}.label", spec["label"]),
        words=_words(f"{where}.run", spec.get("run", [])),
        metric=_text(f"{where}.metric", spec["metric"]) if "metric" in spec else None,
        baseline=_flag(f"{where}.baseline", spec),
    )


def _section(where: str, value: Any, needed: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """Returns ``value`` as a dict with all needed and no unknown keys."""
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: keys and values are needed, found {value!r}")
    known = (*needed, *optional)
    for key in value:
        if key not in known:
            raise ConfigError(f"{where}: {key}: no such key{nearest(str(key), known)}")
    for key in needed:
        if key not in value:
            raise ConfigError(f"{where}: {key} is missing")
    return value


def _list(where: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise ConfigError(f"{where}: a list is needed, found {value!r}")
    return value


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{where}: text is needed, found {value!r}")
    return value


def _label(where: str, value: Any) -> str:
    # YAML reads a bare yes or no as a boolean.
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ConfigError(f"{where}: text or a number is needed, found {value!r}; put it in quotes")
    return str(value)


def _texts(where: str, value: Any) -> tuple[str, ...]:
    return tuple(_label(where, item) for item in _list(where, value))


def _flag(where: str, spec: dict[str, Any]) -> bool:
    value = spec.get("baseline", False)
    if not isinstance(value, bool):
        raise ConfigError(f"{where}: true or false is needed, found {value!r}")
    return value


def _words(where: str, value: Any) -> Words:
    if not isinstance(value, dict):
        return dict.fromkeys(SCALES, _word_list(where, value))
    spec = _section(where, value, SCALES)
    return {scale: _word_list(f"{where}.{scale}", spec[scale]) for scale in SCALES}


def _word_list(where: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"{where}: a list of KEY=VALUE is needed, found {value!r}")
    for word in value:
        if not isinstance(word, str) or not re.fullmatch(r"[\w./]+=\S+", word):
            raise ConfigError(f"{where}: {word!r}: write KEY=VALUE")
    return tuple(value)


def _seeds(value: Any) -> tuple[int, ...]:
    seeds = _list("seeds", value)
    if any(type(seed) is not int or seed < 0 for seed in seeds) or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds: distinct whole numbers are needed, found {seeds}")
    return tuple(seeds)


def _printed(where: str, value: Any, width: int) -> tuple[Printed, ...]:
    """Returns one printed value per column; a table with one column may write it without a list."""
    values = value if isinstance(value, list) else [value] * (width if value is None else 1)
    if len(values) != width:
        raise ConfigError(f"{where}: {width} values are needed, one per column, found {len(values)}")
    for item in values:
        number = isinstance(item, (int, float)) and not isinstance(item, bool) and math.isfinite(item)
        if not (item is None or item == DIVERGED or number):
            raise ConfigError(f"{where}: {item!r}: a number, {DIVERGED} or null is needed")
    return tuple(float(item) if isinstance(item, (int, float)) else item for item in values)
