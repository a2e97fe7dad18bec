"""How times are taken: warm-up, interleaved rounds, medians, and ratios within the same round."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from snnrepro.errors import UserError

# What one sample of a row is.
FORWARD, BOTH, STEP, INFERENCE = "forward without gradient", "forward and backward", "training step", "inference"

Run = Callable[[], object]
Measure = Callable[[Run], float]


@dataclass(frozen=True)
class Variant:
    """One row: which neuron (``kind``) computes what (``semantics``), in which precision and mode."""

    kind: str
    semantics: str
    precision: str = "fp32"
    mode: str = STEP

    @property
    def name(self) -> str:
        """The row's label; precision and mode are named where they are not what every table has."""
        parts = [self.kind, self.semantics]
        if self.precision != "fp32":
            parts.append(self.precision)
        if self.mode == INFERENCE:
            parts.append(self.mode)
        return ", ".join(parts)


def wall(run: Run, clock: Callable[[], float] = time.perf_counter) -> float:
    """Returns the seconds that one call of ``run`` takes by ``clock``."""
    start = clock()
    run()
    return clock() - start


def settle(run: Run, measure: Measure, at_least: int, at_most: int, tolerance: float = 0.01) -> int:
    """Calls ``run`` until three consecutive medians of three samples agree; returns the number of calls.

    At least ``at_least`` and at most ``at_most`` calls, whatever the times do.
    """
    samples: list[float] = []
    while len(samples) < at_most:
        samples.append(measure(run))
        if len(samples) < max(at_least, 9):
            continue
        medians = [median(samples[-end - 3 : len(samples) - end]) for end in (0, 3, 6)]
        if max(medians) <= (1 + tolerance) * min(medians):
            break
    return len(samples)


class NotRun(Exception):
    """This machine cannot do what is to be timed; the message says why."""


def interleave(runs: Mapping[str, Run], rounds: int, measure: Measure) -> dict[str, list[float]]:
    """Returns the seconds of every run in every round, taken in the order A B C A B C."""
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            samples[name].append(measure(run))
    return samples


def spread(values: Iterable[float]) -> dict[str, float]:
    """Returns the median and the 20th and 80th percentile of ``values``."""
    p20, middle, p80 = np.percentile(list(values), [20, 50, 80]).tolist()
    return {"median": middle, "p20": p20, "p80": p80}


def paired(numerator: list[float], denominator: list[float]) -> dict[str, float]:
    """Returns the spread of the ratio of two rows, formed within each round."""
    return spread(a / b for a, b in zip(numerator, denominator, strict=True))


def pairs_of(variants: Iterable[Variant]) -> list[tuple[Variant, Variant]]:
    """Returns which rows are divided by which: always equal semantics, precision and mode, but for the floor.

    Others are divided by ours; ours is divided by the ReLU floor, and fp32 by bf16. A library with semantics of its
    own, and the fixed scalars that come with them, is set against our like-for-like row.
    """
    ours = {(v.semantics, v.precision, v.mode): v for v in variants if v.kind == "ours"}
    pairs = []
    for v in variants:
        if v.kind == "ours":
            half = ours.get((v.semantics, "bf16", v.mode))
            if v.precision == "fp32" and half is not None:
                pairs.append((v, half))
            continue
        if v.semantics == "floor":
            pairs += [(own, v) for key, own in ours.items() if key[1:] == (v.precision, v.mode)]
            continue
        partner = ours.get(("like-for-like" if v.semantics == "own" else v.semantics, v.precision, v.mode))
        if partner is not None:
            pairs.append((v, partner))
    return pairs


def compare(
    title: str,
    variants: list[Variant],
    prepare: Callable[[Variant], Run],
    *,
    rounds: int,
    measure: Measure = wall,
    warm_up: tuple[int, int] = (1, 1),
    refused: Mapping[tuple[str, str, str], str] | None = None,
    inspect: Callable[[Variant, Run], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Returns one workload's table: rows with all samples, and paired ratios.

    prepare: variant to the function that is timed. warm_up: least and most calls before the first sample.
    refused: reasons by (kind, semantics, precision); these variants failed the gate and are not timed.
    inspect: what else to write into the row of a variant, found out once between its warm-up and the rounds.
    """
    print(f"-- {title}", flush=True)
    runs: dict[str, Run] = {}
    rows = []
    for variant in variants:
        row: dict[str, Any] = {"name": variant.name, "status": "timed"}
        reason = (refused or {}).get((variant.kind, variant.semantics, variant.precision))
        if reason is not None:
            row["status"] = f"failed the gate: {reason}"
        else:
            try:
                run = prepare(variant)
                row["warm_up_calls"] = settle(run, measure, *warm_up)
                row["note"] = getattr(run, "note", "")
                row |= inspect(variant, run) if inspect else {}
                runs[variant.name] = run
            except (ImportError, NotRun) as error:
                row["status"] = f"not run: {error}"
            except (RuntimeError, UserError) as error:
                row["status"] = f"failed: {str(error).splitlines()[0]}"
        rows.append(row)
    samples = interleave(runs, rounds, measure)
    for row in rows:
        if row["name"] in samples:
            row |= {"samples": samples[row["name"]], **spread(samples[row["name"]])}
            print(f"   {1e3 * row['median']:10.2f} ms  {row['name']}", flush=True)
        else:
            print(f"   {row['status']}: {row['name']}", flush=True)
    ratios = [
        {"numerator": a.name, "denominator": b.name, **paired(samples[a.name], samples[b.name])}
        for a, b in pairs_of(variants)
        if a.name in samples and b.name in samples
    ]
    return {"title": title, "rounds": rounds, "rows": rows, "ratios": ratios}
