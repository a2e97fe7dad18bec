"""A filled table as one plain document: what the JSON file holds, and all that rendering reads."""

import statistics
from collections.abc import Sequence
from typing import Any

from snnrepro.report.select import Cell, changes, outcome, same_experiment
from snnrepro.report.tables import Table
from snnrepro.runs import NUMERICS


def document(table: Table, scale: str, cells: Sequence[Cell], extra: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the table with the paper's values, ours, and the runs behind every one of ours.

    ``difference`` is ours minus the paper's value at paper scale, after the epoch that the scale names. Elsewhere that
    would compare two datasets, and it is ours minus ours in the baseline row or column. ``best`` is there where the
    scale names the best epoch. Raises StorageError where a record is damaged.
    """
    commits: set[str] = set()
    epoch = table.scales[scale].epoch
    filled = [_cell(cell, commits, epoch) for cell in cells]
    width = len(table.columns)
    grid = [filled[i : i + width] for i in range(0, len(filled), width)]
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


def _cell(cell: Cell, commits: set[str], epoch: str) -> dict[str, Any]:
    runs = []
    values: list[float] = []
    best: list[float] = []
    for id, job in cell.jobs.items():
        result = outcome(id, job, cell.metric)
        run = {"seed": job.run.seed, "run": id, "status": result.status, "value": result.value, "best": result.best}
        runs.append(run)
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
    }


def _mean_and_std(values: Sequence[float]) -> dict[str, float | None]:
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
