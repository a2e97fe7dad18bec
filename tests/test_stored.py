"""The reader of stored files: whatever lies in a file's place is one line that names it, and nothing is waited for."""

import json
import os
import socket
import subprocess
import sys

import pytest
import yaml
from stored_files import a_line, claim, record_of, table_of

from snnrepro import io, stored
from snnrepro.analysis.results import CLAIMS
from snnrepro.compose import compose_run
from snnrepro.errors import StorageError
from snnrepro.identity import NUMERICS, id_of, run_id
from snnrepro.records import RECORD, line_of, summary
from snnrepro.report.document import TABLE
from snnrepro.runs import read_config, read_lines, read_record, run_path, write_config
from snnrepro.tasks.classification_options import ClassificationOption

REPAIR = "remove the run's folder and train it again"


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text and error.value.exit_code == 5
    return text


def pipe(file):
    os.mkfifo(file)


IN_PLACE = {
    "missing": (lambda file: None, "cannot read: No such file"),
    "folder": (lambda file: file.mkdir(), "cannot read: Is a directory"),
    "pipe": (pipe, "a named pipe, not a file"),
    "device": (lambda file: file.symlink_to("/dev/zero"), "a device, not a file"),
    "endless link": (lambda file: file.symlink_to(file), "cannot read: Too many levels"),
    "empty": (lambda file: file.write_bytes(b""), "empty"),
    "huge": (
        lambda file: os.truncate(os.open(file, os.O_CREAT | os.O_WRONLY), 1 << 40),
        "1099511627776 bytes, larger than",
    ),
    "another encoding": (lambda file: file.write_text("{}", "utf-16"), "not text in UTF-8"),
    "torn": (lambda file: file.write_text('{"id": '), "not JSON, line 1, column 8"),
    "deep": (lambda file: file.write_text('{"a":' * 100_000), "nested too deeply"),
    "a long number": (lambda file: file.write_text("1" * 5000), "a number has too many digits"),
    "a key twice": (lambda file: file.write_text('{"a": 1, "a": 2}'), "a: stands there twice"),
    "no object": (lambda file: file.write_text("[1]"), "keys and values are needed, found a list"),
}


@pytest.mark.parametrize("case", IN_PLACE)
def test_what_is_no_json_file_is_named(case, tmp_path):
    put, message = IN_PLACE[case]
    put(tmp_path / "record.json")
    with pytest.raises(StorageError) as error:
        RECORD.read(tmp_path / "record.json")
    assert f"record.json: {message}" in one_line(error) and REPAIR in one_line(error)


FAULTS = {
    "missing": (lambda r: r["final"].pop("top1"), "final.top1: is missing"),
    "surplus": (lambda r: r["final"].update(top2=1.0), "final.top2: no such key"),
    "null": (lambda r: r.update(final=None), "final: is missing, and status says done"),
    "text": (lambda r: r["final"].update(top1="97"), "final.top1: must be a valid number, found '97'"),
    "true": (lambda r: r["timing"].update(train_seconds=True), "timing.train_seconds: must be a valid number"),
    "section": (lambda r: r.update(timing=[]), "timing: must be a section of keys, found a list"),
    "nan": (lambda r: r["final"].update(loss=float("nan")), "final.loss: must be a finite number, found nan"),
    "infinity": (lambda r: r["final"].update(loss=float("inf")), "final.loss: must be a finite number, found inf"),
    "huge": (lambda r: r["final"].update(loss=10**400), "final.loss: must be a"),
    "negative": (lambda r: r["final"].update(top1=-1.0), "final.top1: must be greater than or equal to 0, found -1.0"),
    "status": (lambda r: r.update(status="ok"), "status: must be 'done' or 'diverged', found 'ok'"),
    "steps": (lambda r: r["final"]["top1_per_timestep"].pop(), "final.top1_per_timestep: 4 values are needed"),
    "layers": (lambda r: r["learned"].clear(), "learned: other layers"),
    "epochs": (lambda r: r["final"].update(epoch=1), "final.epoch: 1, the run has 30"),
    "newer": (lambda r: r.update(format=99), "format 99 is not 1, the newest that this version reads; update snnrepro"),
    "format": (lambda r: r.update(format="1"), "format: must be a whole number, found '1'"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_content_that_does_not_fit_is_named_by_its_key(case):
    change, message = FAULTS[case]
    record = record_of(compose_run([]))
    change(record)
    with pytest.raises(StorageError) as error:
        RECORD.parse(json.dumps(record), "record.json")
    assert one_line(error).startswith(f"record.json: {message}") and "pydantic" not in one_line(error)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (RECORD, record_of(compose_run([]))),
        (line_of(ClassificationOption), a_line(1)),
        (TABLE, table_of()),
        (CLAIMS, {"claims": [claim()]}),
    ],
)
def test_what_is_written_comes_back_with_and_without_its_number(kind, content, tmp_path):
    content = {"scale": "mini", **content} if kind is CLAIMS else content
    number = content.pop("format", 1)
    kind.write(tmp_path / "a.json", content)
    assert json.loads((tmp_path / "a.json").read_text())["format"] == number == kind.format
    assert kind.read(tmp_path / "a.json") == kind.parse(json.dumps(content), "a") == content


