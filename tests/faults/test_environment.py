"""Where and how a process is started changes neither results nor what is recorded; what cannot work is one line."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, command, env
from faults.messages import PACKAGE

from snnrepro import runtime
from snnrepro.compose import compose_run


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
        line = f"cd {gone}; {remove}exec {sys.executable} -m snnrepro evaluate --help"
        found = subprocess.run(["sh", "-c", line], env=env(), capture_output=True, text=True)
        assert found.returncode == code, found.stderr
        assert code == 0 or (found.stderr.startswith("error: working folder: ") and found.stderr.count("\n") == 1)


@pytest.mark.parametrize("to", ["/dev/full", "/dev/null"])
def test_the_exit_code_says_what_was_wrong_where_no_line_can_be_written(tmp_path, to):
    with open(to, "w") as stderr:
        assert subprocess.run(command("train", "nosuch=1"), cwd=tmp_path, env=env(), stderr=stderr).returncode == 2


@pytest.mark.parametrize("folder, code", [("a b", 2), ("", 2), ("ab", 0)])
def test_make_names_a_folder_that_it_cannot_use(folder, code):
    line = ["make", "--dry-run", f"VENV={folder}", "train"]
    # Inside of `make test`, make would print the folders that it enters.
    outside = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    found = subprocess.run(line, cwd=ROOT, env=outside, capture_output=True, text=True)
    assert found.returncode == code
    assert code == 0 or (f"VENV='{folder}'" in found.stderr and found.stderr.count("\n") == 1 and not found.stdout)


@pytest.mark.parametrize("says, wanted", [("3.10.1", "Python 3.11 or newer is needed, python3 is Python 3.10.1"),
                                          (None, "python3 not found; install Python 3.11 or newer")])  # fmt: skip
def test_make_says_which_python_it_needs(tmp_path, says, wanted):
    for name in ("make", "sh", "awk"):
        (tmp_path / name).symlink_to(shutil.which(name))
    if says:
        (tmp_path / "python3").write_text(f'#!/bin/sh\n[ "$1" = -V ] && echo Python {says} && exit\nexit 1\n')
        (tmp_path / "python3").chmod(0o755)
    line = ["make", f"VENV={tmp_path}/venv", "setup"]
    found = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, env={"PATH": str(tmp_path)})
    assert found.returncode == 2 and f"error: {wanted}" in found.stdout


def test_nothing_reads_docstrings_or_relies_on_asserts_for_users():
    """Both are gone under -OO: usage texts are strings of their own, and what users do wrong is an error."""
    for path in sorted(PACKAGE.rglob("*.py")):
        assert "__doc__" not in path.read_text(), path
    found = subprocess.run(
        [sys.executable, "-OO", "-m", "snnrepro", "evaluate"], env=env(), capture_output=True, text=True
    )
    assert found.stdout.startswith("usage: python evaluate.py")


def test_a_sweep_without_a_folder_for_temporary_files_is_one_line(tmp_path, monkeypatch, tiny):
    from snnrepro import jobs
    from snnrepro.errors import StorageError

    def refuse(*_, **__):
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(jobs.tempfile, "NamedTemporaryFile", refuse)
    run = compose_run(tiny)
    with pytest.raises(StorageError, match="cannot start a run: No usable temporary directory"):
        jobs.run_jobs([jobs.Job(tiny, run)])
