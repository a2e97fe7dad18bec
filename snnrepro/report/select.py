"""From a table to its runs, and from their records to the values of its cells."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from snnrepro.compose import check_names, composer
from snnrepro.config import RunConfig
from snnrepro.errors import ConfigError, StorageError
from snnrepro.identity import PRECISION, in_identity, run_id
from snnrepro.jobs import Job
from snnrepro.overrides import parse
from snnrepro.records import REPAIR
from snnrepro.report.tables import Column, Printed, Row, Table
from snnrepro.runs import read_record


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell. jobs: by run id, one per seed, shared with the cells that the same run serves; empty if not run.

    words: the command line of its runs without the seed and what the user added. paper, std: the printed values.
    """

    metric: str
    paper: Printed
    std: float | None
    words: tuple[str, ...]
    jobs: Mapping[str, Job]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run left behind. status: done, diverged or missing; value: the metric where it is done.

    best: the same after the run's best epoch, where the metric is one of its last epoch (``final.``).
    """

    status: Literal["done", "diverged", "missing"]
    value: float | None
    best: float | None
    commit: str | None


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+")


def _merged(*parts: Sequence[str]) -> tuple[str, ...]:
    """Returns the words of all parts in order; of two words with one key the later one."""
    words: dict[str, str] = {}
    for word in (word for part in parts for word in part):
        words.pop(_key(word), None)
        words[_key(word)] = word
    return tuple(words.values())


def changes(extra: Sequence[str]) -> list[str]:
    """Returns those of the user's words that make other runs: all but those that say where and how they execute."""
    return [word for word in extra if in_identity(_key(word))]


def same_experiment(extra: Sequence[str]) -> bool:
    """Returns whether the table with the user's words still is the table, run elsewhere or in another precision."""
    return all(_key(word) == PRECISION for word in changes(extra))


def expand(table: Table, scale: str, extra: Sequence[str]) -> list[Cell]:
    """Returns the cells of ``table``, row by row, with ``extra`` words on every run.

    Raises ConfigError for words that do not fit or that set what the table sets itself.
    """
    check_names(parse(extra))
    places = [(row, i, column) for row in table.rows for i, column in enumerate(table.columns)]
    words_at = [_cell_words(table, scale, row, column) for row, _, column in places]
    owned = {"seed", "experiment", *(_key(word) for words in words_at for word in words)} - {PRECISION}
    for word in extra:
        if _key(word) in owned:
            raise ConfigError(f"{word}: {table.name} sets {_key(word)} itself; leave it out")
    # Composing is slow: cells with the same words share their runs without it.
    known: dict[tuple[str, ...], dict[str, Job]] = {}
    cells = []
    with composer() as make:
        for (row, i, column), words in zip(places, words_at, strict=True):
            if row.not_run is None and words not in known:
                try:
                    line = _merged(words, extra)
                    known[words] = _jobs(make(line), line, table.seeds)
                except ConfigError as error:
                    where = ", ".join([table.name, *row.label, *filter(None, [column.label])])
                    raise ConfigError(f"{where}: {error}") from None
            jobs = {} if row.not_run else known[words]
            cells.append(Cell(column.metric or table.metric, row.paper[i], row.std[i], words, jobs))
    return cells


def _jobs(run: RunConfig, words: Sequence[str], seeds: Sequence[int]) -> dict[str, Job]:
    # A seed changes nothing but itself, so the runs need not be composed one by one.
    jobs = [Job([*words, f"seed={seed}"], replace(run, seed=seed)) for seed in seeds]
    return {run_id(job.run): job for job in jobs}


def _cell_words(table: Table, scale: str, row: Row, column: Column) -> tuple[str, ...]:
    return _merged(table.scales[scale].words, table.words[scale], row.words[scale], column.words[scale])


def distinct_jobs(cells: Sequence[Cell]) -> list[Job]:
    """Returns every run of the cells once, in the order of the cells."""
    return list({id: job for cell in cells for id, job in cell.jobs.items()}.values())


def outcome(job: Job, metric: str | None) -> Outcome:
    """Returns what the job's run says about ``metric``; None: only its status. Raises StorageError for damage."""
    record = read_record(job.path)
    if record is None:
        return Outcome("missing", None, None, None)
    value = best = None
    if record["status"] == "done" and metric is not None:
        try:
            value = _value(_source(job, record, metric), metric)
            # Records of the first version do not say which epoch was best.
            if metric.startswith("final.") and record["best"] is not None:
                best = _value(record, metric.replace("final.", "best.", 1))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            reason = f"{metric} is missing" if isinstance(error, LookupError) else error
            raise StorageError(f"{job.path / 'record.json'}: {reason}; {REPAIR}") from None
    return Outcome(record["status"], value, best, record["provenance"]["commit"])


def _source(job: Job, record: Mapping[str, Any], metric: str) -> Mapping[str, Any]:
    """Returns what holds the metric: the record, or what an analysis of the run finds, made where it is missing."""
    if not metric.startswith("analysis."):
        return record
    from snnrepro.analysis.run import analyse

    return {"analysis": analyse(job.path)}


def _value(record: Mapping[str, Any], metric: str) -> float:
    value: Any = record
    for part in metric.split("."):
        value = value[int(part)] if isinstance(value, list) else value[part]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{metric} is {value!r}")
    return float(value)


def missing_jobs(jobs: Iterable[Job]) -> list[Job]:
    """Returns those of the runs that have no record. Raises StorageError where a record is damaged."""
    return [job for job in jobs if outcome(job, None).status == "missing"]
