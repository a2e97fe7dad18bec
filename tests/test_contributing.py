"""CONTRIBUTING's examples: a neuron, norm, dataset and network in new files only, from their words to the record."""

import importlib
import re
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from snnrepro import registry
from snnrepro.cli import main
from snnrepro.command_line import read
from snnrepro.compose import compose_run
from snnrepro.config import GROUPS
from snnrepro.errors import ConfigError
from snnrepro.neurons import LIF
from snnrepro.overrides import parse
from snnrepro.registry import register
from snnrepro.runs import read_record, run_path
from snnrepro.sweep import expand

BLOCK = re.compile(r"```(python|yaml)\n# (\S+)\n(.*?)```", re.S)
FILES = {name: text for _, name, text in BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text())}


@pytest.fixture
def words(tmp_path, monkeypatch):
    """The files of the text, registered for one test; words that choose all of its options."""
    before = {group: registry.options(group) for group in GROUPS}
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    modules = [Path(name).stem for name in FILES if name.endswith(".py")]
    for name in modules:
        importlib.import_module(name)
    chosen = ["dataset=stripes", "norm=shift", "neuron=halved", f"runtime.output_dir={tmp_path / 'outputs'}"]
    yield ["--config-dir", str(tmp_path), *chosen, "runtime.threads=1", "runtime.backend=reference"]
    for name in modules:
        del sys.modules[name]
    for group, known in before.items():
        registry._registered[group] = known


def test_the_text_has_an_example_of_each():
    assert {Path(name).parent.name for name in FILES} == {"", "norm", "neuron", "dataset", "model"}
    assert len(FILES) == 10


def test_a_run_of_new_options_trains_resumes_evaluates_and_sweeps(words, capsys):
    assert main(["train", *words]) == 0
    name = capsys.readouterr().out.split("done: ")[1].split()[0]
    assert name.startswith("stripes-one_layer-halved-s0-")
    place = next(word for word in words if word.startswith("runtime.output_dir="))
    folder = Path(place.partition("=")[2]) / "runs" / name
    record = read_record(folder)
    assert record["config"]["norm"] == {"name": "shift", "eps": 1e-5, "momentum": 0.1, "shift": 0.25}
    assert record["final"]["top1"] > 80 and record["learned"]["sn1"]["v_threshold"] == 0.25
    assert main(["train", *words]) == 0 and "finished before" in capsys.readouterr().out
    assert main(["evaluate", f"run={name}", place, "timesteps=1,2"]) == 0
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
    for word, says in {
        "norm.shfit=1": r"did you mean 'norm\.shift'",
        "norm.shift=2": r"norm\.shift=2\.0: must be a finite number",
        "neuron.tau=3": r"neuron\.kind=halved does not use it, lif would; leave it out",
        "model.widths=[4,4]": r"model\.arch=one_layer needs 1 widths",
    }.items():
        with pytest.raises(ConfigError, match=says):
            compose_run([*made, word])


def test_a_record_of_an_option_that_is_gone_is_one_line(words, capsys):
    assert main(["train", *words]) == 0
    name = capsys.readouterr().out.split("done: ")[1].split()[0]
    place = next(word for word in words if word.startswith("runtime.output_dir="))
    kept = registry._registered["neuron"].pop("halved")
    assert main(["evaluate", f"run={name}", place]) == 5
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "neuron.kind=halved: must be one of lif" in err
    registry._registered["neuron"]["halved"] = kept
    assert main(["evaluate", f"run={name}", place]) == 0


def test_a_name_belongs_to_one_class(words):
    shift, stripes = (registry.options(group)[name] for group, name in (("norm", "shift"), ("dataset", "stripes")))
    with pytest.raises(ConfigError, match=r"norm=shift: registered twice, by shift_options and stripes_options"):
        register("norm", "shift")(stripes)
    assert register("norm", "shift")(shift) is shift


def test_make_neuron_takes_changes():
    run = compose_run(["neuron=trsg", "runtime.backend=reference"])
    make = run.neuron.factory(run)
    assert isinstance(make(), LIF) and make(v_threshold=0.25).v_threshold.item() == pytest.approx(0.25)
