"""The paper's claims as functions: each returns a margin, positive where the claim holds.

``OURS`` take the evidence of one seed; ``claims_paper.py`` has the same for the paper's own numbers. Verdicts come from
the margins alone; nothing here or in ``paper/claims.yaml`` is a verdict.
"""

import itertools
import math
import statistics as plain
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from scipy.stats import ttest_1samp

from snnrepro.analysis import simulation
from snnrepro.analysis.statistics import gap_at_matched

RESETS, FAMILIES, STRENGTHS = ("soft", "hard"), ("as_sg", "rs_sg", "trsg"), (0.1, 0.3, 1.0, 3.0, 10.0)
LEVEL = 0.05


class Evidence(Protocol):
    """What the runs of one seed left behind. A diverged run has top1 0 and no analysis."""

    seed: int

    def top1(self, run: str) -> float:
        """Final test accuracy in percent."""

    def rate(self, run: str) -> float:
        """Final firing rate."""

    def history(self, run: str) -> list[float]:
        """Test accuracy after every epoch."""

    def diverged(self, run: str) -> bool:
        """Whether the run's numbers became non-finite."""

    def analysis(self, run: str, timesteps: int | None = None) -> dict[str, Any]:
        """What the run does inside, see ``analysis.run``."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """verdict: supported, contradicted or inconclusive. margins: one per seed. p: of a mean margin of 0, one-sided."""

    verdict: str
    margins: tuple[float, ...]
    p: float | None


def judge(margins: Sequence[float]) -> Verdict:
    """Returns the verdict on margins of several seeds: a one-sided t-test of their mean at the 5 % level.

    Where all margins are equal, or infinite, their sign decides; a single margin is inconclusive unless infinite.
    """
    values = tuple(margins)
    words = {True: "supported", False: "contradicted"}
    if any(math.isnan(value) for value in values):
        return Verdict("inconclusive", values, None)
    if any(math.isinf(value) for value in values):
        signs = {value > 0 for value in values}
        return Verdict(words[signs.pop()] if len(signs) == 1 else "inconclusive", values, None)
    if len(values) < 2:
        return Verdict("inconclusive", values, None)
    if max(values) == min(values):
        return Verdict(words[values[0] > 0], values, None)
    mean = sum(values) / len(values)
    p = float(ttest_1samp(values, 0, alternative="greater" if mean > 0 else "less").pvalue)
    return Verdict(words[mean > 0] if p < LEVEL else "inconclusive", values, p)


def _layers(e: Evidence, run: str, timesteps: int | None, *path: str) -> list[Any]:
    """Returns a statistic of every layer that has it."""
    found = []
    for layer in e.analysis(run, timesteps)["layers"].values():
        for key in path:
            layer = layer.get(key) if isinstance(layer, dict) else None
        if layer is not None:
            found.append(layer)
    return found


def _learned(e: Evidence, run: str, name: str) -> list[float]:
    return [layer[name] for layer in e.analysis(run)["learned"].values()]


def sparsity_curve(e: Evidence, pattern: str, plain_run: str | None = None) -> list[tuple[float, float]]:
    """Returns (firing rate, top-1) for every strength of the sparsity loss, and of ``plain_run`` without it.

    A run that diverged has no firing rate and is no point of the curve.
    """
    runs = [pattern.format(w) for w in STRENGTHS] + ([plain_run] if plain_run else [])
    return [(e.rate(run), e.top1(run)) for run in runs if not e.diverged(run)]


def _margins(tops: Callable[[str, str, float], float], values: Sequence[float]) -> float:
    """Returns by how much trsg is ahead at least, over resets and thresholds."""
    cells = [(reset, v) for reset in RESETS for v in values]
    return min(tops(r, "trsg", v) - max(tops(r, family, v) for family in FAMILIES[:2]) for r, v in cells)


def rate_change(rates: list[list[float]]) -> float:
    """Returns 0.2 minus the largest change of a layer's rate from the first to the last step."""
    return 0.2 - max(abs(rate[-1] / rate[0] - 1) if rate[0] else math.inf for rate in rates)


def conflict(without: Any, with_mp: Any) -> float:
    """Returns by how much the first step's mean cosine rises with MP-Init, minus 0.3."""

    def mean(matrix: list[list[float]]) -> float:
        return sum(matrix[0][1:]) / (len(matrix) - 1)

    return mean(with_mp) - mean(without) - 0.3


def mean_cosines(e: Evidence, run: str) -> list[list[float]]:
    """Returns the cosines between the gradients of the steps, the mean over a run's convolutions."""
    matrices = list(e.analysis(run)["cosine"].values())
    size = range(len(matrices[0]))
    return [[sum(m[i][j] for m in matrices) / len(matrices) for j in size] for i in size]


def _average(values: dict[str, float]) -> float:
    return sum(values.values()) / len(values)


def _gradients(e: Evidence, family: str, v: float, when: str, kind: str) -> dict[str, float]:
    return e.analysis(f"frozen_soft_{family}_{v}")[f"gradients_{when}"][kind]


def width(values: Sequence[float]) -> float:
    """Returns the largest minus the smallest value."""
    return max(values) - min(values)


def _lead(e: Evidence) -> float:
    found = []
    for reset in RESETS:
        curves = [e.history(f"trained_{reset}_{family}_1.0") for family in FAMILIES]
        first = len(curves[0]) // 10
        found += [t - max(a, r) for a, r, t in list(zip(*curves, strict=True))[first:]]
    return min(found)


