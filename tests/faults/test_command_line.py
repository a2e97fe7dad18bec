"""Hydra's own command line: every option and key is followed or refused by name; own options come from a folder."""

import argparse
import sys

import pytest
from hydra._internal.utils import get_args_parser

from snnrepro import launchers
from snnrepro.cli import main
from snnrepro.command_line import INFO, REFUSED, parser, read, version
from snnrepro.compose import compose_run, groups
from snnrepro.errors import ConfigError
from snnrepro.overrides import parse
from snnrepro.sweep import expand

HELP = "python train.py --help lists the options"
REFUSED_WORDS = {
    "--hydra-help": "--hydra-help: not used here; --help",
    "--config-path conf": "--config-path: not used here; --config-dir",
    "-cp conf": "--config-path: not used here",
    "--config-name nosuch": "--config-name: not used here",
    "-cn nosuch": "--config-name: not used here",
    "--experimental-rerun x.pickle": "--experimental-rerun: not used here; the same command",
    "--config-dir /nowhere": "--config-dir /nowhere: no such folder",
    "--config-dir": f"expected one argument; {HELP}",
    "--run --multirun seed=0,1": "exclude each other",
    "--resolve": "--resolve: only with --cfg",
    "--package neuron": "--package: only with --cfg",
    "--cfg job --package nosuch": "--package nosuch: no such part",
    "--cfg nosuch": f"invalid choice: 'nosuch' (choose from 'job', 'hydra', 'all'); {HELP}",
    "--cfg job -m seed=0,1": "--cfg: shows one configuration; leave out -m",
    "--info nosuch": "invalid choice: 'nosuch'",
    "--shell-completion": "write install=bash",
    "--shell-completion install=tcsh": "write install=bash",
    "--conf x": f"unrecognized arguments: --conf; {HELP}",
    "-x": f"unrecognized arguments: -x; {HELP}",
    "hydra.run.dir=/tmp/x": "hydra.run.dir=/tmp/x: not used here; runtime.output_dir",
    "hydra.sweep.dir=/tmp/x": "hydra.sweep.dir=/tmp/x: not used here; runtime.output_dir",
    "hydra.output_subdir=x": "hydra.output_subdir=x: not used here",
    "hydra.mode=MULTIRUN": "hydra.mode=MULTIRUN: not used here; train.py -m",
    "hydra.job.chdir=true": "hydra.job.chdir=true: not used here",
    "hydra.verbose=true": "hydra.verbose=true: not used here",
    "hydra/sweeper=basic": "hydra/sweeper=basic: not used here; train.py -m",
    "hydra/job_logging=default": "not used here",
    "hydra.xyz=1": "hydra.xyz=1: not used here",
    "++hydra.xyz=1": "++hydra.xyz=1: not used here",
    "~hydra.run": "cannot be removed",
    "hydra=1": "hydra=1: not used here",
    "-m hydra.sweeper.params.seed=0,1": "not used here; train.py -m",
    "hydra/launcher=joblib": "train.py -m hydra/launcher=NAME",
    "hydra.launcher.n_jobs=2": "train.py -m hydra/launcher=NAME",
    "-m hydra.launcher.n_jobs=2 seed=0,1": "add hydra/launcher=NAME",
    "-m hydra/launcher=nosuch seed=0,1": "hydra/launcher=nosuch: must be one of basic",
    "-m hydra/launcher=joblib,basic seed=0,1": "takes one value",
    "-m hydra/launcher=basic hydra.launcher.nosuch=2 seed=0,1": "nosuch",
    "hydra.searchpath=/x": "write --config-dir FOLDER",
    "hydra.searchpath=[/nowhere]": "/nowhere: no such folder",
    "hydra.searchpath=[pkg://x]": "no such folder",
    "--config-dir . hydra.searchpath=[.]": "hydra.searchpath is given too",
    "neuron@model=lif": "leave out @model",
}


@pytest.mark.parametrize("words", REFUSED_WORDS)
def test_what_is_not_followed_is_refused_by_name(words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *words.split()]) == ConfigError.exit_code
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and REFUSED_WORDS[words] in err
    assert not list(tmp_path.iterdir()), "nothing was started"