def test_a_record_of_an_older_version_is_read_without_what_it_did_not_hold(tmp_path):
    record = record_of(compose_run([]))
    del record["format"], record["best"], record["timing"]
    del record["final"]["firing_rate_mean"], record["provenance"]["processes"]
    text = summary(RECORD.parse(json.dumps(record), "a"), tmp_path)
    assert "top-1 97.00 %" in text and "best" not in text and "trained" not in text
    with pytest.raises(StorageError, match="is missing"):
        RECORD.parse(json.dumps({"format": 1, **record}), "a")


@pytest.fixture
def folder(tmp_path):
    """The folder of a finished run."""
    run = compose_run([f"runtime.output_dir={tmp_path}", "epochs=2"])
    write_config(run_path(run), run)
    (run_path(run) / "record.json").write_text(json.dumps(record_of(run)))
    (run_path(run) / "metrics.jsonl").write_text("".join(json.dumps(a_line(epoch)) + "\n" for epoch in (1, 2)))
    return run_path(run)


def test_a_run_counts_under_its_own_name_only(folder, tmp_path):
    other = run_id(compose_run(["seed=5", "epochs=2"]))
    renamed = folder.rename(folder.with_name(other))
    for read in (read_record, read_config):
        with pytest.raises(StorageError, match=r"give the folder the name of its (id|run) back"):
            read(renamed)
    # The advice works.
    renamed.rename(folder)
    assert read_record(folder)["id"] == folder.name and read_config(folder).epochs == 2
    link = tmp_path / "runs" / "link"
    link.symlink_to(folder)
    with pytest.raises(StorageError, match=f"it belongs to {folder.name}, not to link"):
        read_record(link)


@pytest.mark.parametrize("key", ["epochs", "seed"])
def test_a_record_whose_configuration_is_another_is_refused(folder, key):
    record = json.loads((folder / "record.json").read_text())
    record["config"]["neuron"]["tau"] = 3.0
    (folder / "record.json").write_text(json.dumps(record))
    with pytest.raises(StorageError, match=f"config: not that of the run {folder.name}"):
        read_record(folder)


def test_a_record_of_older_numerics_keeps_its_name(folder):
    record = json.loads((folder / "record.json").read_text())
    older = folder.with_name(id_of(record["config"], NUMERICS - 1))
    folder.rename(older)
    (older / "record.json").write_text(json.dumps({**record, "id": older.name}))
    assert older != folder and read_record(older)["id"] == older.name


LINES = {
    "torn": lambda lines: [lines[0], lines[1][:50]],
    "one missing": lambda lines: lines[1:],
    "one twice": lambda lines: [lines[0], *lines],
    "swapped": lambda lines: lines[::-1],
    "surplus": lambda lines: [*lines, lines[1]],
    "null": lambda lines: [lines[0], "null"],
    "nan": lambda lines: [lines[0], lines[1].replace("0.1", "NaN", 1)],
}


