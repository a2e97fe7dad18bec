"""The README says what is so: its numbers come from stored tables, its commands are commands."""

import re
import shlex

import pytest
from conftest import ROOT

from snnrepro.evaluate import KEYS
from snnrepro.launchers import split
from snnrepro.overrides import parse
from snnrepro.report import main as table
from snnrepro.sweep import expand

TEXT = (ROOT / "README.md").read_text()
COMMANDS = [line.split("#")[0].strip() for line in TEXT.splitlines() if line.startswith("    ")]


@pytest.mark.parametrize("name", re.findall(r"<!-- (\w+) mini -->", TEXT))
def test_quoted_tables_are_the_stored_ones(name, monkeypatch, tmp_path, capsys):
    words = [name, "--scale", "mini", "--check", f"runtime.output_dir={ROOT / 'outputs'}"]
    assert table([*words, "--readme", str(ROOT / "README.md")]) == 0
    changed = tmp_path / "README.md"
    changed.write_text(re.sub(r"\| (\d)\d\.\d\d ±", r"| \g<1>9.99 ±", TEXT))
    assert table([*words, "--readme", str(changed)]) == 1, "control: a changed number is found"
    assert "differs" in capsys.readouterr().out


@pytest.mark.parametrize("line", [c for c in COMMANDS if c.startswith("python train.py")])
def test_train_commands_compose(line):
    words = [word for word in shlex.split(line)[2:] if not word.startswith("-")]
    assert expand(split(parse(words))[2])


def test_other_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"[\w-]+", " ".join(re.findall(r"^([\w -]+):=?", makefile, re.M))))
    targets |= set(re.search(r"^ALL    := (.*)", makefile, re.M)[1].split())
    for line in COMMANDS:
        program, *words = shlex.split(line)
        if program == "make":
            assert words[0] in targets, line
        elif words and words[0] == "evaluate.py":
            assert {word.split("=")[0] for word in words[1:]} <= set(KEYS), line
        else:
            words = [word for word in words if program != "torchrun" or not word.startswith("--n")]
            assert words and (words[0] == "train.py" or program == "source"), line


def test_files_that_the_text_names_exist():
    for name in re.findall(r"`((?:snnrepro|configs|scripts)/[\w/.]+)`", TEXT):
        assert (ROOT / name).exists(), name