def spellings(made: argparse.ArgumentParser) -> set[str]:
    return {spelling for action in made._actions for spelling in action.option_strings}


def test_every_option_of_hydra_is_known_here():
    """An option that a new Hydra adds fails this test: it must be followed or refused by name."""
    theirs = {action.option_strings[0]: action for action in get_args_parser()._actions if action.option_strings}
    assert spellings(get_args_parser()) == spellings(parser())
    tested = " ".join(REFUSED_WORDS)
    for option in set(theirs) - {"--help", "--version", "--multirun"}:
        assert option in tested, option
    assert set(theirs["--info"].choices) == set(INFO)
    assert all(f"{option}:" in " ".join(REFUSED_WORDS.values()) for option in REFUSED)


def test_an_option_that_hydra_adds_is_not_passed_over():
    with pytest.raises(ConfigError, match="unrecognized arguments: --new-option"):
        read(["--new-option"])


@pytest.mark.parametrize("words", [["--version"], ["train", "--version"]])
def test_the_version_is_ours(words, capsys):
    assert main(words) == 0
    assert capsys.readouterr().out == version() + "\n" == "snnrepro 0.1.0\n"


def test_options_may_stand_anywhere():
    assert read(["seed=1", "-m", "epochs=2"]).overrides == ["seed=1", "epochs=2"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--cfg job -p neuron.v_threshold neuron.v_threshold=0.3", "0.3\n"),
        ("--cfg hydra -p hydra.job.chdir", "False\n"),
        ("--cfg all --resolve -p surrogate", "# @package surrogate\nname: rectangular\ngamma: 1.0\n"),
        ("--run --cfg job -p seed", "0\n"),
        ("--shell-completion install=bash", "hydra_bash_completion"),
        ("--help -m seed=0,1 neuron=lif", "--config-dir, -cd"),
    ],
)
def test_what_is_followed(words, says, capsys):
    assert main(["train", *words.split()]) == 0
    out, err = capsys.readouterr()
    assert says in out + err


def test_how_hydra_composes(cli):
    result = cli("train", "--info", "defaults-tree")
    assert result.returncode == 0 and "surrogate: rectangular" in result.stdout


def test_argparse_that_expands_help_texts_at_once(monkeypatch, capsys):
    """As Python 3.14's does, which Hydra's own parser does not survive."""
    original = argparse._ActionsContainer.add_argument

    def add_argument(self, *names, **options):
        action = original(self, *names, **options)
        if action.help is not None and hasattr(self, "_get_formatter"):
            try:
                "%" in action.help and self._get_formatter()._expand_help(action)
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError("badly formed help string") from error
        return action

    monkeypatch.setattr(argparse._ActionsContainer, "add_argument", add_argument)
    with pytest.raises(ValueError, match="badly formed"):
        get_args_parser()
    assert main(["train", "--help"]) == 0 and "usage: python train.py" in capsys.readouterr().out
    for command in ("table", "plan", "claims", "figure", "report"):
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0


@pytest.fixture
def own(tmp_path):
    """A folder with the user's own neuron, and an experiment that uses it and brings a sweep."""
    folder = tmp_path / "my (own) configs"
    (folder / "neuron").mkdir(parents=True)
    (folder / "experiment").mkdir()
    (folder / "neuron" / "mine.yaml").write_text("defaults: [lif, _self_]\nv_threshold: 0.7\n")
    sweep = "# @package _global_\ndefaults: [override /neuron: mine]\nhydra: {sweeper: {params: {seed: '1,2'}}}\n"
    (folder / "experiment" / "exp.yaml").write_text(sweep)
    return folder


