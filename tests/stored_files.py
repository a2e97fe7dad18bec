"""Contents of stored files that fit their schema, made without training."""

from dataclasses import asdict
from typing import Any

from snnrepro.config import RunConfig
from snnrepro.identity import run_id
from snnrepro.records import RECORD


def evaluated(top1: float = 97.0, steps: int = 2) -> dict[str, Any]:
    """Returns what an evaluation finds; each step before the last is one point worse than the next."""
    return {
        "loss": 0.1,
        "top1": top1,
        "top5": max(top1, 99.0),
        "top1_per_timestep": [top1 - step for step in reversed(range(steps))],
        "firing_rate": {"sn1": [0.1] * steps},
        "firing_rate_mean": {"by_neuron": 0.1, "by_layer": 0.1},
    }


def record_of(run: RunConfig, top1: float | None = 97.0, seconds: float = 60.0, **changes: Any) -> dict[str, Any]:
    """Returns the record of ``run`` as it is written, its best epoch half a point better.

    top1: None for a run that diverged in its first epoch.
    """
    final = None if top1 is None else {"epoch": run.epochs, **evaluated(top1, run.timesteps)}
    record: dict[str, Any] = {
        "id": run_id(run),
        "status": "diverged" if top1 is None else "done",
        "final": final,
        "best": None if top1 is None else {"epoch": 1, "step": 5, **evaluated(min(100.0, top1 + 0.5), run.timesteps)},
        "learned": {"sn1": {"v_threshold": 1.0, "tau": 2.0, "u_init": 0.1}},
        "config": asdict(run),
        "data": {"name": run.dataset.name, "split": "all", "digest": "d1", "train": 160, "test": 40, "embedded": True},
        "provenance": {
            **dict.fromkeys(("snnrepro", "python", "torch", "numpy", "platform", "processor"), "1"),
            **{"commit": "c0ffee", "device": "cpu", "processes": 1, "threads": 1, "backend": "reference"},
            **{"precision": "fp32", "deterministic": True, "channels_last": True},
        },
        "timing": {"train_seconds": seconds, "images_per_second": 100.0, "data_wait_share": 0.0},
    }
    if top1 is None:
        record["diverged"] = {"message": "loss is not finite", "epoch": 1, "step": 3}
    return RECORD.numbered({**record, **changes})


def a_line(epoch: int, **changes: Any) -> dict[str, Any]:
    """Returns a line of metrics.jsonl as it is written."""
    trained = {"epoch": epoch, "step": 5 * epoch, "lr": 0.1, "train_loss": 0.1, "train_top1": 97.0}
    learned = {"sn1": {"v_threshold": 1.0, "tau": 2.0, "u_init": 0.1}}
    return {"format": 1, **trained, **evaluated(), "learned": learned, **changes}


def table_of(**changes: Any) -> dict[str, Any]:
    """Returns a table of one row and one cell as it is written."""
    run = {"seed": 0, "run": "r1", "status": "done", "value": 97.0, "best": None}
    cell = {
        "paper": 76.5,
        "paper_std": None,
        "mean": 97.0,
        "std": None,
        "best": None,
        "n": 1,
        "diverged": 0,
        "missing": 0,
    }
    cell |= {"metric": "final.top1", "words": ["neuron=trsg"], "runs": [run], "difference": 20.5}
    return {
        **{"format": 1, "table": "table9", "scale": "mini", "title": "T", "note": "", "data": "digits", "changes": []},
        **{
            "difference_to": None,
            "metric": "final.top1",
            "epoch": "last",
            "seeds": [0],
            "numerics": 2,
            "commits": ["c0ffee"],
        },
        **{"row_labels": ["family"], "column_label": "V_thr", "columns": ["1.0"]},
        "rows": [{"label": ["trsg"], "not_run": None, "cells": [cell]}],
        **changes,
    }


def claim(**changes: Any) -> dict[str, Any]:
    """Returns a judged claim."""
    return {
        **{"id": "c1", "where": "Table 1", "claim": "a < b & c", "statistic": "margin", "exploratory": True},
        **{"verdict": "supported", "margins": [0.5, 0.25, "inf"], "p": 0.01, "paper": "contradicted"},
        **{"paper_margin": -1.0, "missing": []},
        **changes,
    }
