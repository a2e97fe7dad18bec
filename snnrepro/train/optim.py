"""Parameter groups by rule, the optimiser, and the learning rate as a function of epoch and step."""

import math
from typing import Any

import torch
from torch import nn

from snnrepro.config import OptimizerOption
from snnrepro.neurons import spiking_layers


def parameter_groups(model: nn.Module, config: OptimizerOption) -> list[dict[str, Any]]:
    """Returns the optimiser's groups, each with ``name`` and its own ``weight_decay``; empty ones left out.

    neuron: the scalars of spiking layers, decayed by ``neuron_weight_decay`` only. u_init: learned initial
    membranes, never decayed (as in the code of IMP). norm_and_bias: every other parameter with fewer than two
    dimensions. weight: the rest.
    """
    of_neurons = {id(p) for _, layer in spiking_layers(model) for p in layer.parameters(recurse=False)}
    groups: dict[str, list[nn.Parameter]] = {"weight": [], "norm_and_bias": [], "neuron": [], "u_init": []}
    for parameter in model.parameters():
        if id(parameter) in of_neurons:
            groups["u_init" if parameter.ndim else "neuron"].append(parameter)
        else:
            groups["weight" if parameter.ndim > 1 else "norm_and_bias"].append(parameter)
    decay = {
        "weight": config.weight_decay,
        "norm_and_bias": config.weight_decay if config.decay_norm_and_bias else 0.0,
        "neuron": config.neuron_weight_decay,
        "u_init": 0.0,
    }
    return [
        {"name": name, "params": parameters, "weight_decay": decay[name]}
        for name, parameters in groups.items()
        if parameters
    ]


def make_optimizer(model: nn.Module, config: OptimizerOption) -> torch.optim.Optimizer:
    """Returns the optimiser that ``config`` names, of the groups by rule."""
    return config.build(parameter_groups(model, config))


def learning_rate(epoch: int, batch: int, batches: int, epochs: int, config: OptimizerOption) -> float:
    """Returns the learning rate of a step: linear warm-up, then cosine to ``min_lr``, or constant.

    epoch, batch: from 0; batches: of an epoch. One value holds for an epoch, or with ``schedule_per=step`` for a step.
    """
    # In periods: epochs, or the steps that they have.
    per_epoch, now = (1, epoch) if config.schedule_per == "epoch" else (batches, epoch * batches + batch)
    warmup = config.warmup_epochs * per_epoch
    if now < warmup:
        return config.lr * (now + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    progress = (now - warmup) / (epochs * per_epoch - warmup)
    return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
