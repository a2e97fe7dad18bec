"""Advice about words: what a message says is changed in the command line, and nothing else; the command then works."""

import os
import subprocess

import pytest
from conftest import command, env

from snnrepro import launchers
from snnrepro.cli import main
from snnrepro.compose import compose_run
from snnrepro.errors import ConfigError
from snnrepro.overrides import parse
from snnrepro.runs import run_path
from snnrepro.sweep import expand

advice = pytest.mark.advice

SHOWN = [
    pytest.param(
        "--cfg job -m seed=1", "leave out -m", "--cfg job seed=1",
        marks=advice("shows one configuration; leave out -m"),
    ),
    pytest.param(
        "--cfg job neuron@model=lif", "leave out @model", "--cfg job neuron=lif",
        marks=advice("every group has its own place; leave out @{}"),
    ),
    pytest.param(
        "--shell-completion", "install=bash", "--shell-completion install=bash",
        marks=advice("write install=bash, zsh or fish"),
    ),
    pytest.param(
        "--cfg job hydra.searchpath=mine", "write --config-dir FOLDER", "--cfg job --config-dir mine",
        marks=advice("write --config-dir FOLDER"),
    ),
    pytest.param(
        "--cfg job --config-dir mine hydra.searchpath=[other]", "write --config-dir once for each folder",
        "--cfg job --config-dir mine --config-dir other", marks=advice("write --config-dir once for each folder"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("words", "says", "right"), SHOWN)
def test_one_word_less_or_more(words, says, right, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in ("mine", "other"):
        (tmp_path / folder).mkdir()
    assert main(["train", *words.split()]) == 2
    assert says in capsys.readouterr().err
    assert main(["train", *right.split()]) == 0


@advice("exists already; give the file another name")
def test_an_own_file_under_another_name(tmp_path, capsys):
    (tmp_path / "neuron").mkdir()
    file = tmp_path / "neuron" / "lif.yaml"
    file.write_text("defaults: [trsg, _self_]\nv_threshold: 3\n")
    words = ["train", "--cfg", "job", "-p", "neuron.v_threshold", "--config-dir", str(tmp_path)]
    assert main([*words, "neuron=lif"]) == 2
    assert "give the file another name" in capsys.readouterr().err
    file.rename(file.with_name("mine.yaml"))
    for option, threshold in (("mine", "3"), ("lif", "1.0")):
        assert main([*words, f"neuron={option}"]) == 0
        assert float(capsys.readouterr().out) == float(threshold)


SWEEPS = [
    pytest.param(
        "neuron.tau=interval(1.5,3)", "write them: a,b or range", ["neuron.tau=1.5,3", "neuron.tau=range(1.5,3.5,0.5)"],
        marks=advice("an interval needs a program that picks values"),
    ),
    pytest.param(
        "seed=range(0,3),7", "write all values, or one range", ["seed=0,1,2,7", "seed=range(0,8)"],
        marks=advice("a sweep inside a list of values; write all values"),
    ),
    pytest.param(
        "seed=glob(*)", "write its values", ["seed=0,1"],
        marks=advice("glob picks options of a group, and this is a key"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("word", "says", "right"), SWEEPS)
def test_values_that_make_a_sweep(word, says, right):
    with pytest.raises(ConfigError, match=says):
        expand(parse([word]))
    for written in right:
        assert len(expand(parse([written]))) >= 2


@advice("set for which launcher? add hydra/launcher=NAME")
@advice("hydra/launcher={}: must be one of")
def test_a_launcher_that_is_named():
    words = ["hydra.launcher.n_jobs=2", "seed=0,1"]
    with pytest.raises(ConfigError, match="add hydra/launcher=NAME"):
        launchers.split(parse(words))
    with pytest.raises(ConfigError, match="must be one of ") as caught:
        launchers.split(parse([*words, "hydra/launcher=NAME"]))
    names = str(caught.value).partition("must be one of ")[2].split(", ")
    assert "joblib" in names
    for name in names:
        try:
            assert launchers.split(parse([*words, f"hydra/launcher={name}"]))[0] == name
        except ConfigError as error:
            assert "needs a package: pip install" in str(error)


@advice("runs in one process; start it without torchrun")
def test_a_command_without_torchrun(monkeypatch, capsys):
    with monkeypatch.context() as patch:
        for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
                            "MASTER_PORT": "29500"}.items():  # fmt: skip
            patch.setenv(name, value)
        assert main(["doctor"]) == 2
    assert "doctor: runs in one process; start it without torchrun" in capsys.readouterr().err
    assert main(["doctor"]) == 0


@advice("{}: write one value")
@advice("not UTF-8, in which runs keep their names")
def test_one_value_and_a_name_that_can_be_read(output, capsys):
    finished = next(path.name for path in (output / "runs").iterdir() if (path / "record.json").exists())
    assert main(["evaluate", f"run={finished}", f"runtime.output_dir={output},outputs"]) == 2
    assert f"runtime.output_dir={output},outputs: write one value" in capsys.readouterr().err
    assert main(["evaluate", f"run={finished}", f"runtime.output_dir={output}"]) == 0
    latin = output.rename(os.fsdecode(os.fsencode(output) + b"\xff"))
    assert main(["evaluate", f"run={finished}", f"runtime.output_dir={latin}"]) == 2
    assert "not UTF-8" in capsys.readouterr().err
    assert main(["evaluate", f"run={finished}", f"runtime.output_dir={latin.rename(output)}"]) == 0


@pytest.mark.slow
@advice("nobody reads the output any more")
def test_a_run_whose_reader_ends_goes_on_with_the_same_command(tiny, capsys):
    words = [*tiny, "epochs=40"]
    process = subprocess.Popen(
        command("train", *words), env=env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while "epoch" not in process.stdout.readline():
        pass
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 75
    assert err.count("\n") == 1 and "nobody reads the output any more" in err and "the same command resumes" in err
    assert main(["train", *words]) == 0
    assert "resum" in capsys.readouterr().out
    assert (run_path(compose_run(words)) / "record.json").exists()
