"""The statistics of ``claims.py`` on the paper's own numbers: what it plots, and under ``tables`` what it prints."""

import math
import statistics as plain
from collections.abc import Callable, Sequence
from typing import Any

from snnrepro.analysis.claims import conflict, exponential, forgets_faster, last_over_median, rate_change, spread, width
from snnrepro.analysis.statistics import gap_at_matched


def _paper_cells(figures: dict[str, Any]) -> list[dict[str, list[float]]]:
    """Returns the bars of Figs 9, 15, 16: one entry per shape, reset and panel."""
    names = ("fig9_top", "fig15_vthr", "fig15_tau", "fig16")
    return [
        cell
        for name in names
        for shape, resets in figures[name].items()
        if shape != "columns"
        for cell in resets.values()
    ]


def _paper_lead(figures: dict[str, Any]) -> float:
    curves = [value for name, value in figures["fig9_bottom"].items() if name != "unit"]
    return min(t - max(a, r) for c in curves for a, r, t in zip(c["AS"], c["RS"], c["Tr"], strict=True))


# f: the content of ``paper/figures.yaml``.
PAPER: dict[str, Callable[[dict[str, Any]], float]] = {
    "c4": lambda f: rate_change(f["fig6"]["with_mpinit"]),
    "c5": lambda f: 0.2 - max(f["fig7"]["with_mpinit"][0]),
    "c6": lambda f: gap_at_matched(f["fig8"]["with_mpinit"], f["fig8"]["without_mpinit"]),
    "c7": lambda f: min(f["fig8"]["with_mpinit"])[1] - max(y for _, y in f["fig8"]["without_mpinit"]),
    "c8": lambda f: conflict(f["fig10_cosine"]["without_mpinit"], f["fig10_cosine"]["with_mpinit"]),
    "c9": lambda f: min(
        t - max(a, r) for c in _paper_cells(f) for a, r, t in zip(c["AS"], c["RS"], c["Tr"], strict=True)
    ),
    "c10": lambda f: (
        0.7
        - max(
            width(cell["Tr"])
            for name in ("fig9_top", "fig15_vthr")
            for shape, resets in f[name].items()
            if shape != "columns"
            for cell in resets.values()
        )
    ),
    "c11": _paper_lead,
    "c17": lambda f: (
        0.1 - max(tv[2] for n in ("a_tv_membrane_cifar100", "b_tv_membrane_dvs") for tv in f[f"fig13{n}"].values())
    ),
    "c18": lambda f: (
        min(tv[0] for n in ("a_tv_membrane_cifar100", "b_tv_membrane_dvs") for tv in f[f"fig13{n}"].values()) - 0.3
    ),
    "c19": lambda f: (
        0.1 - max(max(tv[2:]) for n in ("11a_tv_input_cifar100", "12a_tv_input_dvs") for tv in f[f"fig{n}"].values())
    ),
    "c20": lambda f: (
        min(f["fig11c_boundedness_cifar100"]["within_1V"] + f["fig12c_boundedness_dvs"]["within_1V"]) - 0.97
    ),
    "c21": lambda f: min(
        last_over_median([curve[-1] for curve in f[name].values()])
        for name in ("fig14a_cifar100", "fig14b_dvs", "fig14c_imagenet")
    ),
    "c22": lambda f: (
        0.15
        - max(
            abs(plain.median(f["fig18"][name]["running_mean_over_vthr"]) - 0.5)
            for name in ("cifar100_soft", "dvs_soft")
        )
    ),
    "c23": lambda f: (
        0.1
        - max(
            abs(plain.median(f["fig18"][name]["running_mean_over_vthr"]) - 0.25)
            for name in ("cifar100_hard", "dvs_hard")
        )
    ),
    "c24": lambda f: gap_at_matched(f["fig17"]["training"], f["fig17"]["no_training"]),
    "c25": lambda f: forgets_faster({panel: f[panel] for panel in ("fig19a", "fig19b")}),
    "c28": lambda f: exponential({panel: f[panel] for panel in ("fig19a", "fig19b")}),
    "c27": lambda f: min(*f["fig11b_ljung_box_cifar100"].values(), *f["fig12b_ljung_box_dvs"].values()) - 94.5 + 1,
    # Printed in Tables 1, 2, 6, 7-10 and 13.
    "c1": lambda f: min(ours - base for base, ours in f["tables"]["table1"]),
    "c2": lambda f: min(both - max(mp, tr) for _, mp, tr, both in f["tables"]["table2"]),
    "c3": lambda f: _gain(f["tables"]["table6"]) - _gain(f["tables"]["table1"][0]),
    "c12": lambda f: (
        math.log10(f["tables"]["abs_str_v0.1_epoch1"]["rs_sg"] / f["tables"]["abs_str_v0.1_epoch1"]["trsg"]) - 2
    ),
    "c13": lambda f: f["tables"]["ratio_ag_v0.1_epoch100"]["as_sg"] - 2 * f["tables"]["ratio_ag_v0.1_epoch100"]["trsg"],
    "c14": lambda f: 0.1 - f["tables"]["ratio_ag_v2.0_epoch100"]["as_sg"],
    "c15": lambda f: 1 - max(f["tables"]["grad_cv_trsg"]),
    "c16": lambda f: min(trsg - max(a, r) for a, r, trsg in f["tables"]["table10"]),
    "c26": lambda f: spread(f["tables"]["table13_millijoule"]),
}


def _gain(cell: Sequence[float]) -> float:
    return cell[1] - cell[0]
