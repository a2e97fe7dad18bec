"""An absorbed network on disk: the same numbers come back, damage does not."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, env
from deploy.nets import SEW, StepNorm, tie

from snnrepro import io
from snnrepro.deploy import absorb, load_absorbed, save_absorbed
from snnrepro.deploy.storage import NETWORK, REPORT, WEIGHTS
from snnrepro.errors import StorageError

SMALL = {"stem_width": 4, "widths": (6, 8, 10), "blocks": (2, 1, 1), "hidden": 7, "head": "tet"}


@pytest.fixture
def network(make_resnet19, generic):
    return absorb(generic(make_resnet19((3, 12, 12), 5, **SMALL)).float())


@pytest.fixture
def folder(network, tmp_path):
    save_absorbed(network, tmp_path, {"run": "x"})
    return tmp_path


def same(a, b, x):
    return torch.equal(a(x, 4), b(x, 4)) and a.report == b.report and a.steps == b.steps


def test_round_trip_is_identical(network, folder):
    loaded = load_absorbed(folder)
    assert same(network, loaded, torch.randn(4, 3, 12, 12)) and loaded.timesteps == 3
    assert torch.equal(loaded(torch.ones(2, 3, 12, 12)), network(torch.ones(2, 3, 12, 12)))
    save_absorbed(loaded, folder / "again", {"run": "x"})
    for name in (NETWORK, WEIGHTS, REPORT):
        assert (folder / name).read_bytes() == (folder / "again" / name).read_bytes()
    assert json.loads((folder / NETWORK).read_text())["network"]["origin"] == {"run": "x"}
    assert "edges, all exact" in (folder / REPORT).read_text()


@pytest.mark.parametrize("averaged", [False, True])
def test_round_trip_of_other_structures(make_cnn7, make_resnet19, generic, tmp_path, averaged):
    x = torch.randn(2, 3, 16, 16)
    cnn = make_cnn7((3, 16, 16), 5, widths=(4, 5, 6), hidden=7, mean_over_time=averaged)
    steps = make_resnet19((3, 16, 16), 5, make_norm=lambda c, residual: StepNorm(c), **SMALL)
    for number, model in enumerate((cnn, tie(SEW(), ["stem.sn", "one.1.sn"]), steps)):
        network = absorb(generic(model).float())
        save_absorbed(network, tmp_path / str(number))
        assert same(network, load_absorbed(tmp_path / str(number)), x)


def test_loads_without_the_configuration_and_training_code(network, folder):
    x = torch.ones(1, 3, 12, 12)
    code = f"""
import sys
for name in ("hydra", "omegaconf", "timm", "wandb", "sklearn", "snnrepro.config", "snnrepro.train", "snnrepro.models"):
    sys.modules[name] = None
import torch
from snnrepro.deploy import load_absorbed
print(load_absorbed({str(folder)!r})(torch.ones(1, 3, 12, 12)).sum().item())
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=env())
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) == pytest.approx(network(x).sum().item(), rel=1e-5)


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("name", [NETWORK, WEIGHTS])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "missing"])
def test_damaged_files_are_refused_in_one_line(folder, name, damage):
    file = folder / name
    if damage == "flip":
        for position in (5, file.stat().st_size // 2, file.stat().st_size - 5):
            before = file.read_bytes()
            flip(file, position)
            with pytest.raises(StorageError, match=name) as caught:
                load_absorbed(folder)
            assert "\n" not in str(caught.value)
            file.write_bytes(before)
        load_absorbed(folder)
        return
    {"cut": lambda: file.write_bytes(file.read_bytes()[:-9]), "empty": lambda: file.write_bytes(b""),
     "missing": file.unlink}[damage]()  # fmt: skip
    with pytest.raises(StorageError, match=name) as caught:
        load_absorbed(folder)
    assert "\n" not in str(caught.value)


def rename(content):
    content["steps"][3]["name"] = content["steps"][2]["name"]


CHANGES = {
    "newer format": (lambda c: c.update(format=2), "format 2 is not 1"),
    "unknown operation": (lambda c: c["steps"][0].update(kind="exec"), "no operation 'exec'"),
    "two of a name": (rename, "defined twice"),
    "reads the future": (lambda c: c["steps"][0].update(inputs=["head.fc"]), "before it"),
    "no output": (lambda c: c.update(output="none"), "not defined"),
    "missing step": (lambda c: c["steps"].pop(), "not defined|no operation reads"),
    "another operation": (lambda c: c["steps"][0].update(kind="sum"), "options.stride: no such key"),
    "no steps": (lambda c: c.pop("steps"), "steps"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_consistent_files_that_make_no_network_are_refused(folder, change):
    file = folder / NETWORK
    content = json.loads(file.read_text())["network"]
    CHANGES[change][0](content)
    digest = io.sha256(json.dumps(content, sort_keys=True).encode())
    file.write_text(json.dumps({"sha256": digest, "network": content}))
    with pytest.raises(StorageError, match=CHANGES[change][1]) as caught:
        load_absorbed(folder)
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_one_line(network):
    with pytest.raises(StorageError, match="/proc/none"):
        save_absorbed(network, io.Path("/proc/none"))
