"""The runs that claims and figures need: which they are, which exist, and what they left behind."""

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from snnrepro.compose import compose_run, composer
from snnrepro.config import RunConfig
from snnrepro.errors import ConfigError
from snnrepro.jobs import Job
from snnrepro.records import Final, Line, Record, Scalars
from snnrepro.runs import read_lines, read_record

PAPER = Path(__file__).resolve().parent.parent / "paper"


class MissingRun(LookupError):
    """A claim asks for a run that has not been made."""


@cache
def claims_file() -> dict[str, Any]:
    """Returns ``paper/claims.yaml``: runs, seeds and claims."""
    return yaml.safe_load((PAPER / "claims.yaml").read_text())


@cache
def paper_numbers() -> dict[str, Any]:
    """Returns ``paper/figures.yaml``: what the paper plots and prints."""
    return yaml.safe_load((PAPER / "figures.yaml").read_text())


@cache
def named_runs(scale: str = "mini") -> dict[str, list[str]]:
    """Returns the words of every run by its name, behind those that the scale puts before all of them."""
    data = claims_file()
    runs = {name: list(words[scale] if isinstance(words, dict) else words) for name, words in data["runs"].items()}
    for family in data["families"]:
        keys = family["values"]
        for values in itertools.product(*keys.values()):
            given = dict(zip(keys, values, strict=True))
            runs[family["name"].format(**given)] = [word.format(**given) for word in family["words"]]
    return runs


# The runs of figures besides those of the claims; ``snnrepro figure --run`` makes them, seed 0.
OF_FIGURES = {
    "12": ["base_dvs"],
    "15": ["shape_arctan_*", "shape_sigmoid_*"],
    "16": ["shape_rectangular_*_tau*", "shape_triangular_*_tau*"],
}


def names_like(patterns: Collection[str], scale: str = "mini") -> list[str]:
    """Returns the names of runs that match one of the patterns, in the order of the file."""
    return [name for name in named_runs(scale) if any(fnmatchcase(name, pattern) for pattern in patterns)]


class Jobs:
    """The jobs of the named runs at one scale: composed when first asked for, together, because composing takes time.

    extra: words for every run. Raises ConfigError for an unknown scale or wrong words.
    """

    def __init__(self, scale: str, extra: Sequence[str]):
        scales = claims_file()["scales"]
        if scale not in scales:
            raise ConfigError(f"--scale {scale}: must be one of {', '.join(scales)}")
        self.scale, self.first, self.extra = scale, scales[scale], list(extra)
        self.output = Path(compose_run(self.extra).runtime.output_dir)
        self._composed: dict[str, RunConfig] = {}

    def of(self, names: Collection[str], seeds: Sequence[int]) -> list[Job]:
        """Returns the jobs of these runs with these seeds, each run once."""
        with composer() as make:
            for name in names:
                if name not in self._composed:
                    self._composed[name] = make(self._words(name))
        # A run may have several names.
        return list({job.path: job for job in (self[name, seed] for name in names for seed in seeds)}.values())

    def __getitem__(self, key: tuple[str, int]) -> Job:
        name, seed = key
        if name not in self._composed:
            self.of([name], [seed])
        # A seed changes nothing but itself.
        return Job([*self._words(name), f"seed={seed}"], replace(self._composed[name], seed=seed))

    def _words(self, name: str) -> list[str]:
        return [*self.first, *named_runs(self.scale)[name], *self.extra]


def jobs_of_claims(jobs: Jobs, only: Collection[str] | None = None) -> list[Job]:
    """Returns the jobs that the claims with these ids ask for, or all claims, each run once."""
    claims = [claim for claim in claims_file()["claims"] if only is None or claim["id"] in only]
    names = names_like([pattern for claim in claims for pattern in claim["needs"]], jobs.scale)
    return jobs.of(names, claims_file()["seeds"])


def jobs_of_figures(jobs: Jobs, numbers: Collection[str] | None = None) -> list[Job]:
    """Returns the jobs that these figures ask for, or all, besides those of the claims; each run once."""
    patterns = [
        pattern for number, wanted in OF_FIGURES.items() if numbers is None or number in numbers for pattern in wanted
    ]
    return jobs.of(names_like(patterns, jobs.scale), [0])


@dataclass
class Runs:
    """The evidence of one seed; raises MissingRun where a run does not exist."""

    jobs: Jobs
    seed: int

    def _record(self, run: str) -> Record:
        record = read_record(self.jobs[run, self.seed].path)
        if record is None:
            raise MissingRun(run)
        return record

    def _final(self, run: str) -> Final:
        final = self._record(run)["final"]
        if final is None:
            raise MissingRun(f"{run} diverged")
        return final

    def _lines(self, run: str) -> list[Line]:
        return read_lines(self.jobs[run, self.seed].path, self._record(run))

    def diverged(self, run: str) -> bool:
        """Returns whether the run's numbers became non-finite."""
        return self._record(run)["status"] == "diverged"

    def top1(self, run: str) -> float:
        """Returns the final test accuracy in percent, 0 for a diverged run."""
        return 0.0 if self.diverged(run) else self._final(run)["top1"]  # type: ignore[typeddict-item]

    def rate(self, run: str) -> float:
        """Returns the final firing rate of the network, every neuron counted alike."""
        rate = self._final(run)["firing_rate_mean"]
        if "by_neuron" not in rate:
            raise MissingRun(f"{run} has no firing rate")
        return rate["by_neuron"]

    def history(self, run: str) -> list[float]:
        """Returns the test accuracy after every epoch."""
        lines: list[Any] = self._lines(run)
        return [line["top1"] for line in lines]

    def learned(self, run: str) -> list[dict[str, Scalars]]:
        """Returns the learned scalars of every layer after every epoch."""
        return [line["learned"] for line in self._lines(run)]

    def analysis(self, run: str, timesteps: int | None = None) -> dict[str, Any]:
        """Returns what ``analysis.run.analyse`` found in the run, made where it is missing."""
        if self.diverged(run):
            raise MissingRun(f"{run} diverged")
        from snnrepro.analysis.run import analyse

        found: Any = analyse(self.jobs[run, self.seed].path, timesteps)
        return found