def test_own_options_in_runs_sweeps_and_help(own, capsys, monkeypatch):
    for words in (["--config-dir", str(own)], ["-cd", own.name], [f"hydra.searchpath=['{own}']"]):
        monkeypatch.chdir(own.parent)
        overrides = read(words).overrides
        assert compose_run([*overrides, "neuron=mine"]).neuron.v_threshold == 0.7
        assert "mine" not in groups()["neuron"], "only where the folder is named"
        jobs = expand(parse([*overrides, "experiment=exp"]))
        assert [(job.run.seed, job.run.neuron.v_threshold) for job in jobs] == [(1, 0.7), (2, 0.7)]
        # The processes of a sweep get the words of their job, wherever they start.
        monkeypatch.chdir("/")
        assert compose_run(jobs[0].words) == jobs[0].run
        monkeypatch.chdir(own.parent)
        assert len(expand(parse([*overrides, "neuron=glob(m*)"]))) == len(expand(parse(["neuron=glob(m*)"]))) + 1
        assert main(["train", *words, "--help", "neuron=mine"]) == 0
        out = capsys.readouterr().out
        assert ", mine" in out and "v_threshold: 0.7" in out
    assert main(["train", "--config-dir", str(own), "neuron=mien"]) == 2
    assert "did you mean 'mine'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"family: [unclosed", "line 1"),
        (b"nosuch: 3", "nosuch"),
        (b"defaults: [nosuch]", "nosuch"),
        (b"family: \xe9", "not UTF-8"),
        (b"defaults: [lif, _self_]\nv_threshold: -1", "v_threshold"),
    ],
)
def test_a_wrong_file_of_the_user_is_named(own, content, says, capsys):
    (own / "neuron" / "wrong.yaml").write_bytes(content)
    assert main(["train", "--config-dir", str(own), "neuron=wrong"]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1


def test_an_own_option_never_hides_ours(own, capsys):
    (own / "neuron" / "lif.yaml").write_text("v_threshold: 3\n")
    assert main(["train", "--config-dir", str(own), "neuron=lif"]) == 2
    assert "neuron=lif exists already" in capsys.readouterr().err


def test_a_launcher_gets_every_job_and_says_so_in_words_that_a_run_understands(own, tiny, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr("snnrepro.train.one.train_one", lambda run, words: seen.append((run, compose_run(words))))
    words = ["-m", "--config-dir", str(own), "hydra/launcher=basic", *tiny, "experiment=exp,figures/fig8"]
    assert main(["train", *words]) == 1
    assert len(seen) == 12 and all(run == again for run, again in seen)
    assert {run.neuron.v_threshold for run, _ in seen} == {0.7, 1.0}
    assert "12 of 12 runs have no result" in capsys.readouterr().err


def test_a_missing_launcher_names_its_package(tiny, monkeypatch, capsys):
    monkeypatch.setattr(launchers, "find_spec", lambda name: None)
    for launcher, extra in (("joblib", "joblib"), ("submitit_slurm", "slurm")):
        assert main(["train", "-m", f"hydra/launcher={launcher}", *tiny, "seed=0,1"]) == 2
        err = capsys.readouterr().err
        assert f"hydra/launcher={launcher}: needs a package: pip install 'snnrepro[{extra}]'" in err
    assert main(["train", "-m", "hydra/launcher=basic", *tiny, "neuron=nosuch,lif"]) == 2


@pytest.mark.parametrize("words", [["train", "seed=\udcff"], ["evaluate", "checkpoint=/\udcff"], ["\udcff"]])
def test_words_that_are_not_utf_8(words, capsys):
    assert main(words) == 2
    err = capsys.readouterr().err
    assert "not UTF-8" in err and "\\udcff" in err and err.count("\n") == 1


def test_a_full_disk_behind_the_output(monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("snnrepro.cli._command", full)
    monkeypatch.setattr("snnrepro.ending.os.dup2", lambda *_: None)
    assert main(["train"]) == 5
    assert "the output cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "code"), [(["train", "--help"], 0), (["train", "seed=1"], 75)])
def test_a_reader_that_ends_early(words, code, monkeypatch, capsys):
    def broken(*_):
        raise BrokenPipeError

    monkeypatch.setattr("snnrepro.cli._command", broken)
    monkeypatch.setattr("snnrepro.cli.os.dup2", lambda *_: None)
    assert main(words) == code
    err = capsys.readouterr().err
    assert ("the same command resumes" in err) == bool(code) and err.count("\n") == bool(code)


def test_closed_outputs(monkeypatch, capfd):
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["--version"]) == 0
    assert capfd.readouterr().err == ""
