"""What the machine has and lacks, each with a fix; datasets checked before a run needs them."""

import pytest
from torchvision.datasets import utils

from snnrepro import doctor
from snnrepro.cli import main
from snnrepro.errors import ConfigError, DataError


def test_a_working_machine(tmp_path, capsys):
    assert main(["doctor", f"runtime.output_dir={tmp_path}"]) == 0
    out = capsys.readouterr().out
    for what in ("snnrepro", "torch", "GPUs", "C++ compiler", "outputs", "dataset digits"):
        assert f" {what} " in out
    assert "FAILED" not in out


def test_what_is_missing_comes_with_its_fix(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("snnrepro.neurons.kernels.cpu.cache.compiler", lambda: None)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    usage = doctor.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage._replace(free=10**8))
    words = ["dataset=cifar10", f"dataset.root={tmp_path}/nowhere", f"runtime.output_dir={tmp_path}"]
    assert main(["doctor", *words]) == 0
    out = capsys.readouterr().out
    for text in ("install g++", "pip install 'snnrepro[dvs]'", "pip install 'snnrepro[figures]'", "free some space",
                 f"snnrepro data prepare cifar10 dataset.root={tmp_path}/nowhere"):  # fmt: skip
        assert text in out
    assert all(line.startswith(("ok ", "missing ")) for line in out.splitlines())


def test_a_folder_that_cannot_be_written_fails(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert main(["doctor", f"runtime.output_dir={tmp_path}/a/b"]) == 1
    assert "FAILED  outputs " in capsys.readouterr().out


def test_data_is_checked_as_a_run_reads_it(tmp_path, capsys, monkeypatch):
    assert main(["data", "check", "digits"]) == 0
    assert "digits: stratified, 1437 train / 360 test, split_seed 0; 10 classes, 1x8x8" in capsys.readouterr().out
    assert main(["data", "check", "cifar10", f"dataset.root={tmp_path}"]) == DataError.exit_code
    assert "missing" in capsys.readouterr().err
    asked = []

    def refuse(request, *_, **__):
        asked.append(request.full_url)
        raise OSError("network is unreachable")

    monkeypatch.setattr(utils.urllib.request, "urlopen", refuse)
    assert main(["data", "prepare", "cifar10", f"dataset.root={tmp_path}"]) == DataError.exit_code
    assert asked and "cannot be fetched" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "write: snnrepro data"),
        (["look", "digits"], "write: snnrepro data"),
        (["check", "digit"], "did you mean 'digits'"),
    ],
)
def test_wrong_words(words, says, capsys):
    assert main(["data", *words]) == ConfigError.exit_code
    assert says in capsys.readouterr().err


def test_preview_of_events(tmp_path, capsys, monkeypatch):
    from PIL import Image

    monkeypatch.setenv("SNNREPRO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("snnrepro.data.events.cache.usable_cores", lambda: 1)
    words = ["dataset.size=8", "timesteps=3", f"runtime.output_dir={tmp_path}"]
    assert main(["data", "preview", "digits_dvs", *words]) == 0
    assert "simulated recordings" in capsys.readouterr().out
    picture = Image.open(tmp_path / "preview_digits_dvs.png")
    # Three frames of 8 pixels, four screen pixels each, two between; five recordings.
    assert picture.size == (3 * 34 - 2, 5 * 34 - 2)
    colours = {pixel for _, pixel in picture.getcolors(10**6)}
    assert (128, 128, 128) in colours and len(colours) > 5, "grey where nothing happened, colours elsewhere"
    assert main(["data", "preview", "digits"]) == ConfigError.exit_code
