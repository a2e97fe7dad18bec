"""A distribution beside the package brings options; not a line of the package changes."""

import json
import subprocess
from functools import partial
from pathlib import Path

import pytest
from conftest import ROOT, command, env, with_on_path
from test_contributing import FILES

pytestmark = pytest.mark.slow


@pytest.fixture
def installed(tmp_path):
    """A folder on the path with a distribution that brings CONTRIBUTING's examples, as pip would leave it."""
    site = tmp_path / "site"
    for name, text in FILES.items():
        place = site / (name if name.endswith(".py") else f"striped/configs/{name}")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    modules = sorted(Path(name).stem for name in FILES if name.endswith("_options.py"))
    (site / "striped" / "__init__.py").write_text(f"import {', '.join(modules)}\n")
    info = site / "striped-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: striped\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[snnrepro.plugins]\nstriped = striped\n")
    return site


@pytest.fixture
def call(installed, tmp_path):
    return partial(with_on_path, installed, tmp_path)


WORDS = ["dataset=stripes", "norm=shift", "neuron=halved", "runtime.threads=1", "runtime.backend=reference"]


def test_its_options_train_evaluate_and_sweep_and_the_record_says_whose_they_are(call, tmp_path):
    result = call("train", *WORDS)
    assert result.returncode == 0, result.stderr
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    record = json.loads((folder / "record.json").read_text())
    assert record["provenance"]["plugins"] == {"striped": "1.2"} and record["final"]["top1"] > 80
    assert call("train", *WORDS).stdout.count("finished before") == 1
    assert "equal" in call("evaluate", f"run={folder.name}", "timesteps=1,2").stdout
    swept = call("train", "-m", *WORDS, "norm.shift=0.25,0.5")
    assert swept.returncode == 0 and "norm.shift=0.25" in swept.stdout, swept.stderr
    assert len(list(folder.parent.iterdir())) == 2
    shown = call("train", "--help").stdout
    assert "stripes" in shown and "halved" in shown
    assert "plugin striped" in call("doctor").stdout


def test_a_module_beside_the_user_does_the_same(call, installed, tmp_path):
    """In runs, in the processes of sweeps, in commands that read runs."""
    (installed / "striped-1.2.dist-info" / "entry_points.txt").unlink()
    refused = call("train", *WORDS)
    assert refused.returncode == 2 and "dataset=stripes" in refused.stderr
    for file in installed.iterdir():
        file.rename(tmp_path / file.name)
    word = "plugins=[striped]"
    swept = call("train", word, "-m", *WORDS, "norm.shift=0.25,0.5")
    assert swept.returncode == 0, swept.stdout + swept.stderr
    folders = list((tmp_path / "outputs" / "runs").iterdir())
    assert len(folders) == 2
    version = json.loads((folders[0] / "record.json").read_text())["provenance"]["plugins"]["striped"]
    assert version.startswith("sha256 ")
    again = call("train", word, *WORDS, "norm.shift=0.5")
    assert "finished before" in again.stdout, again.stderr
    assert "equal" in call("evaluate", word, f"run={folders[0].name}").stdout
    assert "stripes" in call("train", word, "--help").stdout
    without = call("evaluate", f"run={folders[0].name}")
    assert without.returncode == 5 and without.stderr.count("\n") == 1 and "must be one of" in without.stderr


def test_a_module_in_a_checkout_of_this_project_and_two_side_by_side(installed, tmp_path):
    """The folder configs beside them is this project's, or that of both."""
    (installed / "striped-1.2.dist-info" / "entry_points.txt").unlink()
    for name in ("configs", "snnrepro"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text("")
    words = command("train", "plugins=[one,two]", "--cfg", "job")
    result = subprocess.run(
        words, env=env() | {"PYTHONPATH": str(tmp_path)}, cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0 and "crop_flip" in result.stdout, result.stderr


@pytest.mark.advice("name a module that Python can import from this folder")
@pytest.mark.advice("names of modules are needed, such as plugins=[my.module]")
def test_wrong_names_of_modules_are_one_line(call, installed):
    for word, says in {
        "plugins=[nosuch.module]": "plugins=[nosuch.module]: ModuleNotFoundError: No module named 'nosuch'",
        "plugins=[../x.py]": "plugins=[../x.py]: names of modules are needed",
        "plugins=": "plugins=: names of modules are needed",
    }.items():
        result = call("train", word)
        assert result.returncode == 2 and result.stderr.count("\n") == 1 and says in result.stderr
    assert call("train", "plugins=[striped]", "--help").returncode == 0


@pytest.mark.advice("update it, or remove it: pip uninstall {}")
def test_one_that_cannot_be_imported_is_one_line(call, installed):
    (installed / "striped" / "__init__.py").write_text("import nosuch_module\n")
    result = call("train", "--help")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "plugin striped 1.2: ModuleNotFoundError: No module named 'nosuch_module'" in result.stderr
    (installed / "striped-1.2.dist-info" / "entry_points.txt").unlink()
    assert call("train", "--help").returncode == 0


def test_a_name_of_ours_is_not_taken(call, installed):
    (installed / "striped" / "configs" / "neuron" / "lif.yaml").write_text("defaults: [_lif, _self_]\n")
    result = call("train", "neuron=lif")
    assert result.returncode == 2 and "neuron=lif exists already" in result.stderr
