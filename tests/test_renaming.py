"""Runs of an older version get their names of today: all of them, whatever interrupts, and nothing else changes."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from copy import deepcopy
from dataclasses import replace

import pytest
import yaml
from conftest import command, env
from faults.test_resume import StopAfter
from golden.test_ids import FIRST
from stored_files import a_line, record_of, table_of

from snnrepro import renaming
from snnrepro.cli import main
from snnrepro.compose import compose_run
from snnrepro.config_values import from_plain, to_plain
from snnrepro.errors import Stopped, StorageError
from snnrepro.identity import NUMERICS, first_id, id_of, names_of, run_id
from snnrepro.jobs import Job
from snnrepro.report.select import outcome
from snnrepro.runs import RunLock, read_config, read_lines, read_record, run_path, under_former_name
from snnrepro.train import loop
from snnrepro.train.loop import Trainer
from snnrepro.train.one import train_one

RUNS = 20


def older(number: int) -> dict:
    config = deepcopy(FIRST["config"])
    return {**config, "seed": number, "epochs": 2}


@pytest.fixture
def output(tmp_path):
    """The folders of 20 runs as the version before wrote them, and a table of five of them."""
    for number in range(RUNS):
        config = older(number)
        folder = tmp_path / "runs" / first_id(config)
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("# format 1\n" + yaml.safe_dump(config))
        record = record_of(from_plain(config)) | {"id": first_id(config), "config": config}
        (folder / "record.json").write_text(json.dumps(record))
        (folder / "metrics.jsonl").write_text("".join(json.dumps(a_line(epoch)) + "\n" for epoch in (1, 2)))
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "table2_mini.json").write_text(json.dumps({"rows": [], "claims": []}))
    return tmp_path


def content(output) -> dict[int, list[bytes]]:
    """Returns what the files of every run hold, by seed."""
    found = {}
    for folder in (output / "runs").iterdir():
        names = ("config.yaml", "record.json", "metrics.jsonl")
        found[json.loads((folder / "record.json").read_text())["config"]["seed"]] = [
            (folder / name).read_bytes() for name in names
        ]
    return found


def test_every_run_is_found_afterwards_and_its_files_are_what_they_were(output, capsys):
    before = content(output)
    (output / "tables" / "table2_mini.json").unlink()
    assert main(["rename-runs", f"runtime.output_dir={output}"]) == 0
    out = capsys.readouterr().out
    assert f"{RUNS} folders renamed, 0 had their names already, 0 left" in out and out.count(" -> ") == RUNS
    assert content(output) == before and len(before) == RUNS
    for number in range(RUNS):
        folder = output / "runs" / id_of(older(number))
        record = read_record(folder)
        assert record is not None and record["id"] == first_id(older(number))
        assert run_id(read_config(folder)) == folder.name
        assert [line["epoch"] for line in read_lines(folder, record)] == [1, 2]
    run = from_plain(older(3))
    run.runtime.output_dir = str(output)
    assert outcome(Job([], run), "final.top1").status == "done"
    assert main(["rename-runs", f"runtime.output_dir={output}"]) == 0
    assert f"0 folders renamed, {RUNS} had" in capsys.readouterr().out


@pytest.mark.parametrize("numerics", range(1, NUMERICS))
def test_results_of_other_numerics_do_not_become_those_of_today(numerics, output, capsys):
    """Nor where their folder is given the name of today by hand."""
    (output / "tables" / "table2_mini.json").unlink()
    config = older(3)
    folder = (output / "runs" / first_id(config)).rename(output / "runs" / first_id(config, numerics))
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps({**record, "id": folder.name}))
    assert main(["rename-runs", f"runtime.output_dir={output}"]) == 0
    folder = output / "runs" / id_of(config, numerics)
    assert read_record(folder) is not None
    with pytest.raises(StorageError, match="it belongs to"):
        read_record(folder.rename(folder.with_name(id_of(config))))


@pytest.mark.advice("use snnrepro rename-runs {}, then the same command finds it")
def test_a_run_of_an_older_version_is_not_trained_again_unseen(output, capsys, monkeypatch):
    (output / "tables" / "table2_mini.json").unlink()
    run = from_plain(older(3))
    run.runtime.output_dir = str(output)
    with pytest.raises(StorageError, match="an older version made this run") as caught:
        train_one(run, [])
    assert first_id(older(3)) in str(caught.value)
    other = replace(run, seed=RUNS)
    assert under_former_name(other) is None
    (command,) = re.findall("snnrepro (rename-runs [^,]*),", str(caught.value))
    assert main(shlex.split(command)) == 0
    capsys.readouterr()
    assert train_one(run, []) == 0 and "finished before" in capsys.readouterr().out


def test_an_unfinished_run_goes_on_from_checkpoints_of_its_former_name(tiny, monkeypatch, capsys):
    """Also where it is killed twice before it saves anything, and its best weights are found."""
    words = [*tiny, "epochs=3"]
    run = compose_run(words)
    folder = run_path(run)
    # As the version before stored it: keys that an option does not use are null.
    config = to_plain(run)
    config["dataset"]["root"] = config["norm"]["share_affine"] = None
    del config["neuron"]["kind"]
    former = first_id(config)
    assert id_of(config) == folder.name != former
    with monkeypatch.context() as patch:
        patch.setattr(loop, "run_id", lambda _: former)
        patch.setattr(loop, "StopRequest", StopAfter)
        StopAfter.after, StopAfter.trainer = 7, Trainer(run, folder)
        with pytest.raises(Stopped):
            StopAfter.trainer.fit()
    (folder / "config.yaml").write_text("# format 1\n" + yaml.safe_dump(config))
    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            patch.setattr(Trainer, "train_epoch", lambda *_: 1 / 0)
            Trainer(run, folder).fit()
    assert main(["train", *words]) == 0 and "resuming at epoch 2" in capsys.readouterr().out
    for weights in ("final", "best"):
        place = f"runtime.output_dir={run.runtime.output_dir}"
        assert main(["evaluate", f"run={folder.name}", f"weights={weights}", place]) == 0


@pytest.mark.parametrize("after", [0, 1, 7, RUNS - 1])
def test_an_interruption_loses_nothing(after, output, monkeypatch, capsys):
    before, rename, done = content(output), os.rename, []

    def interrupted(source, target):
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(source)
        rename(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(renaming.os, "rename", interrupted)
        main(["rename-runs", f"runtime.output_dir={output}"])
    assert content(output) == before
    (output / "tables" / "table2_mini.json").unlink()
    assert main(["rename-runs", f"runtime.output_dir={output}"]) == 0
    assert f"{RUNS - after} folders renamed, {after} had" in capsys.readouterr().out
    assert {folder.name for folder in (output / "runs").iterdir()} == {id_of(older(n)) for n in range(RUNS)}


@pytest.mark.slow
def test_a_kill_in_the_middle(output):
    before = content(output)
    (output / "tables" / "table2_mini.json").unlink()
    slow = "import time; from snnrepro import renaming; rename = renaming.os.rename\n"
    slow += "renaming.os.rename = lambda a, b: (time.sleep(0.2), rename(a, b))\n"
    slow += f"renaming.main(['runtime.output_dir={output}'])"
    process = subprocess.Popen([sys.executable, "-c", slow], env=env(), stdout=subprocess.DEVNULL)
    today = {id_of(older(n)) for n in range(RUNS)}
    while len(today & {folder.name for folder in (output / "runs").iterdir()}) < 5:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    names = {folder.name for folder in (output / "runs").iterdir()}
    assert 5 <= len(names & today) < RUNS == len(names) and content(output) == before
    line = command("rename-runs", f"runtime.output_dir={output}")
    assert subprocess.run(line, env=env(), stdout=subprocess.DEVNULL).returncode == 0
    assert {folder.name for folder in (output / "runs").iterdir()} == today and content(output) == before


@pytest.mark.advice("is there already; remove one of them")
def test_what_cannot_be_renamed_is_left_and_named(output, capsys):
    (output / "tables" / "table2_mini.json").unlink()
    folders = sorted((output / "runs").iterdir())
    taken, damaged, foreign, running = folders[:4]
    number = json.loads((taken / "record.json").read_text())["config"]["seed"]
    (output / "runs" / id_of(older(number))).mkdir()
    (damaged / "config.yaml").write_text("[")
    foreign.rename(foreign.with_name("mine"))
    with RunLock(running):
        assert main(["rename-runs", f"runtime.output_dir={output}"]) == 1
    out = capsys.readouterr().out
    assert out.count("left: ") == 5 and f"{RUNS - 4} folders renamed" in out
    for says in ("is there already; remove one of them", "not YAML", "not the configuration of this run", "in use by"):
        assert says in out
    (output / "runs" / id_of(older(number))).rmdir()
    assert main(["rename-runs", f"runtime.output_dir={output}"]) == 1
    assert f"2 folders renamed, {RUNS - 4} had" in capsys.readouterr().out


def test_ids_in_a_table_become_those_of_today(output, capsys):
    words = ["dataset=digits", "epochs=10"]
    today = run_id(compose_run([*words, "seed=1"]))
    before = f"{today.rpartition('-')[0]}-0123456789"
    assert before not in names_of(FIRST["config"])
    table = table_of(numerics=NUMERICS, seeds=[1])
    cell = table["rows"][0]["cells"][0]
    cell["words"], cell["runs"] = words, [{**cell["runs"][0], "seed": 1, "run": before}]
    stem = output / "tables" / "table2_mini"
    table_text = json.dumps(table)
    stem.with_suffix(".json").write_text(table_text)
    stem.with_suffix(".csv").write_text(f"a,{before} other-{before}x\n")
    assert main(["rename-runs", f"runtime.output_dir={output}"]) == 0
    assert stem.with_suffix(".json").read_text() == table_text.replace(before, today)
    assert today in stem.with_suffix(".csv").read_text()


@pytest.mark.advice("{}: write runtime.output_dir=FOLDER")
@pytest.mark.advice("name the folder with runtime.output_dir=FOLDER")
@pytest.mark.parametrize("words", [["runtime.output_dir=/nowhere"], ["seed=1"], ["x"]])
def test_wrong_words_are_one_line(words, output, capsys):
    (output / "tables" / "table2_mini.json").unlink()
    assert main(["rename-runs", *words]) in (2, 5)
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "runtime.output_dir=FOLDER" in err
    assert main(["rename-runs", f"runtime.output_dir={output}"]) == 0
