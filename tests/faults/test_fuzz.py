"""300 seeded edits of stored files, through the commands that read them: no traceback, no hang, one line each."""

import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from faults.conftest import WORDS
from faults.edits import disturb
from stored_files import claim, table_of

from snnrepro import cli, evaluate, replay, report, stored
from snnrepro.analysis import run as analysis
from snnrepro.analysis.results import ANALYSIS
from snnrepro.compose import compose_run
from snnrepro.deploy import load_absorbed
from snnrepro.errors import UserError
from snnrepro.identity import run_id
from snnrepro.report import page, plan, tables
from snnrepro.runs import run_path

CHUNKS, EDITS = 20, 15
LIMIT = 60  # seconds until a command counts as hanging; none takes a hundredth of it
TABLE = """
title: T
seeds: [0]
metric: final.top1
row_labels: [row]
scales:
  paper: {data: CIFAR-100, precision: fp32, epoch: best, run: [dataset=cifar100]}
  mini: {data: synthetic, precision: fp32, epoch: last, run: [WORDS]}
column_label: value
columns:
  - {label: last}
  - {label: first, metric: analysis.top1_of_step.0}
rows:
  - {label: [a], run: [neuron=trsg]}
"""


@pytest.fixture(scope="session")
def analysed(made: Path) -> Path:
    """The output folder, with the analysis of the finished run."""
    analysis.analyse(run_path(compose_run([*WORDS, f"runtime.output_dir={made}"])))
    return made


class Hang(BaseException):
    """A command did not come back."""


def outcome(words: list[str], capsys: pytest.CaptureFixture) -> str:
    """Returns ``ok`` for a command that ends with 0 or one line and the code of a user's error, else what happened."""

    def ring(_number: int, _frame: object) -> None:
        raise Hang

    old = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    capsys.readouterr()
    try:
        code = cli.main(words)
    except (Exception, Hang) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    # 1: the quoted table differs, or a run is missing.
    if code == 0 or (code == 1 and words[0] == "table" and not errors):
        return "ok"
    one_line = len(errors) == 1 and errors[0].startswith("error: ")
    return "ok" if code == 5 and one_line else f"exit code {code}: {errors}"


@pytest.fixture
def read_by(analysed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], list[list[str]]]:
    """Returns the commands that read a file of the folder ``tmp_path / "outputs"``."""
    composed = cache(lambda words: compose_run(list(words)))
    for module in (cli, page):
        monkeypatch.setattr(module, "compose_run", lambda words: composed(tuple(words)))
    for name in ("jobs_of_claims", "jobs_of_figures"):
        monkeypatch.setattr(page, name, lambda jobs: [])
    monkeypatch.setattr(replay, "mirror", lambda messages: json.dumps(messages, allow_nan=False))
    # What is on disk is read, instead of written first; an analysis is not made again.
    monkeypatch.setattr(evaluate, "_absorb", lambda model, folder, file: load_absorbed(folder) and model)
    whole = ANALYSIS.read(next(analysed.glob("runs/*/analysis.json")))
    monkeypatch.setattr(analysis, "_analyse", lambda *_: whole)
    monkeypatch.setattr(report, "run_jobs", lambda jobs: None)
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "table09.yaml").write_text(TABLE.replace("WORDS", ", ".join(f"'{word}'" for word in WORDS)))
    monkeypatch.setattr(tables, "FOLDER", tmp_path / "paper")
    (tmp_path / "README.md").write_text("<!-- table9 mini -->\n<!-- end -->\n")
    output = tmp_path / "outputs"
    place, run = f"runtime.output_dir={output}", run_id(compose_run(WORDS))
    table = ["table", "table9", "--scale", "mini", place]
    evaluated = ["evaluate", f"run={run}", place]
    pushed = ["wandb-push", str(output / "runs" / run)]
    of_run = {
        "record.json": [["train", *WORDS, place], evaluated, pushed, table, ["plan", "9", "--scale", "mini", place]],
        "config.yaml": [evaluated, table],
        "metrics.jsonl": [pushed],
        "analysis.json": [table],
    }

    def commands(path: Path) -> list[list[str]]:
        plan._timings.cache_clear()
        folder, *rest = path.relative_to(output).parts
        if folder == "tables":
            check = [*table, "--check", "--readme", str(tmp_path / "README.md")]
            return [["wandb-push", str(path)], ["report", place], check]
        if rest[0] != run:
            return [["train", *WORDS, place, "seed=1"]]
        return of_run.get(path.name, [[*evaluated, "absorb=true"]] if rest[1] == "absorbed" else [evaluated])

    return commands


@pytest.fixture
def again(analysed: Path, tmp_path: Path) -> Callable[[], Path]:
    """Puts a fresh copy of the folder with the runs, a table and claims into its place and returns it."""

    def copy() -> Path:
        output = tmp_path / "outputs"
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(analysed, output)
        (output / "tables").mkdir()
        (output / "tables" / "table9_mini.json").write_text(json.dumps(table_of()))
        (output / "tables" / "claims_mini.json").write_text(json.dumps({"scale": "mini", "claims": [claim()]}))
        (output / "tables" / "claims_mini.md").write_text("claims")
        return output

    return copy


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_edit_of_a_stored_file_ends_in_a_traceback_or_a_hang(chunk, again, read_by, capsys):
    rng = random.Random(chunk)
    found = []
    for number in range(EDITS):
        path, how = disturb(again(), rng)
        for words in read_by(path):
            result = outcome(words, capsys)
            if result != "ok":
                found.append(f"edit {number}, {path}: {how}: {' '.join(words[:2])}: {result}")
    assert found == []


@pytest.mark.parametrize("planted", ["traceback", "hang", "two lines"])
def test_control_what_the_test_above_looks_for_is_found(planted, again, read_by, capsys, monkeypatch):
    path = next(again().glob("runs/*-s0-*/record.json"))
    command = read_by(path)[0]
    assert outcome(command, capsys) == "ok"

    def fail(text: str) -> None:
        if planted == "traceback":
            raise KeyError("final")
        if planted == "two lines":
            raise UserError("one\ntwo")
        time.sleep(60)

    monkeypatch.setattr(stored, "_json", fail)
    monkeypatch.setitem(globals(), "LIMIT", 0.1 if planted == "hang" else LIMIT)
    expected = {"traceback": "KeyError: 'final'", "hang": "Hang: ", "two lines": "exit code 1: ['error: one', 'two']"}
    assert outcome(command, capsys) == expected[planted]
