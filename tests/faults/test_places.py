"""Places that cannot be written or named, and what killed processes left in them: one line, or nothing left."""

import subprocess
import tempfile

import pytest
from conftest import TINY

from snnrepro.cli import main
from snnrepro.neurons import kernel_cache

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
    assert main(words) == 5
    err = capsys.readouterr().err
    assert any(reason in err for reason in ("File name too long", "table10_mini.json", "no such run"))
    assert err.startswith("error: ") and err.count("\n") == 1 and list(tmp_path.iterdir()) == []


def test_a_sweep_that_cannot_keep_what_its_runs_print_is_one_line(tiny, monkeypatch, capsys):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", full)
    assert main(["train", "-m", *tiny, "seed=0,1"]) == 5
    err = capsys.readouterr().err
    assert err.startswith("error: cannot start a run: No space left on device; check ") and err.count("\n") == 1


def test_what_a_killed_compilation_left_is_removed_by_the_next(tmp_path, monkeypatch):
    for name in ("tmpabc", "tmpdef"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lif.so").write_text("a part")

    def compile(command, **_options):
        with open(command[-1], "w") as file:
            file.write("whole")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(kernel_cache.subprocess, "run", compile)
    kernel_cache._compile({}, tmp_path / "lif-x.so")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lif-x.so", "lock"]
