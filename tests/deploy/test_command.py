"""``evaluate.py run=ID absorb=true``: the absorbed network of a trained run, on its test data."""

import json

import pytest
import torch

from snnrepro import deploy
from snnrepro.build import build_dataset
from snnrepro.cli import main
from snnrepro.compose import compose_run
from snnrepro.deploy import absorb, load_absorbed
from snnrepro.norms import TdBN
from snnrepro.runs import run_path

WORDS = ["model.blocks=[2,1,1]", "model.widths=[8,8,8]", "model.stem_width=8", "epochs=3", "runtime.threads=1",
         "runtime.backend=reference", "neuron.v_threshold=0.7"]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Returns the folder of a short run on digits."""
    words = [*WORDS, f"runtime.output_dir={tmp_path_factory.mktemp('outputs')}"]
    assert main(["train", *words]) == 0
    return run_path(compose_run(words))


def evaluate(capsys, path, *words):
    capsys.readouterr()
    code = main(["evaluate", f"run={path.name}", f"runtime.output_dir={path.parent.parent}", *words])
    return code, *capsys.readouterr()


@pytest.mark.slow
def test_accuracy_is_that_of_the_trained_network(trained, capsys):
    code, out, _ = evaluate(capsys, trained, "absorb=true", "timesteps=1,2,4")
    assert code == 0 and "all exact" in out and "layer1.1.sn2" in out and "equal" in out and "DIFFERENT" not in out
    record = json.loads((trained / "record.json").read_text())
    assert record["final"]["top1"] > 40, "an untrained network would prove little"
    for t in (1, 2, 4):
        assert f"timesteps={t}: top-1 {record['final']['top1_per_timestep'][t - 1]:.4f} %" in out
    thresholds = {layer["v_threshold"] for layer in record["learned"].values()}
    assert len(thresholds) > 1, "the thresholds must have moved apart"
    network = load_absorbed(trained / "absorbed")
    data = build_dataset(compose_run(WORDS)).test
    top1 = 100 * (network(data.normalise(data.images)).mean(0).argmax(-1) == data.labels).double().mean().item()
    assert top1 == pytest.approx(record["final"]["top1"])
    origin = json.loads((trained / "absorbed" / "network.json").read_text())["network"]["origin"]
    assert origin["run"] == trained.name and (trained / "checkpoints" / origin["checkpoint"]).exists()


@pytest.mark.slow
def test_control_accuracy_of_a_wrong_absorption_differs(trained, capsys, monkeypatch):
    def wrong(model):
        network = absorb(model)
        for step in network.steps:
            if step.kind == "affine":
                network.operations.get_submodule(step.name).scale.mul_(3)
        return network

    monkeypatch.setattr(deploy, "absorb", wrong)
    _, out, _ = evaluate(capsys, trained, "absorb=true")
    assert "DIFFERENT" in out


@pytest.mark.slow
def test_refusal_is_one_line(trained, capsys, monkeypatch):
    monkeypatch.delattr(TdBN, "eval_affine")
    code, _, err = evaluate(capsys, trained, "absorb=true")
    assert code == 1 and err == "error: stem.norm: TdBN has no eval_affine\n"


def test_the_word_is_checked(capsys):
    assert main(["evaluate", "run=x", "absorb=yes"]) == 2
    assert capsys.readouterr().err == "error: absorb=yes: must be true or false\n"
    assert main(["evaluate", "--help"]) == 0
    assert "absorb=true" in capsys.readouterr().out


def test_absorbed_network_runs_under_autocast(make_resnet19, generic):
    network = absorb(generic(make_resnet19((3, 12, 12), 5, stem_width=4, widths=(4, 4, 4), blocks=(1, 1, 1))).float())
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(torch.randn(2, 3, 12, 12), 2)
    assert logits.shape == (2, 2, 5) and logits.isfinite().all()
