"""A filled table as one plain document: what the JSON file holds, and all that rendering reads."""

import math
import statistics
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from snnrepro.identity import NUMERICS
from snnrepro.report.select import Cell, changes, outcome, same_experiment
from snnrepro.report.tables import EpochName, Table
from snnrepro.stored import Count, Fault, Kind, Name, NotNegative, exact


@exact
class RunOfCell(TypedDict):
    """A run behind a cell; value: the metric where it is done, best: after its best epoch, where the metric has one."""

    seed: Count
    run: Name
    status: Literal["done", "diverged", "missing"]
    value: float | None
    best: float | None


@exact
class Mean(TypedDict):
    """Mean and sample standard deviation over seeds."""

    mean: float | None
    std: NotNegative | None


@exact
class CellOfTable(Mean):
    """One cell: the printed values, ours over the seeds, and their runs. best: where the table shows the best epoch."""

    paper: float | Literal["div"] | None
    paper_std: NotNegative | None
    best: Mean | None
    n: Count
    diverged: Count
    missing: Count
    metric: NotRequired[str]
    words: list[str]
    runs: list[RunOfCell]
    difference: float | None


@exact
class RowOfTable(TypedDict):
    """One row; not_run: why it has no runs."""

    label: list[str]
    not_run: str | None
    cells: list[CellOfTable]


@exact
class Document(TypedDict):
    """A filled table, see ``document``."""

    table: Name
    scale: Name
    title: str
    note: str
    data: str
    changes: list[str]
    difference_to: str | None
    metric: str
    epoch: EpochName
    seeds: Annotated[list[Count], Field(min_length=1)]
    numerics: Count
    commits: list[str]
    row_labels: list[str]
    column_label: str
    columns: Annotated[list[str], Field(min_length=1)]
    rows: Annotated[list[RowOfTable], Field(min_length=1)]


def _check(table: Document) -> None:
    for i, row in enumerate(table["rows"]):
        if len(row["label"]) != len(table["row_labels"]):
            raise Fault(f"rows.{i}.label: {len(row['label'])} labels, but {len(table['row_labels'])} row_labels")
        if len(row["cells"]) != len(table["columns"]):
            raise Fault(f"rows.{i}.cells: {len(row['cells'])} cells, but {len(table['columns'])} columns")
        for j, cell in enumerate(row["cells"]):
            _check_cell(f"rows.{i}.cells.{j}", cell)


def _check_cell(where: str, cell: CellOfTable) -> None:
    for key, count in (("diverged", cell["diverged"]), ("missing", cell["missing"])):
        if count != sum(run["status"] == key for run in cell["runs"]):
            raise Fault(f"{where}.{key}: {count}, not what its runs say")
    values = [run["value"] for run in cell["runs"] if run["value"] is not None]
    if cell["n"] != len(values):
        raise Fault(f"{where}.n: {cell['n']}, but {len(values)} runs have a value")
    _check_mean(where, cell, values)
    if cell["best"] is not None:
        _check_mean(f"{where}.best", cell["best"], [run["best"] for run in cell["runs"] if run["best"] is not None])


def _check_mean(where: str, found: Mean, values: list[float]) -> None:
    expected = _mean_and_std(values)
    for name, here, there in (("mean", found["mean"], expected["mean"]), ("std", found["std"], expected["std"])):
        # None and a number differ by infinity.
        if not math.isclose(math.inf if here is None else here, math.inf if there is None else there, abs_tol=1e-9):
            raise Fault(f"{where}.{name}: {here}, not what its runs say")


def _upgrade(content: dict[str, Any], _: int) -> dict[str, Any]:
    """Returns a table of format 0, which knew the last epoch only, in today's; what does not fit stays as it is."""
    for row in _sections(content.get("rows")):
        for cell in _sections(row.get("cells")):
            cell.setdefault("best", None)
            for run in _sections(cell.get("runs")):
                run.setdefault("best", None)
    return {"epoch": "last", **content}


