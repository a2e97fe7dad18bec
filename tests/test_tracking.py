"""The W&B mirror: what it says, and that nothing it does or fails to do reaches a run."""

import io as text_io
import json
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from stored_files import a_line, claim, record_of, table_of

from snnrepro import replay, tracking
from snnrepro.compose import compose_run
from snnrepro.errors import ConfigError, StorageError
from snnrepro.identity import run_id
from snnrepro.runs import run_path


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for key in ("API_KEY", "MODE", "PROJECT", "ENTITY", "DIR", "BASE_URL"):
        monkeypatch.delenv(f"WANDB_{key}", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    for kind in ("CACHE", "DATA", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{kind}_DIR", str(tmp_path / "home"))


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts the fake in wandb's place, failing as told; the result returns the calls so far."""
    file = tmp_path / "calls.jsonl"

    def calls() -> list[dict]:
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def use(fail: str = ""):
        (tmp_path / "fake").mkdir()
        shutil.copy(Path(__file__).with_name("fake_wandb.py"), tmp_path / "fake" / "wandb.py")
        root = str(Path(tracking.__file__).parent.parent)
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'fake'}:{root}")
        monkeypatch.setenv("FAKE_FAIL", fail)
        monkeypatch.setenv("FAKE_CALLS", str(file))
        monkeypatch.syspath_prepend(str(tmp_path / "fake"))
        monkeypatch.delitem(sys.modules, "wandb", raising=False)
        return calls

    yield use
    sys.modules.pop("wandb", None)


@pytest.fixture(scope="module")
def composed():
    return compose_run(["logger=wandb", "epochs=3"])


@pytest.fixture
def run(composed, tmp_path: Path):
    """A run with logger=wandb and its folder."""
    run = replace(composed, runtime=replace(composed.runtime, output_dir=str(tmp_path / "outputs")))
    run_path(run).mkdir(parents=True)
    return run


EPOCHS = [{"epoch": i, "loss": 1.0 / i, "firing_rate": {"sn1": [0.1, 0.2]}, "learned": None} for i in (1, 2, 3)]
RECORD = {"status": "done", "final": {"top1": 97.5, "top1_per_timestep": [90.0, 97.5]}, "best": None}


def _follow(run) -> None:
    """Does what the trainer does."""
    tracker = tracking.start(run, run_path(run), run_id(run))
    for metrics in EPOCHS:
        tracker.log(metrics)
    tracker.finish({**RECORD, "config": asdict(run)})


def _of(calls: list[dict], kind: str) -> list:
    return [call[kind] for call in calls if kind in call]


def test_logger_none_starts_no_process_and_imports_nothing(run, monkeypatch):
    monkeypatch.setattr(tracking.subprocess, "Popen", lambda *_, **__: pytest.fail("started a process"))
    monkeypatch.setitem(sys.modules, "wandb", None)
    _follow(replace(run, logger=compose_run([]).logger))
    # The control: the same with logger=wandb would start one.
    with pytest.raises(pytest.fail.Exception, match="started a process"):
        _follow(run)


def test_a_run_is_mirrored_once_epoch_by_epoch(run, fake, capfd):
    calls = fake()
    _follow(run)
    (init,) = _of(calls(), "init")
    assert (init["id"], init["name"], init["resume"]) == (run_id(run), run_id(run), "allow")
    assert (init["project"], init["group"]) == ("snnrepro", "digits-resnet19_mini")
    assert init["dir"] == run.runtime.output_dir
    assert init["config"]["neuron"]["v_threshold"] == 1.0
    assert _of(calls(), "metric") == ["epoch", "*"]
    assert [log["epoch"] for log in _of(calls(), "log")] == [1, 2, 3]
    assert _of(calls(), "log")[0] == {"epoch": 1, "loss": 1.0, "firing_rate/sn1/1": 0.1, "firing_rate/sn1/2": 0.2}
    expected = {"status": "done", "final/top1": 97.5, "final/top1_per_timestep/1": 90.0}
    assert _of(calls(), "summary") == [{**expected, "final/top1_per_timestep/2": 97.5}]
    assert _of(calls(), "finish") == [0]
    assert len(capfd.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("key", "mode", "expected"), [(None, None, "offline"), ("k" * 40, None, "online"), ("k" * 40, "offline", "offline")]
)
def test_online_needs_a_key(run, fake, monkeypatch, key, mode, expected):
    calls = fake()
    for name, value in (("WANDB_API_KEY", key), ("WANDB_MODE", mode)):
        if value:
            monkeypatch.setenv(name, value)
    _follow(run)
    assert _of(calls(), "mode") == [expected]


@pytest.mark.parametrize(("fail", "modes"), [("login", ["offline"]), ("online", ["online", "offline"])])
def test_an_unreachable_server_means_offline_and_the_key_stays_secret(run, fake, monkeypatch, capfd, fail, modes):
    calls = fake(fail)
    monkeypatch.setenv("WANDB_API_KEY", "secret" * 7)
    _follow(run)
    assert _of(calls(), "mode") == modes
    assert len(_of(calls(), "log")) == 3
    err = capfd.readouterr().err
    assert "going on offline" in err and "secret" not in err


@pytest.mark.parametrize(
    ("fail", "message", "logged"),
    [
        ("import", "ModuleNotFoundError: No module named 'wandb'", 0),
        ("init", "RuntimeError: no", 0),
        ("log", "RuntimeError: broken pipe", 2),
    ],
)
def test_a_failure_is_told_in_one_line_and_ends_the_mirror(run, fake, monkeypatch, capfd, fail, message, logged):
    calls = fake(fail)
    monkeypatch.setenv("WANDB_MODE", "offline")
    _follow(run)
    lines = [line for line in capfd.readouterr().err.splitlines() if "wandb: offline:" not in line]
    assert lines == [f"wandb: {message}; the records on disk are complete without it"]
    assert len(_of(calls(), "log")) == logged


@pytest.mark.parametrize("fail", ["finish_hangs", "log_hangs"])
def test_a_hanging_mirror_is_given_up(run, fake, monkeypatch, capfd, fail):
    fake(fail)
    monkeypatch.setattr(tracking, "LIMIT", 1)
    tracker = tracking.start(run, run_path(run), run_id(run))
    # More than a pipe holds: the run must not wait for a child that does not read.
    for metrics in EPOCHS:
        tracker.log({**metrics, "padding": "x" * 100_000})
    tracker.finish(RECORD)
    assert tracker.child.poll() not in (None, 0)
    assert "wandb: no answer for 1 s" in capfd.readouterr().err


def test_a_process_that_cannot_start_is_told(run, monkeypatch, capsys):
    def fail(*_, **__):
        raise OSError("no more processes")

    monkeypatch.setattr(tracking.subprocess, "Popen", fail)
    _follow(run)
    assert "wandb: OSError: no more processes" in capsys.readouterr().err


def test_a_run_that_stops_ends_its_mirror_as_not_finished(run, fake, monkeypatch):
    calls = fake()
    tracker = tracking.start(run, run_path(run), run_id(run))
    tracker.log(EPOCHS[0])
    tracker.lines.put(None)
    tracker.child.wait(60)
    assert (_of(calls(), "finish"), _of(calls(), "summary")) == ([1], [])


@pytest.mark.parametrize("text", ['{"log": {}}\n{"finish": {}}\n', '{"log": {}}\n'])
def test_the_child_has_a_deadline_from_the_end_of_the_run_on(monkeypatch, text):
    alarms = []
    monkeypatch.setattr(sys, "stdin", text_io.StringIO(text))
    monkeypatch.setattr(tracking.signal, "alarm", alarms.append)
    messages = tracking._received()
    next(messages)
    assert not alarms
    list(messages)
    assert alarms and set(alarms) == {tracking.LIMIT + 5}


def test_flat_joins_names_and_counts_steps_from_one():
    value = {"a": {"b": [1, 2], "c": None}, "d": "x", "e": [{"f": 3}]}
    assert tracking.flat(value) == {"a/b/1": 1, "a/b/2": 2, "d": "x", "e/1/f": 3}


COLUMNS, ROWS = ["family", "paper", "ours"], [["trsg", 76.5, 75.0], ["rs_sg", "div", None]]


def _log_table(run, rows=ROWS) -> bool:
    return tracking.log_table("t", COLUMNS, rows, logger=run.logger, output_dir=Path(run.runtime.output_dir))


def test_a_table_is_logged_again_only_when_it_changed(run, fake):
    calls = fake()
    assert _log_table(run) and _log_table(run)
    assert _of(calls(), "log") == [{"t": {"columns": COLUMNS, "data": ROWS, "allow_mixed_types": True}}]
    assert _log_table(run, [["trsg", 76.5, 75.1]])
    assert len(_of(calls(), "log")) == 2


def test_a_table_that_was_not_logged_is_tried_again(run, fake, monkeypatch):
    calls = fake("init")
    assert not _log_table(run)
    monkeypatch.setenv("FAKE_FAIL", "")
    assert _log_table(run)
    assert len(_of(calls(), "log")) == 1


@pytest.fixture
def finished(run) -> Path:
    """The folder of a finished run."""
    path = run_path(run)
    (path / "metrics.jsonl").write_text("".join(json.dumps(a_line(epoch)) + "\n" for epoch in (1, 2, 3)))
    (path / "record.json").write_text(json.dumps(record_of(run, 97.5)))
    return path


def test_push_takes_figures_and_claims(tmp_path, fake):
    calls = fake()
    png, claims = tmp_path / "figures" / "fig06_mini.png", tmp_path / "tables" / "claims_mini.json"
    png.parent.mkdir(), claims.parent.mkdir()
    png.write_bytes(b"a picture")
    claims.write_text(json.dumps({"scale": "mini", "claims": [claim()]}))
    assert replay.push([png, claims]) == 0
    figure, table = _of(calls(), "log")
    assert figure == {"fig06_mini": {"image": "fig06_mini.png"}}
    assert table["claims_mini"]["data"] == [["c1", "Table 1", "a < b & c", "margin", "supported", 0.01, "contradicted"]]
    assert [init["group"] for init in _of(calls(), "init")] == ["figures", "tables"]


@pytest.mark.advice("name at least one run folder or table, such as outputs/runs/RUN_ID")
def test_push_replays_a_run_as_one_clean_run(finished, fake, run):
    calls = fake()
    assert replay.push([finished]) == 0
    (init,) = _of(calls(), "init")
    assert init["id"].startswith(run_id(run) + "-") and init["resume"] == "never"
    assert (init["name"], init["group"], init["project"]) == (run_id(run), "digits-resnet19_mini", "snnrepro")
    assert init["dir"] == run.runtime.output_dir
    assert [log["epoch"] for log in _of(calls(), "log")] == [1, 2, 3]
    assert _of(calls(), "summary")[0]["final/top1"] == 97.5
    replay.push([finished])
    assert len({init["id"] for init in _of(calls(), "init")}) == 1


def test_push_replays_a_table(fake, tmp_path):
    calls = fake()
    path = tmp_path / "table9_mini.json"
    path.write_text(json.dumps(table_of()))
    replay.push([path])
    (log,) = _of(calls(), "log")
    assert log["table9_mini"]["data"][0][:4] == ["table9", "mini: digits, not paper numbers", "trsg", "1.0"]


def test_push_names_what_it_cannot_replay(finished, fake, tmp_path):
    calls = fake()
    with pytest.raises(ConfigError, match="name at least one run folder"):
        replay.push([])
    with pytest.raises(StorageError, match="nowhere: cannot read"):
        replay.push([finished, tmp_path / "nowhere"])
    (finished / "metrics.jsonl").write_text('{"epoch": 1}\n{"epo')
    with pytest.raises(StorageError, match=r"metrics.jsonl: line 1: loss: is missing"):
        replay.push([finished])
    (finished / "record.json").write_text("{}")
    with pytest.raises(StorageError, match=r"record.json: id: is missing"):
        replay.push([finished])
    (finished / "record.json").unlink()
    with pytest.raises(StorageError, match=r"record.json: missing; only a finished run"):
        replay.push([finished])
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(StorageError, match=r"x.json: table: is missing"):
        replay.push([tmp_path / "x.json"])
    assert not calls()


def test_push_tells_a_failure_of_wandb_in_one_line(finished, fake, monkeypatch):
    fake("log")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(StorageError, match=r"W&B: RuntimeError: broken pipe$"):
        replay.push([finished])


def test_wandb_itself_takes_runs_and_tables_offline(run, finished, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    _follow(run)
    assert _log_table(run)
    folder = Path(run.runtime.output_dir) / "wandb"
    assert len(list(folder.glob(f"offline-run-*/run-{run_id(run)}.wandb"))) == 1
    (table,) = folder.glob("offline-run-*/files/media/table/*.json")
    assert json.loads(table.read_text()) == {"columns": COLUMNS, "data": ROWS}


def test_a_resumed_run_tells_wandb_its_first_epochs_again(run, fake, capfd):
    calls = fake()
    tracker = tracking.start(run, run_path(run), run_id(run), EPOCHS[:2])
    tracker.log(EPOCHS[2])
    tracker.finish({**RECORD, "config": asdict(run)})
    # Every epoch once, under its own step: what W&B has already, it passes over.
    assert [(log["epoch"], step) for log, step in zip(_of(calls(), "log"), _of(calls(), "step"), strict=True)] == [
        (1, 1), (2, 2), (3, 3)
    ]  # fmt: skip
