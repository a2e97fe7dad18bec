"""The folder of compiled kernels: folders that refuse, files that are damaged, compilers that misbehave."""

import os
import subprocess
from pathlib import Path

import pytest
import torch

from snnrepro.errors import UserError
from snnrepro.neurons.dynamics import Dynamics
from snnrepro.neurons.kernels.cpu import cache as kernel_cache
from snnrepro.runtime import resolve_backend

RULES = Dynamics(4, "trsg", "rectangular", 1.0, "soft", False)
EMPTY = 'extern "C" void lif_run() {}'
# What stands for g++: it answers what it would make code for, notes its call, and does as told.
SCRIPT = """#!/bin/sh
case "$*" in *-dM*) echo "#define __AVX__ $MACHINE"; exit 0;; esac
echo "$*" >> {calls}
while [ $# -gt 1 ]; do [ "$1" = -o ] && output="$2"; [ "$1" = -fopenmp ] && openmp=yes; shift; done
{action}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A library with nothing in it but its entry, which compiles at once."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "made.cpp").write_text(EMPTY)
    subprocess.run(
        [kernel_cache.compiler(), "-shared", "-fPIC", folder / "made.cpp", "-o", folder / "made.so"], check=True
    )
    return folder / "made.so"


@pytest.fixture
def compiler(made, tmp_path, monkeypatch):
    """Puts a compiler of this behaviour in place, an empty cache, and no memory of others; returns its calls' log."""
    calls = tmp_path / "calls"
    calls.touch()
    monkeypatch.setenv("SNNREPRO_CACHE", str(tmp_path / "cache"))
    caches = (kernel_cache.library, kernel_cache._fingerprint, kernel_cache._temporary_folder, resolve_backend)

    def put(action="cp {made} $output"):
        script = tmp_path / "compiler"
        script.write_text(SCRIPT.format(calls=calls, action=action.format(made=made)))
        script.chmod(0o755)
        monkeypatch.setenv("CXX", str(script))
        for memory in caches:
            memory.cache_clear()
        return calls

    yield put
    for memory in caches:
        memory.cache_clear()


def load():
    kernel_cache.library.cache_clear()
    return kernel_cache.library(RULES, torch.float32)


def times(calls: Path) -> int:
    return len(calls.read_text().splitlines())


def as_file(folder):
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("a file")


def as_link(folder):
    folder.symlink_to(folder)


PLACES = {
    "proc": lambda folder: Path("/proc/x"),
    "a file": as_file,
    "a link to itself": as_link,
    "a name too long": lambda folder: folder / ("x" * 300),
    "no such home": lambda folder: Path("~nobody-of-this-name/cache"),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_folder_that_refuses_is_named_and_another_one_taken(place, compiler, tmp_path, monkeypatch, capsys):
    calls = compiler()
    monkeypatch.setenv("SNNREPRO_CACHE", str(place(tmp_path / "cache") or tmp_path / "cache"))
    assert load().lif_run
    assert times(calls) == 1
    assert load().lif_run
    assert times(calls) == 1
    said = [line for line in capsys.readouterr().out.splitlines() if "SNNREPRO_CACHE names another folder" in line]
    assert len(said) == 1


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), OSError(30, "Read-only file system")], ids=str
)
def test_a_disk_that_refuses_is_named_and_another_folder_taken(error, compiler, tmp_path, monkeypatch, capsys):
    calls, replace = compiler(), os.replace

    def refuse(source, target):
        if str(target).startswith(str(tmp_path / "cache")):
            raise error
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    assert load().lif_run
    assert f"{error.strerror}; check the folder" in capsys.readouterr().out
    assert times(calls) == 2 and not list((tmp_path / "cache").rglob("*.tmp.*"))


def test_nowhere_to_write_at_all_is_one_line(compiler, monkeypatch):
    compiler()
    monkeypatch.setenv("SNNREPRO_CACHE", "/proc/x")
    monkeypatch.setattr("tempfile.mkdtemp", lambda **_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match=r"/proc/x.*temporary folder.*runtime\.backend=reference"):
        load()


def test_a_filled_cache_that_is_read_only_is_used(compiler, tmp_path, monkeypatch):
    calls = compiler()
    load()
    # As root one may write anywhere: whoever tries is noticed.
    monkeypatch.setattr(kernel_cache.io, "make_dir", lambda path: pytest.fail("written to"))
    assert load().lif_run and times(calls) == 1


DAMAGE = {
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-1000]),
    "empty": lambda file: file.write_bytes(b""),
    "garbage": lambda file: file.write_bytes(b"\x7fELF garbage"),
    "one byte": lambda file: file.write_bytes(file.read_bytes()[:-1] + b"?"),
    "digest gone": lambda file: file.with_suffix(".sha256").unlink(),
    "digest garbage": lambda file: file.with_suffix(".sha256").write_bytes(b"\xff\xfe"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_library_is_made_again_once(damage, compiler, tmp_path):
    calls = compiler()
    load()
    (file,) = tmp_path.rglob("lif-*.so")
    # Written anew: the library that is loaded here must not change under it.
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content)
    damage(file)
    assert load().lif_run and load().lif_run
    assert times(calls) == 2


