"""The paper's figures, each drawn from plain data into axes; where the paper's values are known, beside them.

A plot takes a figure of matplotlib, ours (what ``FIGURES`` gathers from runs), and the paper's numbers.
"""

from collections.abc import Sequence
from typing import Any

import torch

from snnrepro.analysis.claims import pooled
from snnrepro.neurons.surrogates import SURROGATES

Data = dict[str, Any]


def _density(ax: Any, found: Data, steps: list[int]) -> None:
    """Draws a histogram's density for the given steps (from 1)."""
    edges = torch.tensor(found["edges"])
    centres = (edges[1:] + edges[:-1]) / 2
    for t in steps:
        counts = torch.tensor(found["counts"][t - 1], dtype=torch.float64)
        ax.plot(centres, counts[1:-1] / counts.sum() / (edges[1] - edges[0]), label=f"t = {t}")
    ax.legend()


def densities(figure: Any, ours: Data, paper: Data, quantity: str, key: str) -> None:
    """Figs 1 and 2: densities of a layer's potential or input at t = 1, 2, 4, one panel for each method."""
    axes = figure.subplots(1, len(ours), sharey=True, squeeze=False)[0]
    for ax, (name, layer) in zip(axes, ours.items(), strict=True):
        _density(ax, layer[quantity], [1, 2, 4])
        printed = {"base": "tdbn", "mp": "mpinit", "base_tebn": "tebn", "base_tab": "tab"}.get(name)
        values = ", ".join(f"{mean:.2f}" for mean, _ in paper[key][printed]) if printed else ""
        ax.set_title(f"{name}\nmeans in the paper: {values}", fontsize=8)
        ax.set_xlabel(quantity)


def surrogates(figure: Any, ours: Data, paper: Data) -> None:
    """Fig. 3: the windows of the three families around a small and a large threshold."""
    for ax, v in zip(figure.subplots(1, 2, sharey=True), (0.25, 2.0), strict=True):
        m = torch.linspace(-0.5, 4, 1000)
        derivative = SURROGATES["rectangular"].derivative
        ax.plot(m, derivative(m - v, 1.0), label="AS-SG: f'(M - V)")
        ax.plot(m, derivative(m / v - 1, 1.0) / v, label="RS-SG: f'(M/V - 1) / V")
        ax.plot(m, derivative(m / v - 1, 1.0), "--", label="TrSG: f'(M/V - 1)")
        ax.axvline(v, color="grey", linewidth=0.5)
        ax.set(title=f"V_thr = {v}", xlabel="M")
        ax.legend(fontsize=7)


def logits(figure: Any, ours: Data, paper: Data) -> None:
    """Figs 4 and 5: logits of each step in two main directions, one basis for all steps."""
    points, labels = torch.tensor(ours["projected"]), torch.tensor(ours["labels"])
    steps = [t for t in (1, 2, 4) if t <= len(points)]
    axes = figure.subplots(1, len(steps), sharex=True, sharey=True, squeeze=False)[0]
    for ax, t in zip(axes, steps, strict=True):
        for label in range(4):
            ax.scatter(*points[t - 1][labels == label].T, s=6, label=str(label))
        ax.set_title(f"t = {t}, silhouette {ours['separation'][t - 1]:.2f}", fontsize=9)


def firing_rates(figure: Any, ours: Data, paper: Data) -> None:
    """Fig. 6: firing rate of every layer over time, without and with MP-Init."""
    printed = {"base": "without_mpinit", "mp": "with_mpinit"}
    axes = figure.subplots(1, len(ours), sharey=True, squeeze=False)[0]
    for ax, (name, layers) in zip(axes, ours.items(), strict=True):
        for rates in layers.values():
            ax.plot(range(1, len(rates) + 1), rates, color="C0", linewidth=1)
        for rates in paper["fig6"][printed[name]]:
            ax.plot(range(1, 5), rates, color="C1", linewidth=0.8, linestyle="--")
        ax.set(title=f"{name}: ours solid, paper dashed", xlabel="t", ylabel="spikes per neuron")


def class_shares(figure: Any, ours: Data, paper: Data) -> None:
    """Fig. 7: share of predictions per class at every step, without and with MP-Init."""
    axes = figure.subplots(1, len(ours), sharey=True, squeeze=False)[0]
    for ax, (name, shares) in zip(axes, ours.items(), strict=True):
        for t, row in enumerate(shares, start=1):
            ax.plot(row, marker=".", label=f"t = {t}, largest {max(row):.2f}")
        ax.set(title=name, xlabel="class")
        ax.legend(fontsize=7)


def curves(figure: Any, ours: Data, paper: Data, key: str) -> None:
    """Figs 8 and 17: accuracy against firing rate; ours and the paper's beside each other."""
    left, right = figure.subplots(1, 2)
    for ax, points, title in ((left, ours, "ours"), (right, paper[key], "paper")):
        for name, curve in points.items():
            if name != "unit":
                ax.plot(*zip(*sorted(map(tuple, curve)), strict=True), marker="o", label=name)
        ax.set(title=title, xlabel="firing rate", ylabel="top-1, %")
        ax.legend(fontsize=7)


