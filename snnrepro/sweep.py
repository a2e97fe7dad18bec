"""Hydra's multirun: every combination becomes a job of its own, and the sweep ends with a grid of results."""

import sys
from collections.abc import Sequence

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from snnrepro.compose import composer
from snnrepro.errors import UserError, report
from snnrepro.jobs import Job, run_jobs
from snnrepro.runs import read_record


class ProcessLauncher(Launcher):
    """Runs the jobs of a sweep as processes; finished runs are skipped, unfinished ones resumed."""

    def setup(self, *, hydra_context, task_function, config) -> None:
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        with composer() as make:
            jobs = [Job(list(words), make(words)) for words in job_overrides]
        # Hydra would print a traceback for an exception; SystemExit passes through it.
        try:
            run_jobs(jobs)
        except UserError as error:
            sys.exit(report(error))
        print(grid(jobs))
        failed = [job for job in jobs if job.status not in ("done", "diverged")]
        if failed:
            sys.exit(report(UserError(f"{len(failed)} of {len(jobs)} runs have no result; the same command retries")))
        return [JobReturn(overrides=list(job.words), status=JobStatus.COMPLETED) for job in jobs]


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


def register() -> None:
    """Makes the launcher, which the configuration names, known to Hydra."""
    Plugins.instance().register(ProcessLauncher)
