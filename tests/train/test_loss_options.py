"""Every loss in the trainer: what it adds, when, what it logs, and which logits predict."""

import json
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from snnrepro.cli import main
from snnrepro.compose import compose_run
from snnrepro.neurons import spiking_layers
from snnrepro.runs import read_record, run_path
from snnrepro.tasks.losses import running_mean
from snnrepro.tasks.penalties import Penalties
from snnrepro.train.loop import Trainer, train


def trainer(words):
    run = compose_run(words)
    return Trainer(run, run_path(run))


def steps(t, count=3):
    """Trains ``count`` steps; returns what they returned and the weights after them."""
    t.model.train()
    images, labels = t.data.train.images, t.data.train.labels
    returned = [t.train_step((images[i : i + 32], labels[i : i + 32])) for i in range(0, 32 * count, 32)]
    return returned, [p.detach().clone() for p in t.model.parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("neuron", ["lif", "trsg"])
def test_weight_0_leaves_training_bit_identical(neuron, tiny, monkeypatch):
    words = [*tiny, f"neuron={neuron}"]
    off = trainer([*words, "loss.sparsity.weight=0"])
    hooked = []
    off.model.sn1.register_forward_hook(lambda *_: hooked.append(len(off.model.layer1[0].sn1._forward_hooks)))
    weights = steps(off)[1]
    assert hooked == [0, 0, 0]
    with monkeypatch.context() as patch:
        # A trainer that knows no penalties.
        patch.setattr(Penalties, "observing", lambda self, model: torch.autograd.set_grad_enabled(True))
        patch.setattr(Penalties, "added_to", lambda self, loss, measured, progress: (loss, {}))
        assert same(steps(trainer(words))[1], weights)
    assert not same(steps(trainer([*words, "loss.sparsity.weight=1e-3"]))[1], weights), "control"


@pytest.mark.parametrize("loss", ["ce", "tet", "lts", "rmp", "mps"])
def test_sparsity_composes_with_every_loss(loss, tiny):
    words = [*tiny, f"loss={loss}", "epochs=1"]
    plain, sparse = (trainer([*words, f"loss.sparsity.weight={weight}"]) for weight in (0, 0.5))
    plain, sparse = steps(plain, 1)[0][0], steps(sparse, 1)[0][0]
    assert sparse["loss"] == pytest.approx(plain["loss"] + 0.5 * sparse["firing_rate"], rel=1e-6)
    assert 0 < sparse["firing_rate"] < 1 and "firing_rate" not in plain


def test_the_weight_of_rmp_rises_linearly_over_the_epochs(tiny):
    words = [*tiny, "epochs=4"]
    task = steps(trainer([*words, "loss=ce"]), 1)[0][0]["loss"]
    for epoch in range(4):
        t = trainer([*words, "loss=rmp", "loss.rmp_weight=0.8"])
        t.epoch = epoch
        measured = steps(t, 1)[0][0]
        assert measured["loss"] == pytest.approx(task + 0.8 * (epoch + 1) / 4 * measured["rmp"], rel=1e-6)
        assert measured["rmp"] > 0.01, "a term of 0 would prove nothing"


def test_a_strong_penalty_lowers_the_rate_and_a_target_is_approached(tiny):
    words = [*tiny, "epochs=4", "neuron.v_threshold=0.5"]
    lowered = [*words, "loss.sparsity.weight=5"]
    raised = [*words, "loss.sparsity.weight=100", "loss.sparsity.kind=target", "loss.sparsity.target=0.5"]
    records = [train(compose_run(w)) for w in (words, lowered, raised)]
    free, low, high = (record["final"]["firing_rate_mean"]["by_neuron"] for record in records)
    assert low < free - 0.02 < free + 0.02 < high


def test_the_log_holds_the_rates_of_training_and_test(tiny):
    run = compose_run([*tiny, "loss=rmp", "loss.sparsity.weight=0.1"])
    record = train(run)
    lines = [json.loads(line) for line in (run_path(run) / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert 0 < line["train_firing_rate"] < 1 and line["train_rmp"] > 0
        assert set(line["firing_rate"]) == set(record["learned"])
        layers = [sum(rates) / len(rates) for rates in line["firing_rate"].values()]
        assert line["firing_rate_mean"]["by_layer"] == pytest.approx(sum(layers) / len(layers), rel=1e-5)
    plain = compose_run(tiny)
    train(plain)
    assert "train_firing_rate" not in (run_path(plain) / "metrics.jsonl").read_text()


def test_the_train_rate_is_the_mean_over_the_samples(tiny):
    t = trainer([*tiny, "epochs=1", "loss.sparsity.weight=0.1"])
    original, rates = t.train_step, []

    def step(batch):
        measured = original(batch)
        rates.append((measured["firing_rate"], len(batch[1])))
        return measured

    t.train_step = step
    t.fit()
    line = json.loads((t.path / "metrics.jsonl").read_text())
    expected = sum(rate * count for rate, count in rates) / sum(count for _, count in rates)
    assert line["train_firing_rate"] == pytest.approx(expected, rel=1e-9)


def test_the_last_step_alone_predicts_with_lts(tiny):
    t = trainer([*tiny, "timesteps=3", "loss=lts"])

    def change_mind(_model, _inputs, logits):
        """The same noise at every call: so small a network says the same at every step."""
        return logits + torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))

    t.model.register_forward_hook(change_mind)
    t.fit()
    t.model.eval()
    test = t.data.test
    with torch.no_grad():
        logits = t.model(test.normalise(test.images), 3)
    expected = [100 * (step.argmax(-1) == test.labels).double().mean().item() for step in logits]
    assert t.final["top1_per_timestep"] == pytest.approx(expected)
    averaged = [100 * (row.argmax(-1) == test.labels).double().mean().item() for row in running_mean(logits)]
    assert averaged != pytest.approx(expected), "control: the mean predicts something else"
    assert t.final["loss"] == pytest.approx(F.cross_entropy(logits[-1], test.labels).item(), rel=1e-5)


def test_the_logged_training_accuracy_is_the_share_of_the_epoch_in_percent(tiny):
    t = trainer([*tiny, "epochs=1"])
    original, correct = t.train_step, []

    def step(batch):
        measured = original(batch)
        correct.append(measured["correct"])
        return measured

    t.train_step = step
    t.fit()
    line = json.loads((t.path / "metrics.jsonl").read_text())
    assert line["train_top1"] == pytest.approx(100 * sum(correct) / len(t.data.train), rel=1e-12)


def test_the_training_accuracy_is_that_of_the_readout(tiny):
    words = [*tiny, "timesteps=3", "loss=lts"]
    correct = steps(trainer(words))[0]
    t = trainer(words)
    t.task.of_logits = replace(t.task.of_logits, readout=running_mean)
    others = [step["correct"] for step in steps(t)[0]]
    assert others != [step["correct"] for step in correct], "control: the mean predicts something else"
    t = trainer(words)
    kept = []
    t.model.register_forward_hook(lambda m, i, o: kept.append(o.detach()))
    returned = steps(t)[0]
    for step, measured in enumerate(returned):
        labels = t.data.train.labels[32 * step : 32 * step + 32]
        assert measured["correct"] == (kept[step][-1].argmax(-1) == labels).sum().item()


def test_evaluate_predicts_with_the_readout_of_the_run_at_other_timesteps(tiny, capsys):
    words = [*tiny, "timesteps=4", "loss=lts"]
    run = compose_run(words)
    logged = train(run)["final"]["top1_per_timestep"]
    output = run.runtime.output_dir
    assert main(["evaluate", f"run={run_path(run).name}", "timesteps=1,2,4", f"runtime.output_dir={output}"]) == 0
    text = capsys.readouterr().out
    for t in (1, 2, 4):
        assert f"timesteps={t}: top-1 {logged[t - 1]:.4f} %" in text
    assert "equal" in text
    assert read_record(run_path(run))["final"]["top1"] == logged[-1]


def test_every_layer_is_free_of_hooks_after_training(tiny):
    t = trainer([*tiny, "epochs=1", "loss=rmp", "loss.sparsity.weight=0.1"])
    t.fit()
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for _, layer in spiking_layers(t.model))