def test_what_a_killed_process_left_is_removed(compiler, tmp_path):
    compiler()
    folder = kernel_cache.cache_folder()
    folder.mkdir(parents=True)
    (folder / "lif.so.tmp.1").write_bytes(b"half")
    load()
    assert sorted(file.suffix for file in folder.iterdir()) == ["", ".sha256", ".so"]


MISBEHAVIOUR = {
    "fails": ("echo 'x.cpp:1: fatal error: no room' >&2; exit 1", "x.cpp:1: fatal error: no room"),
    "prints garbage": (r"printf '\377\376 error \200' >&2; exit 1", "error"),
    "says nothing": ("exit 3", "exit code 3"),
    "is killed": ("kill -9 $$", "exit code -9"),
    "writes nothing": ("exit 0", "wrote nothing"),
    "hangs": ("exec sleep 20", "did not end within"),
}


@pytest.mark.parametrize(("action", "said"), MISBEHAVIOUR.values(), ids=MISBEHAVIOUR)
def test_a_compiler_that_misbehaves_is_one_line(action, said, compiler, tmp_path, monkeypatch):
    compiler(action)
    monkeypatch.setattr(kernel_cache, "_PATIENCE", 0.1)
    with pytest.raises(UserError) as error:
        load()
    assert said in str(error.value) and "runtime.backend=reference works" in str(error.value)
    assert "\n" not in str(error.value)
    assert next(tmp_path.rglob("error.log")).read_text() and not list(tmp_path.rglob("*.so"))


@pytest.mark.parametrize("action", ["echo no library > $output", "echo > $output"])
def test_a_compiler_that_makes_something_else_is_one_line(action, compiler):
    compiler(action)
    with pytest.raises(UserError, match=r"cannot be loaded: [^\n]*; runtime\.backend=reference"):
        load()


def test_a_library_of_another_program_is_one_line(compiler, tmp_path):
    (tmp_path / "other.cpp").write_text('extern "C" void other() {}')
    other = tmp_path / "other.so"
    subprocess.run(["g++", "-shared", "-fPIC", tmp_path / "other.cpp", "-o", other], check=True)
    compiler(f"cp {other} $output")
    with pytest.raises(UserError, match=r"cannot be loaded: .*lif_run"):
        load()


def test_a_compiler_without_openmp_compiles_for_one_thread_and_says_so(compiler, capsys):
    calls = compiler(
        '[ -n "$openmp" ] && echo "error: unsupported option \'-fopenmp\'" >&2 && exit 1; cp {made} $output'
    )
    assert load().lif_run
    assert times(calls) == 2 and "without OpenMP: the layers run on one thread" in capsys.readouterr().out


@pytest.mark.slow
def test_the_kernels_compile_without_openmp(tmp_path):
    macros = {
        "TIMESTEPS": "2",
        "FAMILY": "TRSG",
        "SURROGATE": "RECTANGULAR",
        "RESET": "SOFT",
        "DETACH": "0",
        "VALUE": "float",
    }
    flags = [flag for flag in kernel_cache.FLAGS if flag not in ("-fopenmp", "-O3")]
    command = [*kernel_cache._compiler(), *flags, "-O0", *kernel_cache._arguments(macros, tmp_path / "lif.so")]
    assert kernel_cache._run(command) is None


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("{compiler} -one -two", True),
        ("sh {compiler}", True),
        ("/no/such/g++", False),
        ("'unbalanced", False),
        ("/tmp", False),
    ],
)
def test_compiler_commands_with_arguments(command, found, compiler, tmp_path, monkeypatch, capsys):
    calls = compiler()
    command = command.format(compiler=tmp_path / "compiler")
    monkeypatch.setenv("CXX", command)
    if found:
        assert resolve_backend("auto", "cpu") == "compiled" and load().lif_run
        assert ("-one -two" in calls.read_text()) is command.endswith("-two")
        return
    assert resolve_backend("auto", "cpu") == "reference"
    assert f"no C++ compiler found as CXX={command}" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"no C\+\+ compiler found as CXX=.*; install g\+\+"):
        load()


def test_machines_with_other_instructions_share_a_folder_and_no_library(compiler, monkeypatch):
    calls = compiler()
    folders = set()
    for machine in ("1", "2", "1"):
        monkeypatch.setenv("MACHINE", machine)
        kernel_cache._fingerprint.cache_clear()
        folders.add(kernel_cache.cache_folder())
        load()
    assert len(folders) == times(calls) == 2


def test_a_compiler_that_cannot_say_what_it_makes_shares_nothing(compiler, monkeypatch):
    compiler()
    Path(os.environ["CXX"]).write_text("#!/bin/sh\nexit 1\n")
    folders = set()
    for node in ("one", "two"):
        monkeypatch.setattr(kernel_cache.platform, "uname", lambda node=node: ("Linux", node))
        kernel_cache._fingerprint.cache_clear()
        folders.add(kernel_cache.cache_folder())
    assert len(folders) == 2
