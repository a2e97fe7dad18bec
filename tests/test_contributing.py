"""CONTRIBUTING's examples: a neuron, norm, dataset and network in new files only, from their words to the record."""

import importlib
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from faults.test_resume import StopAfter

from snnrepro import registry
from snnrepro.analysis.run import analyse
from snnrepro.cli import main
from snnrepro.command_line import read
from snnrepro.compose import compose_run
from snnrepro.config import GROUPS
from snnrepro.errors import ConfigError, Stopped
from snnrepro.neurons import LIF
from snnrepro.overrides import parse
from snnrepro.registry import register
from snnrepro.report import select, tables
from snnrepro.report.document import document
from snnrepro.report.render import markdown
from snnrepro.runs import read_record, run_path
from snnrepro.sweep import expand
from snnrepro.train import loop
from snnrepro.train.loop import Trainer, train

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
    assert {Path(name).parent.name for name in FILES} == {"", "norm", "neuron", "dataset", "model", "task", "loss"}
    assert len(FILES) == 14


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


@pytest.fixture
def learn_numbers(words):
    """Words of a small network that learns which digit an image shows, as a number."""
    kept = [word for word in words if not word.startswith(("dataset=", "norm=", "neuron="))]
    small = ["model.stem_width=8", "model.widths=[8,8,8]", "model.blocks=[1,1,1]", "epochs=4", "optimizer.lr=0.01"]
    return [*kept, "dataset=digits", "task=number", *small]


@pytest.mark.advice("analyses know LIF layers that classify; name runs of these")
def test_another_task_trains_resumes_evaluates_and_sweeps(learn_numbers, capsys, monkeypatch):
    assert main(["train", *learn_numbers]) == 0
    out = capsys.readouterr().out
    run = compose_run(read(learn_numbers).overrides)
    record, lines = read_record(run_path(run)), (run_path(run) / "metrics.jsonl").read_text().splitlines()
    final, best = record["final"], record["best"]
    assert set(final) == {"epoch", "loss", "rmse", "rmse_per_timestep", "firing_rate", "firing_rate_mean"}
    # The digits have a standard deviation of 2.9.
    assert final["rmse"] == final["rmse_per_timestep"][-1] < 2.5
    assert final["rmse"] == pytest.approx(final["loss"] ** 0.5, rel=1e-5)
    assert best["rmse"] == min(json.loads(line)["rmse"] for line in lines), "less is better"
    assert f"error {final['rmse']:.2f} digits on digits" in out and "train error" in out
    assert main(["train", *learn_numbers]) == 0 and "finished before" in capsys.readouterr().out
    place = f"runtime.output_dir={run.runtime.output_dir}"
    assert main(["evaluate", f"run={run_path(run).name}", "timesteps=1,4", place]) == 0
    assert "equal" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"task\.name=number: analyses know LIF layers that classify"):
        analyse(run_path(run))
    # Stopped in the middle and resumed it ends where it ended.
    shutil.rmtree(run_path(run))
    monkeypatch.setattr(loop, "StopRequest", StopAfter)
    StopAfter.after, StopAfter.trainer = 70, Trainer(run, run_path(run))
    with pytest.raises(Stopped):
        StopAfter.trainer.fit()
    monkeypatch.undo()
    assert train(run)["final"] == final


def test_another_task_fills_a_grid_and_a_table(learn_numbers, tmp_path, capsys, monkeypatch):
    assert main(["train", "-m", *learn_numbers, "epochs=1", "neuron.v_threshold=0.5,1"]) == 0
    out = capsys.readouterr().out
    assert "error digits on the test split" in out
    scale = {"data": "digits", "precision": "fp32", "epoch": "best", "run": [], "cost": "seconds"}
    spec = {
        "title": "Numbers",
        "scales": dict.fromkeys(("mini", "paper"), scale),
        "seeds": [0],
        "metric": "final.rmse",
        "row_labels": ["V_thr"],
        "rows": [{"label": [value], "run": [f"neuron.v_threshold={value}"], "paper": [1.0]} for value in ("0.5", "1")],
    }
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "table01.yaml").write_text(yaml.safe_dump(spec))
    monkeypatch.setattr(tables, "FOLDER", tmp_path / "tables")
    extra = read([*learn_numbers, "epochs=1"]).overrides
    cells = select.expand(tables.load("table1"), "mini", extra)
    text = markdown(document(tables.load("table1"), "mini", cells, extra))
    for (job,) in (cell.jobs.values() for cell in cells):
        error = read_record(job.path)["final"]["rmse"]
        assert f"error {error:.2f} digits," in out and f" {error:.4g} " in text
    assert "percent" not in text


@pytest.mark.advice("use loss={}")
@pytest.mark.advice("has none; use augment=crop_flip")
def test_a_loss_of_another_task_is_refused(learn_numbers):
    with pytest.raises(ConfigError, match=r"loss=ce: learns classes, and task=number numbers; use loss=squared$"):
        compose_run(read([*learn_numbers, "loss=ce"]).overrides)
    assert compose_run(read([*learn_numbers, "loss=squared"]).overrides).loss.name == "squared"
    with pytest.raises(ConfigError, match=r"loss=squared: learns numbers, and .* classes; use loss=ce or"):
        compose_run(read([*learn_numbers, "task=classification", "loss=squared"]).overrides)
    with pytest.raises(
        ConfigError, match="augment=timm: mixes classes, and task=number has none; use augment=crop_flip"
    ):
        compose_run(read([*learn_numbers, "augment=timm"]).overrides)
    assert compose_run(read([*learn_numbers, "augment=crop_flip"]).overrides).augment.name == "crop_flip"


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