def _explosion(e: Evidence) -> float:
    if e.diverged("frozen_soft_rs_sg_0.1"):
        return math.inf
    rs, tr = (_average(_gradients(e, family, 0.1, "first", "abs_str")) for family in ("rs_sg", "trsg"))
    return math.log10(rs / tr) - 2


def forgets_faster(panels: dict[str, dict[str, list[float]]]) -> float:
    """Returns the smallest difference between neighbouring curves at t = 2."""
    curves = [list(panel.values()) for panel in panels.values()]
    return min(b[1] - a[1] for panel in curves for a, b in itertools.pairwise(panel))


def exponential(panels: dict[str, dict[str, list[float]]]) -> float:
    """Returns 1 minus the largest ratio of successive total variations, while above the noise."""
    ratios = []
    for panel in panels.values():
        for curve in panel.values():
            # From t = 2 on, and while what is left is more than the noise of a histogram.
            ratios += [b / a for a, b in itertools.pairwise(curve[1:]) if a > 0.05]
    return 1 - max(ratios)


OURS: dict[str, Callable[[Evidence], float]] = {
    "c1": lambda e: min(e.top1(f"mp{n}") - e.top1(f"base{n}") for n in ("", "_tebn", "_tab")),
    "c2": lambda e: e.top1("mp_tr") - max(e.top1("mp"), e.top1("tr")),
    "c3": lambda e: e.top1("mp_T2") - e.top1("base_T2") - (e.top1("mp") - e.top1("base")),
    "c4": lambda e: rate_change(_layers(e, "mp", None, "firing_rate")),
    "c5": lambda e: 2 / len(e.analysis("mp")["class_shares"][0]) - max(e.analysis("mp")["class_shares"][0]),
    "c6": lambda e: gap_at_matched(
        sparsity_curve(e, "sparse_mp_tr_{}", "mp_tr"), sparsity_curve(e, "sparse_tr_{}", "tr")
    ),
    "c7": lambda e: (
        min(sparsity_curve(e, "sparse_mp_tr_{}", None))[1] - max(y for _, y in sparsity_curve(e, "sparse_tr_{}", "tr"))
    ),
    "c8": lambda e: conflict(*(mean_cosines(e, run) for run in ("base", "mp"))),
    "c9": lambda e: _margins(lambda r, f, v: e.top1(f"trained_{r}_{f}_{v}"), (0.5, 1.0, 2.0)),
    "c10": lambda e: 0.7 - max(width([e.top1(f"trained_{r}_trsg_{v}") for v in (0.5, 1.0, 2.0)]) for r in RESETS),
    "c11": _lead,
    "c12": _explosion,
    "c13": lambda e: (
        _average(_gradients(e, "as_sg", 0.1, "middle", "ratio_ag"))
        - 2 * _average(_gradients(e, "trsg", 0.1, "middle", "ratio_ag"))
    ),
    "c14": lambda e: 0.1 - min(_gradients(e, "as_sg", 2.0, "middle", "ratio_ag").values()),
    "c15": lambda e: (
        1
        - max(
            value
            for v in (0.1, 1.0, 2.0)
            for when in ("first", "middle")
            for value in _gradients(e, "trsg", v, when, "grad_cv").values()
        )
    ),
    "c16": lambda e: _margins(lambda r, f, v: e.top1(f"frozen_{r}_{f}_{v}"), (0.1, 0.5, 1.5, 2.0)),
    "c17": lambda e: 0.1 - max(tv[2] for tv in _layers(e, "base", 10, "membrane", "tv")),
    "c18": lambda e: min(tv[0] for tv in _layers(e, "base", 10, "membrane", "tv")) - 0.3,
    "c19": lambda e: 0.1 - max(max(tv[2:]) for tv in _layers(e, "base", 10, "input", "tv")),
    "c20": lambda e: min(pooled(e.analysis("base", 10)["layers"], "within_1V")) - 0.97,
    "c21": lambda e: last_over_median(_learned(e, "mp_tr", "v_threshold")),
    "c22": lambda e: 0.15 - abs(plain.median(_learned(e, "mp_tr", "u_init_over_v")) - 0.5),
    "c23": lambda e: 0.1 - abs(plain.median(_learned(e, "mp_tr_hard", "u_init_over_v")) - 0.25),
    "c24": lambda e: gap_at_matched(
        sparsity_curve(e, "sparse_mp_tr_{}", "mp_tr"), sparsity_curve(e, "sparse_frozen_{}", None)
    ),
    "c25": lambda e: forgets_faster(simulation.panels(e.seed)),
    "c26": lambda e: spread([e.analysis(run)["energy"]["millijoule"] for run in ("base", "mp", "tr", "mp_tr")]),
    "c27": lambda e: min(box["not_rejected"] - box["shuffled"] for box in _layers(e, "base", 10, "ljung_box")) + 1,
    "c28": lambda e: exponential(simulation.panels(e.seed)),
}


def pooled(layers: dict[str, Any], share: str) -> list[float]:
    """Returns a share of active neurons at every step, of all layers together."""
    total = sum(layer["active"] for layer in layers.values())
    steps = zip(*([value * layer["active"] for value in layer[share]] for layer in layers.values()), strict=True)
    return [sum(step) / total for step in steps]


def spread(values: Sequence[float]) -> float:
    """Returns 1.1 minus the largest over the smallest value."""
    return 1.1 - max(values) / min(values)


def last_over_median(values: Sequence[float]) -> float:
    """Returns the last value over the median of the others, minus 5."""
    return values[-1] / plain.median(values[:-1]) - 5
