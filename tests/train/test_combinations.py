"""Every norm with and without MP-Init, two neurons, two losses: trains, resumes, evaluates."""

import itertools
import math

import pytest

from snnrepro.cli import main
from snnrepro.compose import compose_run
from snnrepro.errors import Stopped
from snnrepro.identity import run_id
from snnrepro.registry import options
from snnrepro.report.select import expand
from snnrepro.report.tables import load
from snnrepro.runs import read_record, run_path
from snnrepro.train import loop
from snnrepro.train.loop import Trainer

COMBINATIONS = list(itertools.product(options("norm"), ("true", "false"), ("lif", "trsg"), ("ce", "tet")))


class StopAtOnce:
    """A signal that arrives before the first step."""

    signal = "SIGTERM"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "mp_init", "neuron", "loss"), COMBINATIONS)
def test_combination(norm, mp_init, neuron, loss, tiny, capsys, monkeypatch):
    words = [*tiny, f"norm={norm}", f"neuron={neuron}", f"neuron.mp_init.enabled={mp_init}", f"loss={loss}"]
    run = compose_run(words)
    with monkeypatch.context() as patch, pytest.raises(Stopped, match="after step 1 "):
        patch.setattr(loop, "StopRequest", StopAtOnce)
        Trainer(run, run_path(run)).fit()
    assert main(["train", *words]) == 0
    assert "resuming at epoch 1, batch 1" in capsys.readouterr().out
    record = read_record(run_path(run))
    assert record["status"] == "done" and math.isfinite(record["final"]["loss"])
    moved = [layer["u_init"] != 0 for layer in record["learned"].values()]
    assert all(moved) if mp_init == "true" else not any(moved)
    out_dir = next(word for word in words if word.startswith("runtime.output_dir"))
    assert main(["evaluate", f"run={run_id(run)}", out_dir]) == 0
    assert ", equal" in capsys.readouterr().out


@pytest.mark.parametrize("data", ["cifar100", "dvs"])
def test_rows_of_table_1_are_the_named_experiments(data):
    names = [f"table1/{data}_{norm}{mp}" for norm in ("tdbn", "tebn", "tab") for mp in ("", "_mpinit")]
    cells = expand(load("table1"), "paper", [])
    cells = cells[:6] if data == "cifar100" else cells[6:]
    for name, cell in zip(names, cells, strict=True):
        assert run_id(compose_run([f"experiment={name}"])) == next(iter(cell.jobs)), name
