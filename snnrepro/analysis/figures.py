"""``snnrepro figure N``: the paper's figures from our runs, as PNG and SVG, with what the paper plots beside."""

import argparse
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from snnrepro import io
from snnrepro.analysis import plots, simulation
from snnrepro.analysis.claims import mean_cosines, sparsity_curve
from snnrepro.analysis.evidence import OF_FIGURES, Jobs, MissingRun, Runs, jobs_of_figures, paper_numbers
from snnrepro.errors import ConfigError, StorageError
from snnrepro.jobs import run_jobs


def _layer(e: Runs, runs: tuple[str, ...]) -> dict[str, Any]:
    """Returns the record of the first spiking layer of the last stage, as the paper's text says, for each run."""
    found = {}
    for run in runs:
        layers = e.analysis(run)["layers"]
        found[run] = layers[max(name for name in layers if name.endswith(".0.sn1"))]
    return found


def _rates(e: Runs, run: str) -> dict[str, list[float]]:
    return {name: layer["firing_rate"] for name, layer in e.analysis(run)["layers"].items()}


def _bars(e: Runs, name: str, values: tuple[float, ...]) -> dict[str, dict[str, list[float]]]:
    """Returns top-1 by reset, family and value; ``name`` is that of the runs with {reset}, {family}, {value}."""
    return {
        reset: {
            family: [e.top1(name.format(reset=reset, family=family, value=value)) for value in values]
            for family in ("as_sg", "rs_sg", "trsg")
        }
        for reset in ("soft", "hard")
    }


_V, _TAU = (0.5, 1.0, 2.0), (1.33, 2.0, 3.0)
_PAPER_NAMES = {"rectangular": "rect", "triangular": "tri", "arctan": "arctan", "sigmoid": "sigmoid"}


def _panels(*names: tuple[str, str]) -> tuple[Callable[[Runs], Any], Callable]:
    """Returns what gathers and what draws panels of (shape, what varies: v or tau)."""

    def gather(e: Runs) -> list[dict[str, Any]]:
        name = "shape_{}_{{reset}}_{{family}}_{}{{value}}"
        return [_bars(e, name.format(shape, kind), _V if kind == "v" else _TAU) for shape, kind in names]

    keys = {"v": "fig15_vthr", "tau": "fig15_tau"}
    of_paper = [("fig16" if shape[0] in "rt" else keys[kind], _PAPER_NAMES[shape]) for shape, kind in names]
    return gather, partial(plots.families, panels=of_paper)


