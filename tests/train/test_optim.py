"""Parameter groups, optimisers, learning rate."""

import math

import pytest
import torch

from snnrepro.build import build_model
from snnrepro.compose import compose_run
from snnrepro.train.optim import learning_rate, make_optimizer, parameter_groups


def model_and_config(*words):
    run = compose_run(list(words))
    return build_model(run, in_shape=(1, 8, 8), num_classes=10), run.optimizer


def test_every_parameter_is_in_exactly_one_group():
    model, config = model_and_config()
    grouped = [id(p) for group in parameter_groups(model, config) for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())


def test_neuron_scalars_have_their_own_decay():
    model, config = model_and_config("optimizer.neuron_weight_decay=0.25")
    groups = {g["name"]: g for g in parameter_groups(model, config)}
    names = {id(p): n for n, p in model.named_parameters()}
    assert {names[id(p)].rsplit(".", 1)[-1] for p in groups["neuron"]["params"]} == {"v_threshold_raw", "tau_raw"}
    assert groups["neuron"]["weight_decay"] == 0.25
    assert groups["weight"]["weight_decay"] == groups["norm_and_bias"]["weight_decay"] == 5e-4


def test_frozen_neurons_have_no_group():
    model, config = model_and_config("neuron=lif")
    assert [g["name"] for g in parameter_groups(model, config)] == ["weight", "norm_and_bias"]


def test_decay_of_norm_and_bias_can_be_switched_off():
    model, config = model_and_config("optimizer.decay_norm_and_bias=false")
    groups = {g["name"]: g["weight_decay"] for g in parameter_groups(model, config)}
    assert groups["norm_and_bias"] == 0 and groups["weight"] == 5e-4


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb"])
def test_optimisers_keep_the_groups_and_move_every_parameter(name):
    model, config = model_and_config(f"optimizer={name}")
    optimizer = make_optimizer(model, config)
    assert {g["name"]: g["weight_decay"] for g in optimizer.param_groups}["neuron"] == config.neuron_weight_decay
    before = [p.detach().clone() for p in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert all((a != b).any() for a, b in zip(before, model.parameters(), strict=True))


def test_sgd_step_equals_the_formula():
    model, config = model_and_config()
    optimizer = make_optimizer(model, config)
    weight = model.stem.conv.weight
    expected, velocity = weight.detach().double().clone(), torch.zeros_like(weight, dtype=torch.float64)
    for _ in range(3):
        weight.grad = torch.full_like(weight, 0.5)
        velocity = config.momentum * velocity + (0.5 + config.weight_decay * expected)
        expected = expected - config.lr * velocity
        optimizer.step()
    assert torch.allclose(weight.detach().double(), expected, atol=1e-6)


def test_cosine_starts_at_lr_and_would_end_at_zero():
    config = compose_run([]).optimizer
    rates = [learning_rate(epoch, 3, 7, 20, config) for epoch in range(20)]
    assert rates[0] == config.lr
    assert rates[10] == pytest.approx(config.lr / 2)
    assert learning_rate(20, 0, 7, 20, config) == pytest.approx(0)
    assert rates == sorted(rates, reverse=True)
    assert rates[5] == config.lr * 0.5 * (1 + math.cos(math.pi / 4))


def test_warm_up_and_constant():
    config = compose_run(["optimizer.warmup_epochs=4", "optimizer.schedule=constant", "optimizer.lr=1"]).optimizer
    assert [learning_rate(epoch, 3, 7, 20, config) for epoch in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