@pytest.mark.parametrize("case", LINES)
def test_lines_of_a_finished_run_that_are_not_whole_are_named(case, folder):
    file = folder / "metrics.jsonl"
    record = read_record(folder)
    assert [line["epoch"] for line in read_lines(folder, record)] == [1, 2]
    file.write_text("\n".join(LINES[case](file.read_text().splitlines())) + "\n")
    with pytest.raises(StorageError, match=r"metrics.jsonl: line \d: .*; remove the run's folder") as error:
        read_lines(folder, record)
    one_line(error)


def bomb() -> str:
    return "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]" for i in range(30))


YAML = {
    "aliases": (lambda text: bomb(), "line 2: aliases are not read"),
    "reference": (lambda text: text.replace("flip: false", "flip: ${oc.env:HOME}"), "dataset.flip: '.*' refers to"),
    "object": (lambda text: text.replace("flip: false", "flip: !!python/name:os.system"), "not YAML, line 5"),
    "deep": (lambda text: "[" * 5000, "nested too deeply"),
    "nested": (lambda text: text.replace("flip: false", f"flip: {'[' * 9}{']' * 9}"), "nested too deeply"),
    "torn": (lambda text: text[: len(text) // 2], "is missing|missing mandatory|not YAML|Value|must be one of"),
    "list": (lambda text: "- 1", "keys and values are needed"),
    "a key twice": (lambda text: f"{text}seed: 0\n", "seed: stands there twice"),
    "another seed": (lambda text: text.replace("seed: 0\nepochs", "seed: 1\nepochs"), "not the configuration of"),
    "unknown key": (lambda text: f"{text}sed: 0\n", "sed"),
    "out of range": (lambda text: text.replace("epochs: 2", "epochs: -2"), "epochs=-2"),
    "newer": (lambda text: text.replace("# format 2", "# format 3"), "format 3 is not [12], .*; update snnrepro"),
}


@pytest.mark.parametrize("case", YAML)
def test_a_stored_configuration_that_does_not_fit_is_named(case, folder):
    change, message = YAML[case]
    file = folder / "config.yaml"
    file.write_text(change(file.read_text()))
    with pytest.raises(StorageError, match=f"config.yaml: .*({message})") as error:
        read_config(folder)
    one_line(error)


def test_control_a_plain_loader_would_look_up_the_reference(folder, monkeypatch):
    from omegaconf import OmegaConf

    monkeypatch.setenv("HOME", "/a/home")
    file = folder / "config.yaml"
    file.write_text(YAML["reference"][0](file.read_text()))
    assert OmegaConf.load(file).dataset.flip == "/a/home"
    assert yaml.safe_load(file.read_text())["seed"] == 0, "the first line is a comment to other readers"


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "x/" * 5000])
def test_names_that_no_file_can_have_are_one_line(name, tmp_path):
    path = tmp_path / name
    calls = (stored.exists, stored.listed, stored.is_folder, io.make_dir, RECORD.read, read_record)
    for call in (*calls, lambda path: io.write_atomic(path, "x")):
        with pytest.raises(StorageError) as error:
            call(path)
        one_line(error)


def test_what_killed_processes_left_is_removed_once_nobody_writes_it(tmp_path):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    host = socket.gethostname()
    over, old = f"a.json.tmp.{int(gone.stdout)}@{host}", ("a.json.tmp.2@elsewhere", "a.json.tmp.5")
    kept = [f"a.json.tmp.{os.getppid()}@{host}", "a.json.tmp.1@elsewhere", "a.json.tmp.7", "b.json.tmp.1@x", "a.tmp"]
    for name in (over, *old, *kept):
        (tmp_path / name).write_text("")
    for name in old:
        os.utime(tmp_path / name, (0, 0))
    io.write_atomic(tmp_path / "a.json", "{}")
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", *kept}
