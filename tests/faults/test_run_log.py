"""run.log: what a run printed lies in its folder, and a crash is one line, with its traceback there."""

import json

import pytest

from snnrepro.cli import main
from snnrepro.compose import compose_run
from snnrepro.runs import run_path
from snnrepro.train import run_log
from snnrepro.train.loop import Trainer


@pytest.fixture
def log(tiny):
    return run_path(compose_run(tiny)) / "run.log"


def test_it_has_what_was_printed_and_a_second_start_goes_on(tiny, log, capsys):
    assert main(["train", *tiny]) == 0
    printed = capsys.readouterr().out
    text = log.read_text()
    assert text.startswith("--- 20") and "epoch 2/2" in text
    for line in printed.splitlines():
        assert line in text or line.startswith(("done: ", "top-1", "trained ", "record: "))
    (log.parent / "record.json").unlink()
    assert main(["train", *tiny]) == 0
    assert log.read_text().startswith(text) and log.read_text().count("--- 20") == 2


@pytest.mark.advice("; the traceback is in {}")
def test_a_crash_is_one_line_and_its_traceback_is_in_the_log(tiny, log, capsys, monkeypatch):
    monkeypatch.setattr(Trainer, "finish_epoch", lambda self: {}["no such key"])
    assert main(["train", *tiny]) == 1
    err = capsys.readouterr().err
    assert err == f"error: KeyError: 'no such key'; the traceback is in {log}\n"
    text = log.read_text()
    assert "Traceback (most recent call last)" in text and "test_run_log.py" in text and "KeyError" in text
    monkeypatch.undo()
    assert main(["train", *tiny]) == 0, "the same command goes on"


def test_the_loss_of_another_rank_is_not_called_a_crash(tmp_path):
    error = RuntimeError("[gloo/pair.cc:561] Connection closed by peer")
    with pytest.raises(RuntimeError) as caught, run_log.run_log(tmp_path):
        raise error
    assert caught.value is error and "closed by peer" in (tmp_path / "run.log").read_text()


def test_a_users_error_and_a_stop_are_its_last_line(tiny, log, capsys, monkeypatch):
    (log.parent / "checkpoints").mkdir(parents=True)
    for suffix in ("pt", "json"):
        (log.parent / "checkpoints" / f"00000001.{suffix}").write_text("x")
    assert main(["train", *tiny]) == 5
    last = log.read_text().splitlines()[-1]
    assert last.startswith("StorageError: ") and last.removeprefix("StorageError: ") in capsys.readouterr().err
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("fault", ["a folder in its place", "full"])
def test_a_log_that_cannot_be_written_changes_no_run(fault, tiny, log, capsys):
    if fault == "full":
        log.parent.mkdir(parents=True)
        log.symlink_to("/dev/full")
    else:
        log.mkdir(parents=True)
    assert main(["train", *tiny]) == 0
    assert json.loads((log.parent / "record.json").read_text())["status"] == "done" and not log.is_file()
    assert capsys.readouterr().err == ""


def test_the_progress_bar_is_left_out(tiny, log, capsys):
    class Stream:
        def __init__(self):
            self.texts = []

        def write(self, text):
            self.texts.append(text)
            return len(text)

        flush = isatty = lambda self: False

    stream, copy = Stream(), Stream()
    copying = run_log._Copying(stream, copy)
    for text in ("\repoch 1", "a line\n"):
        copying.write(text)
    assert stream.texts == ["\repoch 1", "a line\n"] and copy.texts == ["a line\n"]
    assert copying.isatty() is False