_FOUR = ("base", "base_tebn", "base_tab", "mp")
# Number: (what it shows, what our runs give, how it is drawn, size in inches).
FIGURES: dict[str, tuple[str, Callable[[Runs], Any], Callable, tuple[float, float]]] = {
    "1": ("potentials at t = 1, 2, 4", lambda e: _layer(e, _FOUR),
          partial(plots.densities, quantity="potential", key="fig1_membrane_mean_sd"), (13, 3.2)),
    "2": ("inputs at t = 1, 2, 4", lambda e: _layer(e, _FOUR),
          partial(plots.densities, quantity="input", key="fig2_input_mean_sd"), (13, 3.2)),
    "3": ("windows of the surrogate families", lambda e: {}, plots.surrogates, (9, 3.2)),
    "4": ("logits without MP-Init", lambda e: e.analysis("base"), plots.logits, (10, 3.4)),
    "5": ("logits with MP-Init", lambda e: e.analysis("mp"), plots.logits, (10, 3.4)),
    "6": ("firing rates", lambda e: {run: _rates(e, run) for run in ("base", "mp")}, plots.firing_rates, (9, 3.4)),
    "7": ("predicted classes", lambda e: {run: e.analysis(run)["class_shares"] for run in ("base", "mp")},
          plots.class_shares, (9, 3.4)),
    "8": ("accuracy at firing rates, MP-Init", lambda e: {
        "with_mpinit": sparsity_curve(e, "sparse_mp_tr_{}"), "without_mpinit": sparsity_curve(e, "sparse_tr_{}")},
          partial(plots.curves, key="fig8"), (9, 3.4)),
    "9": ("families by initial threshold", lambda e: [_bars(e, "trained_{reset}_{family}_{value}", _V)],
          partial(plots.families, panels=[("fig9_top", "rect")]), (9, 6)),
    "10": ("cosines between steps", lambda e: {run: mean_cosines(e, run) for run in ("base", "mp")}, plots.cosines,
           (13, 3.4)),
    "11": ("stationarity of inputs", lambda e: e.analysis("base", 10)["layers"],
           partial(plots.stationarity, number=11, data="cifar100"), (14, 3.6)),
    "12": ("stationarity of inputs, events", lambda e: e.analysis("base_dvs")["layers"],
           partial(plots.stationarity, number=12, data="dvs"), (14, 3.6)),
    "13": ("stationarity of membranes", lambda e: e.analysis("base", 10)["layers"], plots.membranes, (6, 3.6)),
    "14": ("thresholds over epochs", lambda e: e.learned("mp_tr"), plots.trajectories, (10, 3.6)),
    "15": ("arctan and sigmoid by initial threshold and tau",
           *_panels(("arctan", "v"), ("sigmoid", "v"), ("arctan", "tau"), ("sigmoid", "tau")), (9, 20)),
    "16": ("rectangular and triangular by initial tau",
           *_panels(("rectangular", "tau"), ("triangular", "tau")), (9, 11)),
    "17": ("accuracy at firing rates, trained parameters", lambda e: {
        "training": sparsity_curve(e, "sparse_mp_tr_{}"), "no_training": sparsity_curve(e, "sparse_frozen_{}")},
           partial(plots.curves, key="fig17"), (9, 3.4)),
    "18": ("learned parameters", lambda e: {
        "soft": e.analysis("mp_tr")["learned"], "hard": e.analysis("mp_tr_hard")["learned"]}, plots.learned, (13, 6)),
    "19": ("forgetting, simulated", lambda e: simulation.panels(e.seed), plots.forgetting, (9, 3.4)),
}  # fmt: skip


def main(words: list[str]) -> int:
    """Draws the figures asked for, prints their files, and returns the exit code.

    Raises ConfigError for an unknown figure, StorageError where matplotlib or a run is missing.
    """
    parser = argparse.ArgumentParser(prog="snnrepro figure", description="Figures of the paper from our runs.")
    parser.add_argument("number", help=f"{', '.join(FIGURES)}, or all")
    parser.add_argument("--scale", default="mini", help="mini: digits, any CPU | paper: CIFAR-100")
    parser.add_argument("--run", action="store_true", help="make missing runs of Figs 12, 15, 16 first")
    args, extra = parser.parse_known_args(words)
    if args.number not in (*FIGURES, "all"):
        raise ConfigError(f"figure {args.number}: there are {', '.join(FIGURES)}")
    jobs = Jobs(args.scale, extra)
    evidence, folder = Runs(jobs, 0), jobs.output / "figures"
    chosen = list(FIGURES) if args.number == "all" else [args.number]
    if args.run:
        run_jobs(jobs_of_figures(jobs, chosen))
    for number in chosen:
        try:
            print(f"{draw(number, evidence, folder, args.scale)}: {FIGURES[number][0]}")
        except MissingRun as run:
            command = f"figure {number}" if number in OF_FIGURES else "claims"
            message = f"figure {number}: run {run} is missing; snnrepro {command} --scale {args.scale} --run makes it"
            if args.number != "all":
                raise StorageError(message) from None
            print(message)
    return 0


def draw(number: str, evidence: Runs, folder: Path, scale: str) -> Path:
    """Writes figure ``number`` as PNG and SVG into ``folder`` and returns the PNG. Raises MissingRun."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise StorageError("figures need a package: pip install 'snnrepro[figures]'") from None
    title, gather, plot, size = FIGURES[number]
    data = gather(evidence)
    figure = Figure(figsize=size, layout="constrained", dpi=150)
    plot(figure, data, paper_numbers())
    note = "digits, seed 0: not the paper's data" if scale == "mini" else "CIFAR-100, seed 0"
    figure.suptitle(f"Fig. {number}: {title} ({'simulation' if number in ('3', '19') else note})", fontsize=10)
    file = folder / f"fig{int(number):02d}_{scale}.png"
    for path in (file, file.with_suffix(".svg")):
        buffer = BytesIO()
        figure.savefig(buffer, format=path.suffix[1:])
        io.write_atomic(path, buffer.getvalue())
    return file
