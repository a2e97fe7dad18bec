"""A table of two rows and two columns, and records without training."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from stored_files import record_of

from snnrepro.compose import compose_run
from snnrepro.config import RunConfig
from snnrepro.jobs import Job
from snnrepro.report import select, tables

SMALL = """
title: A small table
note: For tests.
run: [neuron.learn_threshold=false]
scales:
  paper: {data: CIFAR-100, precision: fp32, epoch: best, run: [dataset=cifar100], cost: hours}
  mini: {data: digits, precision: fp32, epoch: last, run: [dataset=digits]}
seeds: [0, 1, 2]
metric: final.top1
row_labels: [family]
rows:
  - {label: [trsg], run: [neuron.family=trsg], paper: [76.5, null], std: [0.5, null]}
  - {label: [rs_sg], run: [neuron.family=rs_sg], paper: [div, 71.25]}
  - {label: [later], not_run: dataset not built yet, paper: [1.0, 2.0]}
column_label: V_thr
columns:
  - {label: 1.0, run: [neuron.v_threshold=1.0, neuron.family=trsg], baseline: true}
  - {label: 2.0, run: [neuron.v_threshold=2.0]}
"""


composed = cache(compose_run)


@contextmanager
def _composer() -> Iterator[Callable[[Sequence[str]], RunConfig]]:
    def make(words: Sequence[str]) -> RunConfig:
        outputs = [word.partition("=")[2] for word in words if word.startswith("runtime.output_dir=")]
        run = composed(tuple(word for word in words if not word.startswith("runtime.output_dir=")))
        return replace(run, runtime=replace(run.runtime, output_dir=outputs[-1])) if outputs else run

    yield make


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tables.Table:
    """The small table, known to the command line as table1; its runs are composed once for all tests."""
    monkeypatch.setattr(select, "composer", _composer)
    folder = tmp_path / "paper"
    folder.mkdir()
    (folder / "table01.yaml").write_text(SMALL)
    monkeypatch.setattr(tables, "FOLDER", folder)
    return tables.load("table1")


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """What a test adds to every run: its output folder."""
    return [f"runtime.output_dir={tmp_path / 'outputs'}"]


@pytest.fixture
def record() -> Callable[..., Path]:
    """Writes the record that a finished run of a job leaves, and returns its file."""

    def write(job: Job, top1: float | None = 97.0, **changes: object) -> Path:
        file = job.path / "record.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(record_of(job.run, top1, **changes)))
        return file

    return write