def families(figure: Any, ours: list[Data], paper: Data, panels: Sequence[tuple[str, str]]) -> None:
    """Figs 9 (top), 15, 16: accuracy by initial value, family and reset; ours and the paper's side by side.

    ours: per panel {reset: {family: accuracies}}. panels: (key, shape) of each in the paper's numbers.
    """
    names = {"as_sg": "AS", "rs_sg": "RS", "trsg": "Tr"}
    grid = figure.subplots(2 * len(panels), 2, squeeze=False)
    rows = iter(grid)
    for (key, shape), found in zip(panels, ours, strict=True):
        values = paper[key]["columns"]
        for reset in ("soft", "hard"):
            left, right = next(rows)
            for family, short in names.items():
                left.plot(values, found[reset][family], marker="o", label=family)
                right.plot(values, paper[key][shape][reset][short], marker="o", label=family)
            left.set(title=f"{shape}, {reset}, ours", ylabel="top-1, %")
            right.set(title=f"{shape}, {reset}, paper")
            right.set_xlabel("initial V_thr" if values[0] == 0.5 else "initial tau")
            left.legend(fontsize=7)


def cosines(figure: Any, ours: Data, paper: Data) -> None:
    """Fig. 10: cosines between the gradients of the steps, without and with MP-Init."""
    panels = {"ours, base": ours["base"], "ours, mp": ours["mp"]}
    panels |= {f"paper, {name}": values for name, values in paper["fig10_cosine"].items()}
    for ax, (name, matrix) in zip(figure.subplots(1, 4), panels.items(), strict=True):
        ax.imshow(matrix, vmin=0, vmax=1, cmap="viridis")
        for i, row in enumerate(matrix):
            for j, value in enumerate(row):
                ax.text(j, i, f"{value:.2f}", ha="center", va="center", color="white", fontsize=7)
        ax.set_title(name, fontsize=8)


def stationarity(figure: Any, ours: Data, paper: Data, number: int, data: str) -> None:
    """Figs 11 and 12: total variation of inputs, Ljung-Box acceptance, boundedness, of the baseline at T = 10."""
    a, b, c = figure.subplots(1, 3)
    _tv(a, ours, "input", paper[f"fig{number}a_tv_input_{data}"])
    boxes = [layer["ljung_box"] for layer in ours.values() if "ljung_box" in layer]
    b.plot([box["not_rejected"] for box in boxes], marker="o", label="ours")
    b.plot([box["shuffled"] for box in boxes], marker=".", label="ours, steps shuffled")
    b.plot(list(paper[f"fig{number}b_ljung_box_{data}"].values()), marker="x", label=f"paper, {data}")
    b.set(xlabel="layer", ylabel="not rejected, %")
    b.legend(fontsize=7)
    steps = range(1, 11)
    for key, style in (("within_1V", "-"), ("within_2V", "--")):
        c.plot(steps, pooled(ours, key), f"C0{style}", label=f"ours, {key}")
        c.plot(steps, paper[f"fig{number}c_boundedness_{data}"][key], f"C1{style}", label=f"paper, {key}")
    c.set(xlabel="t", ylabel="share of active membranes")
    c.legend(fontsize=7)


def _tv(ax: Any, layers: Data, quantity: str, printed: Data) -> None:
    for layer in layers.values():
        tv = layer[quantity]["tv"]
        ax.plot(range(1, len(tv) + 1), tv, color="C0", linewidth=1)
    for tv in printed.values():
        ax.plot(range(1, len(tv) + 1), tv, color="C1", linewidth=0.8, linestyle="--")
    ax.axhline(max(layer[quantity]["noise_floor"] for layer in layers.values()), color="grey", linewidth=0.5)
    ax.set(
        xlabel="t", ylabel=f"total variation of the {quantity} to t = 10", title="ours solid, paper dashed, noise floor"
    )


def membranes(figure: Any, ours: Data, paper: Data) -> None:
    """Fig. 13: total variation between membranes at t and at t = 10, of the baseline."""
    _tv(figure.subplots(), ours, "membrane", paper["fig13a_tv_membrane_cifar100"])


def trajectories(figure: Any, ours: list[Data], paper: Data) -> None:
    """Fig. 14: thresholds over the epochs."""
    left, right = figure.subplots(1, 2)
    for name in ours[0]:
        left.plot([epoch[name]["v_threshold"] for epoch in ours], label=name, linewidth=1)
    for name, values in paper["fig14a_cifar100"].items():
        right.plot([0, 10, 50, 100, 199], values, marker=".", label=name)
    left.set(title="ours", xlabel="epoch", ylabel="V_thr")
    right.set(title="paper, CIFAR-100, five epochs", xlabel="epoch")
    left.legend(fontsize=6)


def learned(figure: Any, ours: Data, paper: Data) -> None:
    """Fig. 18: final tau, threshold, running mean, and its ratio to the threshold, by layer; soft and hard reset."""
    kinds = {"tau": "tau", "v_threshold": "vthr", "u_init": "running_mean", "u_init_over_v": "running_mean_over_vthr"}
    for row, (reset, layers) in zip(figure.subplots(2, 4), ours.items(), strict=True):
        for ax, (kind, printed) in zip(row, kinds.items(), strict=True):
            ax.plot([layer[kind] for layer in layers.values()], marker="o", label="ours")
            ax.plot(paper["fig18"][f"cifar100_{reset}"][printed], marker="x", label="paper, CIFAR-100")
            ax.set_title(f"{reset}: {printed}", fontsize=8)
        row[0].legend(fontsize=7)


def forgetting(figure: Any, ours: Data, paper: Data) -> None:
    """Fig. 19: total variation between a simulated membrane at t and at t = 10."""
    for ax, (panel, simulated) in zip(figure.subplots(1, 2), ours.items(), strict=True):
        for i, (name, values) in enumerate(simulated.items()):
            ax.plot(range(1, 10), values, color=f"C{i}", label=name)
            ax.plot(range(1, 10), paper[panel][name], "x", color=f"C{i}")
        ax.set(title=f"{panel}: lines ours, crosses paper", xlabel="t", ylabel="total variation")
        ax.legend(fontsize=7)
