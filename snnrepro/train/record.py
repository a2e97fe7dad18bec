"""The parts of ``record.json``, and what a run prints."""

import math
from pathlib import Path
from typing import Any

import torch

from snnrepro.config import RunConfig
from snnrepro.data.sets import Data


def describe(data: Data) -> dict[str, Any]:
    """Returns what a run was trained and tested on."""
    return {
        "name": data.name,
        "split": data.split,
        "digest": data.digest,
        "train": len(data.train),
        "test": len(data.test),
        "embedded": data.embedded,
    }


def announce(
    run: RunConfig, path: Path, data: Data, optimizer: torch.optim.Optimizer, provenance: dict[str, Any]
) -> None:
    """Prints what is about to run."""
    groups = ", ".join(
        f"{g['name']} {sum(p.numel() for p in g['params'])} (decay {g['weight_decay']:g})"
        for g in optimizer.param_groups
    )
    ranks = f", {provenance['processes']} processes" if provenance["processes"] > 1 else ""
    print(f"run {path.name} in {path}")
    print(f"data {data.name}: {data.split}, digest {data.digest[:12]}")
    if data.embedded:
        print("embedded data: the numbers of this run are not numbers of the paper")
    print(f"model {run.model.name}: parameters {groups}")
    print(
        f"on {provenance['device']}{ranks}, {provenance['threads']} threads, {provenance['precision']}, "
        f"LIF backend {provenance['backend']}"
    )


def finite_or_none(learned: dict[str, dict[str, float]]) -> dict[str, dict[str, float | None]]:
    """Returns the scalars of every layer, None where a diverged run left no number."""
    return {
        layer: {name: value if math.isfinite(value) else None for name, value in values.items()}
        for layer, values in learned.items()
    }


def epoch_line(line: dict[str, Any], run: RunConfig, timing: dict[str, float], images: int) -> str:
    """Returns an epoch's results as text, with images per second and the training time left."""
    per_image, headline = timing["train_seconds"] / timing["images"], run.task.headline
    train, test = headline.text(line[f"train_{headline.key}"]), headline.text(line[headline.key])
    return (
        f"epoch {line['epoch']}/{run.epochs}: loss {line['train_loss']:.4f}, train {train}, "
        f"test loss {line['loss']:.4f}, test {test}, {1 / per_image:.0f} images/s, "
        f"{(run.epochs - line['epoch']) * images * per_image:.0f} s left"
    )


def timing_of(timing: dict[str, float]) -> dict[str, float]:
    """Returns seconds in the training loop, images per second, and the share spent waiting for data."""
    seconds = max(timing["train_seconds"], 1e-9)
    return {
        "train_seconds": timing["train_seconds"],
        "images_per_second": timing["images"] / seconds,
        "data_wait_share": timing["wait_seconds"] / seconds,
    }
