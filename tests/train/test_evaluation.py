"""Evaluation counts every sample once, at every timestep, and counts spikes."""

import pytest
import torch

from snnrepro.build import build_dataset, build_loss, build_model
from snnrepro.compose import compose_run
from snnrepro.neurons import spiking_layers
from snnrepro.train.evaluation import evaluate


@pytest.fixture
def parts(tiny):
    run = compose_run([*tiny, "timesteps=3"])
    torch.manual_seed(0)
    data = build_dataset(run)
    model = build_model(run, in_shape=data.in_shape, num_classes=data.num_classes)
    # Statistics and running means of a few training passes, so that layers fire.
    for _ in range(3):
        model(data.train.normalise(data.train.images[:64]))
    return model, data.test, build_loss(run)


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
