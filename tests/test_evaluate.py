"""What ``evaluate.py`` does with runs, checkpoints and data that are not as they were left."""

import json
import shutil
import subprocess
import sys

import pytest
from conftest import TINY, env

from snnrepro.cli import main
from snnrepro.compose import compose_run
from snnrepro.runs import run_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a finished run."""
    words = [*TINY, f"runtime.output_dir={tmp_path_factory.mktemp('outputs')}"]
    assert main(["train", *words]) == 0
    return run_path(compose_run(words))


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run's folder, to be damaged."""
    return shutil.copytree(trained, tmp_path / "runs" / trained.name)


def evaluate(capsys, path, *words):
    capsys.readouterr()
    code = main(["evaluate", f"run={path.name}", f"runtime.output_dir={path.parent.parent}", *words])
    return code, *capsys.readouterr()


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("absorb", ["false", "true"])
def test_data_that_have_changed_are_said(run, capsys, absorb):
    code, out, err = evaluate(capsys, run, f"absorb={absorb}")
    assert code == 0 and err == "" and "warning" not in out
    # As if the run had been trained on others.
    digest = json.loads((run / "record.json").read_text())["data"]["digest"]
    edit(run / "record.json", digest, "0" * len(digest))
    code, out, err = evaluate(capsys, run, f"absorb={absorb}")
    assert code == 0 and out.count("warning: the data of this run have changed: digest ") == 1
    file = sorted((run / "checkpoints").glob("*.pt"))[-1]
    assert main(["evaluate", f"checkpoint={file}"]) == 0
    assert "the data of this run have changed" in capsys.readouterr().out


def test_a_configuration_of_another_network_is_refused(run, capsys):
    edit(run / "config.yaml", "- 8", "- 10")
    code, out, err = evaluate(capsys, run)
    assert code == 5 and err.count("\n") == 1 and out == ""
    assert err.startswith(f"error: {run}/config.yaml: not the configuration of {run.name}; ")


@pytest.mark.parametrize("name", [".", "..", "../..", "/", "/tmp", "nonsuch"])
def test_a_folder_that_is_no_run_is_not_one_to_train_first(run, capsys, name):
    assert main(["evaluate", f"run={name}", f"runtime.output_dir={run.parent.parent}"]) == 5
    assert f"error: run={name}: no such run in " in capsys.readouterr().err


def test_a_folder_without_a_configuration_is_not_advised(run, capsys):
    (run.parent / "other").mkdir()
    code, _, err = evaluate(capsys, run.parent / "other")
    assert code == 5 and "no such run" in err and "did you mean" not in err


def test_a_run_that_diverged_at_once_has_nothing_to_evaluate(run, capsys):
    record = json.loads((run / "record.json").read_text())
    where = {"message": "loss is not finite", "epoch": 1, "step": 0}
    (run / "record.json").write_text(
        json.dumps({**record, "status": "diverged", "final": None, "best": None, "diverged": where})
    )
    for words in ([], ["weights=best"], ["absorb=true"]):
        code, _, err = evaluate(capsys, run, *words)
        assert code == 5 and err == f"error: run={run.name}: it diverged in its first epoch: nothing to evaluate\n"


@pytest.mark.parametrize(
    "text", ["0", "-1", "1025", "1000000", "abc", "1,,2", "1.5", "9" * 5000, "1e2", "\uff11", "1_0", "1,", "true"]
)
def test_timesteps_are_whole_numbers(run, capsys, text):
    code, _, err = evaluate(capsys, run, f"timesteps={text}")
    assert code == 2 and err.startswith(f"error: timesteps={text}: write whole numbers") and err.count("\n") == 1


@pytest.mark.parametrize("text", ["1", "1,1", "2,1", "[1,2]", "40"])
def test_control_other_timesteps(run, capsys, text):
    assert evaluate(capsys, run, f"timesteps={text}")[0] == 0


@pytest.mark.parametrize("norm", ["tebn", "tab", "bntt"])
def test_a_norm_without_statistics_for_later_steps_is_one_line(tiny, capsys, norm):
    words = [*tiny, "epochs=1", f"norm={norm}"]
    assert main(["train", *words]) == 0
    path = run_path(compose_run(words))
    for absorb in ("false", "true"):
        assert evaluate(capsys, path, "timesteps=1,2", f"absorb={absorb}")[0] == 0
        code, _, err = evaluate(capsys, path, "timesteps=3", f"absorb={absorb}")
        assert code == 2 and err.startswith("error: timesteps=3: ") and "2 steps" in err and err.count("\n") == 1


def test_an_absorbed_network_needs_neither_run_nor_configuration_nor_compiler(run, capsys, tmp_path):
    assert evaluate(capsys, run, "absorb=true")[0] == 0
    shutil.move(run / "absorbed", tmp_path / "elsewhere")
    shutil.rmtree(run)
    code = (
        "import sys, torch; from snnrepro.deploy import load_absorbed; network = load_absorbed('elsewhere')\n"
        "print(tuple(network(torch.zeros(3, 1, 8, 8)).shape))\n"
        "assert not {'hydra', 'omegaconf', 'snnrepro.train.loop'} & set(sys.modules)"
    )
    poor = {**env(), "CXX": "nonsuch", "PATH": "/nonexistent", "SNNREPRO_CACHE": "/proc/none", "HOME": "/nonexistent"}
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=poor, capture_output=True, text=True)
    assert found.returncode == 0 and found.stdout == "(2, 3, 10)\n", found.stderr
