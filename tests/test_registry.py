"""A new option is new files only: a class with its keys and what it builds, and a YAML file, wherever they lie."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from snnrepro import registry
from snnrepro.cli import main
from snnrepro.command_line import read
from snnrepro.compose import compose_run
from snnrepro.config import DatasetOption, ModelOption, NeuronOption, NormOption, RunConfig
from snnrepro.data.images import Source, take
from snnrepro.data.sets import ready
from snnrepro.errors import ConfigError
from snnrepro.neurons import LIF
from snnrepro.overrides import parse
from snnrepro.registry import register
from snnrepro.runs import read_record, run_path
from snnrepro.sweep import expand


@dataclass(slots=True, kw_only=True)
class ShiftOption(NormOption):
    """A norm that only shifts."""

    shift: float

    def factory(self, run: RunConfig) -> Callable[..., nn.Module]:
        return lambda channels, residual: _Shift(self.shift)


class _Shift(nn.Module):
    def __init__(self, shift: float):
        super().__init__()
        self.shift = shift

    def forward(self, x):
        return x + self.shift


@dataclass(slots=True, kw_only=True)
class HalvedOption(NeuronOption):
    """A neuron with one key."""

    height: float

    def factory(self, run: RunConfig) -> Callable[..., nn.Module]:
        lif = compose_run(["neuron=lif"])
        return partial(lif.neuron.factory(lif), v_threshold=self.height / 2)


@dataclass(slots=True, kw_only=True)
class StripesOption(DatasetOption):
    """Images of horizontal or vertical stripes."""

    samples: int

    def load(self, *, seed: int, timesteps: int):
        labels = torch.arange(self.samples).numpy() % 2
        images = torch.zeros(self.samples, 1, 8, 8)
        images[0::2, :, ::2], images[1::2, :, :, ::2] = 255, 255
        pixels, index = images.byte().numpy(), torch.arange(self.samples).numpy()
        train, test = (take(pixels, labels, part) for part in (index[:-16], index[-16:]))
        return ready(self.name, Source(train, test, "last quarter", 2, (127.5,), (127.5,)), seed=seed, embedded=True)


@dataclass(slots=True, kw_only=True)
class OneLayerOption(ModelOption):
    """A convolution, a norm, a neuron, a linear layer."""

    def build(self, parts):
        return _OneLayer(self.widths[0], parts)


class _OneLayer(nn.Module):
    def __init__(self, width: int, parts):
        super().__init__()
        self.conv = nn.Conv2d(parts.in_shape[0], width, 3, padding=1)
        self.norm = parts.make_norm(width, residual=False)
        self.sn1 = parts.make_neuron()
        self.timesteps, self.num_classes = parts.timesteps, parts.num_classes
        self.fc = nn.Linear(width, parts.num_classes)

    def forward(self, x, timesteps=None):
        y = self.norm(self.conv(x).expand(timesteps or self.timesteps, -1, -1, -1, -1).contiguous())
        return self.fc(self.sn1(y).mean((-2, -1)))


FILES = {
    "norm/shift.yaml": "defaults: [_shift, _self_]\nname: shift\neps: 1.0\nmomentum: 0.1\nshift: 0.25\n",
    "neuron/halved.yaml": "defaults: [_halved, _self_]\nkind: halved\nheight: 0.5\n",
    "dataset/stripes.yaml": "# @package _global_\ndefaults:\n  - _stripes\n  - override /model: one_layer\n"
    "dataset: {name: stripes, samples: 64}\ntimesteps: 2\nepochs: 4\nbatch_size: 16\n",
    "model/one_layer.yaml": "defaults: [_one_layer, _self_]\nname: one_layer\narch: one_layer\nwidths: [4]\n"
    "dropout: 0.0\ndropout_per_step: false\n",
}
CLASSES = {("norm", "shift"): ShiftOption, ("neuron", "halved"): HalvedOption, ("dataset", "stripes"): StripesOption,
           ("model", "one_layer"): OneLayerOption}  # fmt: skip


@pytest.fixture
def words(tmp_path):
    """The options of this file, registered for one test; words that choose all of them."""
    for name, text in FILES.items():
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_text(text)
    for (group, name), option in CLASSES.items():
        register(group, name)(option)
    chosen = ["dataset=stripes", "norm=shift", "neuron=halved", f"runtime.output_dir={tmp_path / 'outputs'}"]
    yield ["--config-dir", str(tmp_path / "mine"), *chosen, "runtime.threads=1", "runtime.backend=reference"]
    for group, name in CLASSES:
        del registry._registered[group][name]


def test_a_run_of_new_options_trains_resumes_evaluates_and_sweeps(words, capsys):
    assert main(["train", *words]) == 0
    out = capsys.readouterr().out
    run_name = out.split("done: ")[1].split()[0]
    assert run_name.startswith("stripes-one_layer-halved-s0-")
    place = next(word for word in words if word.startswith("runtime.output_dir="))
    folder = Path(place.partition("=")[2]) / "runs" / run_name
    record = read_record(folder)
    assert record["config"]["norm"] == {"name": "shift", "eps": 1.0, "momentum": 0.1, "shift": 0.25}
    assert record["final"]["top1"] > 80 and record["learned"]["sn1"]["v_threshold"] == 0.25
    assert main(["train", *words]) == 0 and "finished before" in capsys.readouterr().out
    assert main(["evaluate", f"run={run_name}", place, "timesteps=1,2"]) == 0
    assert "equal" in capsys.readouterr().out
    (folder / "record.json").unlink()
    assert main(["train", *words]) == 0
    assert read_record(folder)["final"] == record["final"]
    assert main(["train", *words, "--help"]) == 0
    assert "height: 0.5" in capsys.readouterr().out
    jobs = expand(parse([*read(words).overrides, "neuron.height=0.5,0.6", "norm.shift=0.1,0.2"]))
    assert len({job.path for job in jobs}) == 4


def test_its_keys_are_checked_and_make_other_runs(words):
    made = read(words).overrides
    first, second = compose_run(made), compose_run([*made, "norm.shift=0.5"])
    assert second.norm.shift == 0.5 and run_path(first) != run_path(second)
    with pytest.raises(ConfigError, match=r"did you mean 'norm\.shift'"):
        compose_run([*made, "norm.shfit=1"])
    with pytest.raises(ConfigError, match=r"neuron\.kind=halved does not use it, lif would; leave it out"):
        compose_run([*made, "neuron.tau=3"])


def test_a_name_belongs_to_one_class(words):
    with pytest.raises(ConfigError, match=r"norm=shift: registered twice, by .* and"):
        register("norm", "shift")(StripesOption)
    assert register("norm", "shift")(ShiftOption) is ShiftOption


def test_make_neuron_takes_changes(words):
    run = compose_run(["neuron=trsg", "runtime.backend=reference"])
    make = run.neuron.factory(run)
    assert isinstance(make(), LIF) and make(v_threshold=0.25).v_threshold.item() == pytest.approx(0.25)
