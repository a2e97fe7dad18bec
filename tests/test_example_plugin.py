"""examples/plugin, installed beside the package, without a line of it changed; and its neuron against float64."""

import importlib
import json
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from conftest import ROOT, with_on_path
from PIL import Image

from snnrepro import registry
from snnrepro.config import GROUPS

EXAMPLE = ROOT / "examples" / "plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder into which pip has installed the distribution."""
    site = tmp_path_factory.mktemp("site")
    # Building leaves files beside the source.
    source = shutil.copytree(EXAMPLE, tmp_path_factory.mktemp("source") / "plugin")
    words = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(site), str(source)]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    return site


@pytest.fixture
def call(installed, tmp_path):
    """Runs a command in a folder with images of two classes: stripes one way and the other."""
    draw = np.random.default_rng(0)
    for side, count in (("train", 48), ("test", 16)):
        for number in range(count):
            pixels = draw.integers(0, 120, (12, 12), dtype=np.uint8)
            name, across = ("down", True) if number % 2 else ("along", False)
            pixels[(slice(None), slice(number % 3, None, 3)) if across else slice(number % 3, None, 3)] += 130
            folder = tmp_path / "images" / side / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{number}.png")

    return partial(with_on_path, installed, tmp_path)


WORDS = ["dataset=folders", "dataset.root=images", "neuron=ds_atgo", "runtime.threads=1", "epochs=6"]


@pytest.mark.slow
def test_it_trains_resumes_evaluates_sweeps_and_is_recorded(call, tmp_path):
    result = call("train", *WORDS, "loss.sparsity.weight=0.01")
    assert result.returncode == 0, result.stderr
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    record = json.loads((folder / "record.json").read_text())
    assert record["provenance"]["plugins"] == {"snnrepro-example": "0.1.0"} and record["final"]["top1"] > 85
    thresholds = [layer["v_threshold"] for layer in record["learned"].values()]
    assert len(thresholds) == 2 and all(0 < value != 1 for value in thresholds)
    assert "equal" in call("evaluate", f"run={folder.name}").stdout
    # From its last checkpoint but one it ends where it ended.
    for name in sorted((folder / "checkpoints").iterdir())[-2:]:
        name.unlink()
    (folder / "record.json").unlink()
    again = call("train", *WORDS, "loss.sparsity.weight=0.01")
    assert "resuming at epoch" in again.stdout
    assert json.loads((folder / "record.json").read_text())["final"] == record["final"]
    swept = call("train", "-m", *WORDS, "neuron.width_from=deviation,threshold", "neuron.f_c=0.8,1.0", "epochs=1",
                 "optimizer.warmup_epochs=0")  # fmt: skip
    assert swept.returncode == 0 and "neuron.f_c=0.8" in swept.stdout, swept.stdout + swept.stderr
    assert "ds_atgo" in call("train", "--help").stdout and "plugin snnrepro-example" in call("doctor").stdout


@pytest.mark.slow
def test_what_it_does_not_know_is_one_line(call, tmp_path):
    for words, says in {
        ("neuron.width_from=both",): "neuron.width_from=both: must be one of deviation, threshold",
        ("neuron.tau=2",): "neuron.kind=ds_atgo does not use it, lif would; leave it out",
        ("dataset.root=nowhere",): "nowhere/train: needs a folder for each of two classes or more; set dataset.root",
    }.items():
        result = call("train", *WORDS, *words)
        assert result.returncode in (2, 4) and result.stderr.count("\n") == 1 and says in result.stderr
    (tmp_path / "images" / "test" / "down" / "1.png").write_text("no image")
    result = call("train", *WORDS)
    assert result.returncode == 4 and "1.png: not an image that can be read" in result.stderr


@pytest.fixture(scope="module")
def ds_atgo():
    before = {group: registry.options(group) for group in GROUPS}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLE)
        yield importlib.import_module("snnrepro_example.ds_atgo").DSATGO
    for name in [name for name in sys.modules if name.startswith("snnrepro_example")]:
        del sys.modules[name]
    registry._registered.update(before)


def restated(x, go, decay, f_c, width, first, width_from):
    """Returns (spikes, thresholds, dL/dx) in numpy, float64."""
    u, window, thresholds = np.zeros_like(x[0]), [], []
    for current in x:
        m = decay * u + current
        deviation = m.std(ddof=1)
        v = f_c * (m.mean() + deviation)
        k = width * (1 + np.tanh((deviation if width_from == "deviation" else v) - first))
        s = (m >= v).astype(float)
        window.append((m, s, (np.abs(m - v) < k / 2) / k))
        thresholds.append(v)
        u = m * (1 - s)
    carry, grads = np.zeros_like(u), []
    for (m, s, slope), g in zip(window[::-1], go[::-1], strict=True):
        of_m = (g - carry * m) * slope + carry * (1 - s)
        grads.append(of_m)
        carry = decay * of_m
    return np.stack([s for _, s, _ in window]), np.array(thresholds), np.stack(grads[::-1])


@pytest.mark.parametrize("width_from", ["deviation", "threshold"])
@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_the_neuron_is_its_equations(ds_atgo, width_from, scale):
    draw = np.random.default_rng(1)
    x, go = scale * draw.standard_normal((3, 8, 5, 4)) + 0.4, draw.standard_normal((3, 8, 5, 4))
    layer = ds_atgo(timesteps=3, width_from=width_from, f_c=0.9).double()
    leaf = torch.tensor(x, requires_grad=True)
    o = layer(leaf)
    (found,) = torch.autograd.grad(o, leaf, torch.tensor(go))
    s, thresholds, expected = restated(x, go, 0.2, 0.9, 1.0, 1.0, width_from)
    np.testing.assert_array_equal(o.detach().numpy(), s)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(layer.running_threshold.numpy(), 0.9 + 0.1 * thresholds, rtol=1e-10)
    # In evaluation the running thresholds act, whatever the batch is, and nothing moves.
    before = layer.running_threshold.clone()
    spikes = layer.eval()(leaf)
    assert torch.equal(layer(leaf[:, :2]), spikes[:, :2]) and torch.equal(layer.running_threshold, before)
    np.testing.assert_array_equal((0.2 * 0 + x[0] >= before[0].item()).astype(float), spikes[0].detach().numpy())


def test_it_integrates_in_float32(ds_atgo):
    x = 2 * torch.randn(3, 500, generator=torch.Generator().manual_seed(0))
    layer, steps = ds_atgo(timesteps=3), []
    layer.window(x.bfloat16(), record=steps)
    assert steps[2][0].dtype == torch.float32 and layer(x.bfloat16()).dtype == torch.bfloat16


def test_its_firing_rate_is_that_of_the_theorem(ds_atgo):
    """A normal membrane exceeds its mean plus deviation in 15.87 % of the neurons, whatever both are."""
    for mean, deviation in ((0.0, 1.0), (-3.0, 0.2), (5.0, 10.0)):
        x = mean + deviation * torch.randn(1, 200_000, generator=torch.Generator().manual_seed(0))
        assert ds_atgo(timesteps=1)(x).mean().item() == pytest.approx(0.1587, abs=0.003)
