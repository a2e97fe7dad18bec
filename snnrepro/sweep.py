"""A sweep: every combination of the swept values becomes a job, and a grid of results ends it."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override

from snnrepro import io
from snnrepro.compose import composer, parse, sweep_of
from snnrepro.errors import ConfigError, UserError
from snnrepro.jobs import Job, run_jobs
from snnrepro.runs import read_record


def expand(overrides: list[Override]) -> list[Job]:
    """Returns one job per combination. Raises ConfigError for the first impossible one: nothing starts then.

    An experiment may bring a sweep, as ``hydra.sweeper.params``; a word of the command line replaces it, key by key.
    """
    fixed = [str(override.input_line) for override in overrides if not override.is_sweep_override()]
    given = {override.key_or_group for override in overrides}
    brought = [word for word in sweep_of(fixed) if word.partition("=")[0] not in given]
    (combinations,) = BasicSweeper.split_arguments([*overrides, *parse(brought)], None)
    with composer() as make:
        return [Job(list(words), make(words)) for words in combinations]


def run_sweep(jobs: Sequence[Job]) -> None:
    """Runs the jobs, skips finished ones, prints the grid. Raises UserError when a job has no result."""
    io.make_dir(Path(jobs[0].run.runtime.output_dir) / "runs")
    run_jobs(jobs)
    conclude(jobs)


# Hydra's launchers that run jobs elsewhere, the package each needs, and the extra that installs it.
LAUNCHERS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", "joblib"),
    "submitit_local": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    "submitit_slurm": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
}


def launch_elsewhere(jobs: Sequence[Job], launcher: str, start: Callable[[], None]) -> None:
    """Runs the jobs by ``start``, which hands them to one of Hydra's launchers, and ends as ``run_sweep`` does.

    Raises ConfigError where the launcher's package is missing, UserError when a job has no result.
    """
    module, extra = LAUNCHERS.get(launcher, ("hydra", ""))
    if find_spec(module.partition(".")[0]) is None or find_spec(module) is None:
        raise ConfigError(f"hydra/launcher={launcher}: needs a package: pip install 'snnrepro[{extra}]'")
    io.make_dir(Path(jobs[0].run.runtime.output_dir) / "runs")
    try:
        start()
    except (Exception, SystemExit) as error:
        # A launcher may give up at the first job that fails. What counts is which records exist.
        print(f"hydra/launcher={launcher}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
    for job in jobs:
        job.refresh()
    conclude(jobs)


def conclude(jobs: Sequence[Job]) -> None:
    """Prints the grid. Raises UserError when a job has no result."""
    print(grid(jobs))
    failed = [job for job in jobs if job.status not in ("done", "diverged")]
    if failed:
        raise UserError(f"{len(failed)} of {len(jobs)} runs have no result; the same command retries them")


def cell(job: Job) -> str:
    """Returns what a grid shows for a job: accuracy in percent, ``div.`` or its status."""
    if job.status == "diverged":
        return "div."
    if job.status != "done":
        return f"{job.status}({job.code})" if job.status == "failed" else job.status
    record = read_record(job.path)
    assert record is not None
    return f"{record['final']['top1']:.2f}"


def grid(jobs: Sequence[Job]) -> str:
    """Returns the results as text: the last swept key across, the others down."""
    axes: dict[str, list[str]] = {}
    for job in jobs:
        for word in job.words:
            key, _, value = word.partition("=")
            values = axes.setdefault(key, [])
            if value not in values:
                values.append(value)
    swept = [key for key, values in axes.items() if len(values) > 1] or list(axes)[-1:]
    if not swept:
        return cell(jobs[0])
    *down, across = swept
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for job in jobs:
        values_of = dict(word.split("=", 1) for word in job.words)
        rows.setdefault(tuple(values_of[key] for key in down), {})[values_of[across]] = cell(job)
    header = [*down, *(f"{across}={value}" for value in axes[across])]
    lines = [header, *([*row, *(cells.get(value, "") for value in axes[across])] for row, cells in rows.items())]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    text = ["  ".join(item.rjust(width) for item, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(["", "top-1 in percent on the test split", *text])