def _sections(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


TABLE: Kind[Document] = Kind(Document, "write it again with the table command", upgrade=_upgrade, check=_check)


def document(table: Table, scale: str, cells: Sequence[Cell], extra: Sequence[str] = ()) -> Document:
    """Returns the table with the paper's values, ours, and the runs behind every one of ours.

    ``difference`` is ours minus the paper's value at paper scale, after the epoch that the scale names. Elsewhere that
    would compare two datasets, and it is ours minus ours in the baseline row or column. ``best`` is there where the
    scale names the best epoch. Raises StorageError where a record is damaged.
    """
    commits: set[str] = set()
    epoch = table.scales[scale].epoch
    filled = [_cell(cell, commits, epoch) for cell in cells]
    width = len(table.columns)
    grid: list[list[Any]] = [filled[i : i + width] for i in range(0, len(filled), width)]
    to_paper = scale == "paper" and same_experiment(extra)
    for i, row in enumerate(grid):
        for j, cell in enumerate(row):
            other = cell["paper"] if to_paper else _baseline(table, grid, i, j)
            mine = cell["best"]["mean"] if to_paper and cell["best"] else cell["mean"]
            cell["difference"] = mine - other if mine is not None and isinstance(other, float) else None
    return {
        "table": table.name,
        "scale": scale,
        "title": table.title,
        "note": table.note,
        "data": table.scales[scale].data,
        "changes": changes(extra),
        "difference_to": "the paper" if to_paper else _baseline_name(table),
        "metric": table.metric,
        "epoch": epoch,
        "seeds": list(table.seeds),
        "numerics": NUMERICS,
        "commits": sorted(commits),
        "row_labels": list(table.row_labels),
        "column_label": table.column_label,
        "columns": [column.label for column in table.columns],
        "rows": [
            {"label": list(row.label), "not_run": row.not_run, "cells": values}
            for row, values in zip(table.rows, grid, strict=True)
        ],
    }


def _cell(cell: Cell, commits: set[str], epoch: EpochName) -> CellOfTable:
    runs: list[RunOfCell] = []
    values: list[float] = []
    best: list[float] = []
    for id, job in cell.jobs.items():
        result = outcome(job, cell.metric)
        runs.append(
            {"seed": job.run.seed, "run": id, "status": result.status, "value": result.value, "best": result.best}
        )
        if result.value is not None:
            values.append(result.value)
        if result.best is not None:
            best.append(result.best)
        if result.commit:
            commits.add(result.commit)
    return {
        "paper": cell.paper,
        "paper_std": cell.std,
        **_mean_and_std(values),
        "best": _mean_and_std(best) if best and epoch == "best" else None,
        "n": len(values),
        "diverged": sum(run["status"] == "diverged" for run in runs),
        "missing": sum(run["status"] == "missing" for run in runs),
        "metric": cell.metric,
        "words": list(cell.words),
        "runs": runs,
        "difference": None,
    }


def _mean_and_std(values: Sequence[float]) -> Mean:
    return {
        "mean": statistics.fmean(values) if values else None,
        "std": statistics.stdev(values) if len(values) > 1 else None,
    }


def _baseline(table: Table, grid: list[list[dict[str, Any]]], i: int, j: int) -> float | None:
    """Returns the mean that cell (i, j) is compared with, None for a baseline itself."""
    for column, point in enumerate(table.columns):
        if point.baseline:
            return grid[i][column]["mean"] if column != j else None
    above = [row for row in range(i + 1) if table.rows[row].baseline]
    return grid[above[-1]][j]["mean"] if above and above[-1] != i else None


def _baseline_name(table: Table) -> str | None:
    for column in table.columns:
        if column.baseline:
            return f"{table.column_label} = {column.label}"
    return "the baseline row" if any(row.baseline for row in table.rows) else None
