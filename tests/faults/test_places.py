"""Places that cannot be written or named, and what killed processes left in them: one line, or nothing left."""

import tempfile

import pytest
from conftest import TINY

from snnrepro.cli import main

LONG = "x" * 300


@pytest.mark.parametrize(
    "words",
    [
        ["train", *TINY, f"runtime.output_dir={LONG}"],
        ["train", "-m", *TINY, "seed=0,1", f"runtime.output_dir={LONG}"],
        ["evaluate", f"run={LONG}"],
        ["evaluate", "run=x", f"runtime.output_dir={LONG}"],
        ["evaluate", f"checkpoint={LONG}"],
        ["wandb-push", LONG],
        ["report", f"runtime.output_dir={LONG}"],
        ["table", "table10", "--scale", "mini", "--check", "--readme", LONG],
        ["figure", "3", f"runtime.output_dir={LONG}"],
    ],
    ids=lambda words: " ".join(word[:12] for word in words if word not in TINY),
)
def test_a_name_too_long_for_the_file_system_is_one_line(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) in (2, 5)
    err = capsys.readouterr().err
    reasons = ("too long for the file system", "File name too long", "table10_mini.json", "no such run")
    assert any(reason in err for reason in reasons)
    assert err.startswith("error: ") and err.count("\n") == 1 and list(tmp_path.iterdir()) == []


def test_a_sweep_that_cannot_keep_what_its_runs_print_is_one_line(tiny, monkeypatch, capsys):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", full)
    assert main(["train", "-m", *tiny, "seed=0,1"]) == 5
    err = capsys.readouterr().err
    assert err.startswith("error: cannot start a run: No space left on device; check ") and err.count("\n") == 1
