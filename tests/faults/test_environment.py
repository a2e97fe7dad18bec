"""Where and how a process is started changes neither results nor what is recorded; what cannot work is one line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, command, env
from faults.messages import PACKAGE

from snnrepro import runtime
from snnrepro.compose import compose_run
from snnrepro.runs import read_record, run_path


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Returns the folder of a repository with one commit, which the package believes to be in, and that commit."""
    folder = tmp_path / "checkout"
    (folder / "snnrepro").mkdir(parents=True)
    (folder / "snnrepro" / "runtime.py").write_text("")
    for key in [key for key in os.environ if key.startswith("GIT_")]:
        monkeypatch.delenv(key)
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(runtime, "__file__", str(folder / "snnrepro" / "runtime.py"))
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return folder, head.stdout.strip()


@pytest.mark.parametrize("variable", ["none", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_CEILING_DIRECTORIES"])
@pytest.mark.parametrize("value", ["/nowhere", f"{ROOT}/.git"])
def test_the_commit_is_that_of_the_checkout_whatever_git_is_told(checkout, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    assert runtime._commit() == checkout[1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_commit_of_a_checkout_that_another_user_owns(checkout, monkeypatch, tmp_path):
    folder, head = checkout
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 65534, 65534)
    assert runtime._commit() == head


def test_a_changed_file_and_a_missing_git_are_seen(checkout, monkeypatch):
    folder, head = checkout
    (folder / "snnrepro" / "runtime.py").write_text("changed")
    assert runtime._commit() == f"{head}-dirty"
    monkeypatch.setenv("PATH", str(folder))
    assert runtime._commit() is None


def test_the_commit_of_a_second_working_tree(checkout, monkeypatch, tmp_path):
    folder, head = checkout
    subprocess.run(["git", "-C", str(folder), "worktree", "add", "-q", str(tmp_path / "second")], check=True)
    monkeypatch.setattr(runtime, "__file__", str(tmp_path / "second" / "snnrepro" / "runtime.py"))
    assert (tmp_path / "second" / ".git").is_file() and runtime._commit() == head


@pytest.mark.advice("change to a folder that exists (cd)")
def test_a_working_folder_that_is_gone_is_one_line(tmp_path):
    gone = tmp_path / "gone"
    for remove, code in (("rmdir ../gone; ", 5), ("", 0)):
        gone.mkdir()
        line = f"cd {gone}; {remove}exec {sys.executable} -m snnrepro data check digits"
        found = subprocess.run(["sh", "-c", line], env=env(), capture_output=True, text=True)
        assert found.returncode == code, found.stderr
        assert code == 0 or (found.stderr.startswith("error: working folder: ") and found.stderr.count("\n") == 1)


@pytest.mark.parametrize("to", ["/dev/full", "/dev/null"])
def test_the_exit_code_says_what_was_wrong_where_no_line_can_be_written(tmp_path, to):
    with open(to, "w") as stderr:
        assert subprocess.run(command("train", "nosuch=1"), cwd=tmp_path, env=env(), stderr=stderr).returncode == 2
