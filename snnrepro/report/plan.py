"""``snnrepro plan``: what tables, claims and figures still need, in runs and hours, before anything is started."""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

from snnrepro import stored
from snnrepro.analysis.evidence import Jobs, jobs_of_claims, jobs_of_figures
from snnrepro.config import RunConfig
from snnrepro.errors import ConfigError, StorageError
from snnrepro.identity import PRECISION
from snnrepro.jobs import Job, parallelism
from snnrepro.report.select import distinct_jobs, expand, missing_jobs
from snnrepro.report.tables import SCALES, load, names
from snnrepro.runs import read_record

# Multiply-accumulates of one time step (1e9), and the side of the image they were counted at.
_MACS = {"resnet19": (2.21, 32), "cnn7": (0.267, 48), "resnet34": (3.66, 224), "sew_resnet34": (3.66, 224)}
# Training samples, side of the image.
_DATA = {"cifar10": (50_000, 32), "cifar100": (50_000, 32), "dvs_cifar10": (9_000, 48), "imagenet": (1_281_167, 224)}
# Operations per second that training is taken to reach on an RTX 3090; 8 to 22 are plausible.
_SPEED = 15e12
# What needs runs besides the tables.
_OTHERS: dict[str, Callable[[Jobs], list[Job]]] = {"claims": jobs_of_claims, "figures": jobs_of_figures}


def main(words: Sequence[str]) -> int:
    """Prints the plan of what is named, or of everything, and returns 0. Raises ConfigError for unknown names."""
    parser = argparse.ArgumentParser(prog="snnrepro plan", description="Runs and hours that are still needed.")
    parser.add_argument("tables", nargs="*", help="such as 1 2 10, table1, claims, figures; all where none is named")
    parser.add_argument("--scale", choices=SCALES, default="paper")
    args = parser.parse_intermixed_args([word for word in words if "=" not in word])
    extra = [word for word in words if "=" in word]
    known = [*names(), *_OTHERS]
    chosen = [f"table{name}" if name.isdigit() else name for name in args.tables] or known
    if unknown := [name for name in chosen if name not in known]:
        raise ConfigError(f"{unknown[0]}: no such table; there are {', '.join(known)}")
    print(render(chosen, args.scale, extra), end="")
    return 0


def render(chosen: Iterable[str], scale: str, extra: Sequence[str]) -> str:
    """Returns the plan as text: a line per part, the sum with shared runs counted once, and how to spread it."""
    lines = [f"{'part':10}{'runs':>6}{'done':>6}{'left':>6}   hours left"]
    everything: dict[str, Job] = {}
    left: dict[str, Job] = {}
    for name in chosen:
        jobs = _OTHERS[name](Jobs(scale, extra)) if name in _OTHERS else distinct_jobs(expand(load(name), scale, extra))
        missing = missing_jobs(jobs)
        everything |= {job.path.name: job for job in jobs}
        left |= {job.path.name: job for job in missing}
        lines.append(f"{name:10}{len(jobs):6}{len(jobs) - len(missing):6}{len(missing):6}   {_hours(missing)}")
    lines.append(
        f"{'together':10}{len(everything):6}{len(everything) - len(left):6}{len(left):6}   {_hours(left.values())}"
    )
    if left:
        precision = "/".join(sorted({job.run.runtime.precision for job in left.values()}))
        at_once = parallelism(next(iter(left.values())).run)[0]
        lines += [
            "",
            f"In {precision}; {PRECISION}=... makes and finds other runs.",
            "Hours are those of one run after the other; together counts runs that are shared once.",
            f"This machine: make reproduce SCALE={scale} runs {at_once} at a time and goes on where it was stopped.",
            "Several GPUs: runtime.processes=N, or torchrun, for each run; several machines that share",
            "runtime.output_dir: one table on each, since runs are found by their id.",
        ]
    return "\n".join(lines) + "\n"


def _hours(jobs: Iterable[Job]) -> str:
    measured = estimated = 0.0
    unknown = 0
    for job in jobs:
        seconds, operations = _measured(job.run), _operations(job.run)
        if seconds is not None:
            measured += seconds
        elif operations is not None:
            estimated += operations / _SPEED
        else:
            unknown += 1
    parts = [f"{measured / 3600:.1f} (measured here)"] if measured else []
    parts += [f"{estimated / 3600:.0f} (estimate for an RTX 3090, 15 TFLOP/s)"] if estimated else []
    parts += [f"{unknown} runs of unknown cost, none of their kind has finished here"] if unknown else []
    return ", ".join(parts) or "0"


def _operations(run: RunConfig) -> float | None:
    """Returns the floating-point operations of a training run: forward and backward are three forwards."""
    if run.model.name not in _MACS or run.dataset.name not in _DATA:
        return None
    macs, counted_at = _MACS[run.model.name]
    samples, side = _DATA[run.dataset.name]
    return 6e9 * macs * (side / counted_at) ** 2 * run.timesteps * samples * run.epochs


def _measured(run: RunConfig) -> float | None:
    """Returns the median seconds of finished runs with the same data, network, steps and epochs, or None."""
    seconds = _timings(run.runtime.output_dir).get(_kind(run.dataset.name, run.model.name, run.timesteps, run.epochs))
    return None if seconds is None else statistics.median(seconds)


def _kind(*parts: object) -> str:
    return "-".join(map(str, parts))


@cache
def _timings(output_dir: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    passed: list[str] = []
    for folder in stored.listed(Path(output_dir, "runs")):
        try:
            record = read_record(folder)
        except StorageError as error:
            passed.append(str(error))
            continue
        if record is not None and record["status"] == "done" and record["timing"] is not None:
            config = record["config"]
            kind = _kind(config["dataset"]["name"], config["model"]["name"], config["timesteps"], config["epochs"])
            found.setdefault(kind, []).append(record["timing"]["train_seconds"])
    if passed:
        print(f"warning: {len(passed)} folders of runs passed over, such as {passed[0]}", file=sys.stderr)
    return found
