"""A sweep: every combination of the swept values becomes a job, and a grid of results ends it."""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

from hydra.core.override_parser.types import Override

from snnrepro import io
from snnrepro.compose import check_names, composer, folders_of, groups, sweep_of
from snnrepro.errors import ConfigError, UserError
from snnrepro.jobs import Job, run_jobs
from snnrepro.overrides import MAX_RUNS, line, parse, values

# The words that each key stands for.
Axes = dict[str, list[str]]


def expand(overrides: Sequence[Override]) -> list[Job]:
    """Returns one job per combination. Raises ConfigError for the first impossible one: nothing starts then.

    An experiment may bring a sweep, as ``hydra.sweeper.params``; a word of the command line replaces it, key by key.
    Several experiments each bring their own.
    """
    check_names(overrides)
    known = groups(folders_of(overrides))
    given = _axes(overrides, known)
    combinations: list[tuple[str, ...]] = []
    brought: dict[tuple[str, ...], Axes] = {}
    _require_few(math.prod(map(len, given.values())))
    for words in product(*given.values()):
        # Only files bring a sweep, so the values of keys need not be composed one by one.
        files = tuple(word for word in words if word.partition("=")[0] in known or word.startswith("hydra."))
        if files not in brought:
            brought[files] = _axes([o for o in parse(sweep_of(files)) if o.key_or_group not in given], known)
        more = brought[files].values()
        _require_few(len(combinations) + math.prod(map(len, more)))
        combinations.extend((*words, *rest) for rest in product(*more))
    with composer() as make:
        return [Job(list(words), make(words)) for words in combinations]


def _axes(overrides: Sequence[Override], known: Mapping[str, list[str]]) -> Axes:
    """Returns the words of every key; of two overrides with one key the later one counts."""
    axes: Axes = {}
    for override in overrides:
        key, words = override.key_or_group, [line(override)]
        if override.is_sweep_override():
            words = [f"{override.get_key_element()}={value}" for value in values(override, known.get(key))]
        axes.pop(key, None)
        axes[key] = words
    return axes


def _require_few(runs: int) -> None:
    if runs > MAX_RUNS:
        raise ConfigError(f"-m: {runs:,} combinations; at most {MAX_RUNS:,} runs make a sweep")


def run_sweep(jobs: Sequence[Job]) -> None:
    """Runs the jobs and skips finished ones. Raises StorageError where nothing can be written."""
    io.make_dir(Path(jobs[0].run.runtime.output_dir) / "runs")
    run_jobs(jobs)


def conclude(jobs: Sequence[Job]) -> None:
    """Prints the grid. Raises UserError when a job has no result."""
    print(grid(jobs))
    failed = [job for job in jobs if job.status not in ("done", "diverged")]
    if failed:
        raise UserError(f"{len(failed)} of {len(jobs)} runs have no result; the same command retries them")


def cell(job: Job) -> str:
    """Returns what a grid shows for a job: the headline of its task, ``div.`` or its status."""
    if job.status == "diverged":
        return "div."
    if job.status != "done":
        return f"{job.status}({job.code})" if job.status == "failed" else job.status
    return f"{job.headline():.2f}"


def grid(jobs: Sequence[Job]) -> str:
    """Returns the results as text: the last swept key across, the others down; a grid for each set of keys."""
    parts: dict[frozenset[str], list[dict[str, str]]] = {}
    cells: dict[int, str] = {}
    for job in jobs:
        given = dict(word.split("=", 1) for word in job.words)
        parts.setdefault(frozenset(given), []).append(given)
        cells[id(given)] = cell(job)
    shown = {job.run.task.headline for job in jobs}
    lines = ["", f"{' and '.join(sorted(each.label + each.unit for each in shown))} on the test split"]
    for part in parts.values():
        if len(parts) > 1:
            others = [given for other in parts.values() for given in other]
            alike = {key: value for key, value in part[0].items() if all(given[key] == value for given in part)}
            lines.append(" ".join(f"{k}={v}" for k, v in alike.items() if any(o.get(k) != v for o in others)))
        lines.extend(_grid(part, [cells[id(given)] for given in part]))
    return "\n".join(lines)


def _grid(jobs: Sequence[Mapping[str, str]], cells: Sequence[str]) -> list[str]:
    axes = {key: list(dict.fromkeys(given[key] for given in jobs)) for key in jobs[0]}
    swept = [key for key, options in axes.items() if len(options) > 1] or list(axes)[-1:]
    if not swept:
        return list(cells)
    *down, across = swept
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for given, text in zip(jobs, cells, strict=True):
        rows.setdefault(tuple(given[key] for key in down), {})[given[across]] = text
    header = [*down, *(f"{across}={value}" for value in axes[across])]
    lines = [header, *([*row, *(found.get(value, "") for value in axes[across])] for row, found in rows.items())]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return ["  ".join(item.rjust(width) for item, width in zip(line, widths, strict=True)) for line in lines]
