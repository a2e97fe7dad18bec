"""Evaluation counts every sample once, at every timestep, and counts spikes."""

import math

import numpy as np
import pytest
import torch

from snnrepro.build import build_dataset, build_model, build_task
from snnrepro.cli import main
from snnrepro.compose import compose_run
from snnrepro.data.images import ImageSet
from snnrepro.errors import DataError, DivergedError
from snnrepro.neurons import spiking_layers
from snnrepro.runs import read_record, run_path
from snnrepro.train.evaluation import evaluate
from snnrepro.train.loop import Trainer


@pytest.fixture
def parts(tiny):
    run = compose_run([*tiny, "timesteps=3"])
    torch.manual_seed(0)
    data = build_dataset(run)
    model = build_model(run, in_shape=data.in_shape, num_classes=data.num_classes)
    # Statistics and running means of a few training passes, so that layers fire.
    for _ in range(3):
        model(data.train.normalise(data.train.images[:64]))
    return model, data.test, build_task(run)


def call(parts, batch_size=16, timesteps=3, workers=0):
    model, test, loss = parts
    runtime = compose_run([f"runtime.eval_batch_size={batch_size}", f"runtime.workers={workers}"]).runtime
    return evaluate(model, test, loss, timesteps=timesteps, device=torch.device("cpu"), runtime=runtime)


def test_equals_a_plain_restatement(parts):
    model, test, _ = parts
    result = call(parts)
    model.eval()
    with torch.no_grad():
        logits = model(test.normalise(test.images), 3).double()
    for t in (1, 2, 3):
        expected = 100 * (logits[:t].mean(0).argmax(-1) == test.labels).double().mean().item()
        assert result["top1_per_timestep"][t - 1] == pytest.approx(expected)
    ranks = (logits.mean(0) > logits.mean(0).gather(1, test.labels[:, None])).sum(1)
    assert result["top5"] == pytest.approx(100 * (ranks < 5).double().mean().item())
    loss = torch.nn.functional.cross_entropy(logits.mean(0), test.labels)
    assert result["loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_firing_rates_equal_a_recorded_layer(parts):
    model, test, _ = parts
    result = call(parts, batch_size=len(parts[1]))
    outputs = {}
    for name, layer in spiking_layers(model):
        layer.register_forward_hook(lambda _m, _i, o, name=name: outputs.update({name: o}))
    model.eval()
    with torch.no_grad():
        model(test.normalise(test.images), 3)
    assert set(outputs) == set(result["firing_rate"])
    for name, o in outputs.items():
        expected = (o != 0).double().flatten(1).mean(1)
        assert torch.tensor(result["firing_rate"][name], dtype=torch.float64) == pytest.approx(expected, abs=1e-6)
    assert max(outputs["sn1"].flatten()) > 0, "a silent network would prove nothing"


@pytest.mark.parametrize("batch_size, workers", [(1, 0), (7, 0), (40, 0), (16, 2)])
def test_batching_and_workers_do_not_change_counts(parts, batch_size, workers):
    reference, result = call(parts), call(parts, batch_size=batch_size, workers=workers)
    assert result["top1_per_timestep"] == reference["top1_per_timestep"]
    assert result["top5"] == reference["top5"]


def test_earlier_timesteps_do_not_depend_on_how_many_follow(parts):
    assert call(parts, timesteps=5)["top1_per_timestep"][:3] == call(parts)["top1_per_timestep"]


def test_evaluation_leaves_the_running_means_and_hooks_alone(parts):
    model = parts[0]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    call(parts)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(layer._forward_hooks for _, layer in spiking_layers(model))


@pytest.mark.advice("check what it was read from")
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("batch_size", [1, 7, 40])
def test_a_sample_that_is_not_finite_is_named_and_no_prediction(parts, bad, batch_size):
    test = parts[1]
    test.images = test.images.float()
    for index in (31, 17):
        test.images[index, 0, 2, 5] = bad
        with pytest.raises(DataError, match=f"dataset=synthetic: test set, sample {index}: pixels that are not finite"):
            call(parts, batch_size)
    # What the message names is all that was wrong.
    for index in (31, 17):
        test.images[index, 0, 2, 5] = 0
    assert call(parts, batch_size)["loss"] > 0


def test_frames_that_are_not_finite_are_named_by_their_recording(parts):
    model, test, loss = parts
    frames = test.images[:, None].repeat(1, 3, 1, 1, 1).half()
    rows = np.arange(5, 25)
    frames[20, 2, 0, 1, 1] = math.nan
    whole = ImageSet("events", frames, test.labels[rows], mean=test.mean, std=test.std, rows=rows)
    with pytest.raises(DataError, match="dataset=events: test set, recording 20: "):
        call((model, whole, loss), 8)
    frames[20] = 0
    assert call((model, whole, loss), 8)["loss"] > 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("loss", ["ce", "tet", "lts"])
def test_logits_that_are_not_finite_are_no_prediction(parts, bad, loss):
    model, test, _ = parts

    def poison(_module, _inputs, logits):
        if len(logits[0]) == 5:
            logits[1, 3, 4] = bad

    model.register_forward_hook(poison)
    parts = model, test, build_task(compose_run([f"loss={loss}"]))
    call(parts, 8)
    with pytest.raises(DivergedError, match=r"logits of a finite input are not finite: .*, test set, sample 38"):
        call(parts, 7)


@pytest.fixture
def finished(tiny, capsys):
    assert main(["train", *tiny, "epochs=1"]) == 0
    capsys.readouterr()
    return run_path(compose_run([*tiny, "epochs=1"]))


def test_evaluating_bad_data_and_bad_weights_is_one_line(finished, tiny, monkeypatch, capsys):
    words = ["evaluate", f"run={finished.name}", f"runtime.output_dir={finished.parent.parent}"]
    normalise = ImageSet.normalise
    with monkeypatch.context() as patch:
        patch.setattr(ImageSet, "normalise", lambda self, images: normalise(self, images) * math.nan)
        assert main(words) == DataError.exit_code
    out, err = capsys.readouterr()
    assert "test set, sample 0" in err and err.count("\n") == 1 and "top-1" not in out
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Linear, "forward", lambda self, x: x.new_full((*x.shape[:-1], 10), math.inf))
        assert main(words) == DivergedError.exit_code
    out, err = capsys.readouterr()
    assert "logits" in err and err.count("\n") == 1 and "top-1" not in out


def test_bad_test_data_ends_a_run_as_an_error_of_data_and_bad_logits_as_diverged(tiny, monkeypatch):
    def train(change):
        run = compose_run([*tiny, "epochs=1"])
        trainer = Trainer(run, run_path(run))
        change(trainer)
        return trainer.fit(), trainer

    def spoil_data(trainer):
        trainer.data.test.images = trainer.data.test.images.float()
        trainer.data.test.images[3] = math.nan

    def spoil_logits(trainer):
        trainer.model.register_forward_hook(lambda model, _, z: z if model.training else z * math.nan)

    with pytest.raises(DataError, match="test set, sample 3"):
        train(spoil_data)
    assert read_record(run_path(compose_run([*tiny, "epochs=1"]))) is None
    record, _ = train(spoil_logits)
    assert record["status"] == "diverged" and "logits" in record["diverged"]["message"]
