"""From a ``RunConfig`` to objects: the only code below the command line that asks a configuration what to build."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from snnrepro.config import RunConfig
from snnrepro.data.sets import Data
from snnrepro.layers import SequenceDropout
from snnrepro.models.parts import Parts
from snnrepro.neurons import spiking_layers
from snnrepro.tasks.penalties import FiringRate, Penalties
from snnrepro.tasks.task import Task


def build_model(
    run: RunConfig, *, in_shape: Sequence[int], num_classes: int, mean_over_time: bool = False
) -> nn.Module:
    """Returns the network on the CPU: images (B, C, H, W) or frames (T, B, C, H, W) to logits (T, B, classes)."""
    parts = Parts(
        in_shape=in_shape,
        num_classes=num_classes,
        timesteps=run.timesteps,
        mean_over_time=mean_over_time,
        make_neuron=run.neuron.factory(run),
        make_norm=run.norm.factory(run),
        make_dropout=partial(SequenceDropout, run.model.dropout, run.model.dropout_per_step),
    )
    return settled(run.model.build(parts), in_shape)


def settled(model: nn.Module, in_shape: Sequence[int]) -> nn.Module:
    """Returns ``model`` and makes the parameters that have the shape of a layer's input, by a black image."""
    unsettled = [layer for _, layer in spiking_layers(model) if layer.unsettled]
    handles = [layer.register_forward_pre_hook(lambda layer, inputs: layer.settle(inputs[0])) for layer in unsettled]
    if handles:
        was_training = model.training
        with torch.no_grad():
            model.eval()(torch.zeros(1, *in_shape))
        model.train(was_training)
    for handle in handles:
        handle.remove()
    return model


def build_task(run: RunConfig) -> Task:
    """Returns what the network learns: the loss, predictions and metrics of batches."""
    return run.task.build(run)


def build_penalties(run: RunConfig) -> Penalties:
    """Returns what training adds to the loss for the inside of the spiking layers; no terms in the default run."""
    terms, sparsity = run.loss.penalties(), run.loss.sparsity
    if sparsity.weight > 0:
        terms.append(FiringRate(sparsity.weight, sparsity.target if sparsity.kind == "target" else None))
    return Penalties(terms)


def build_dataset(run: RunConfig) -> Data:
    """Returns train and test sets. Raises DataError when files are missing or damaged."""
    return run.augment.applied(run.dataset.load(seed=run.seed, timesteps=run.timesteps), run.seed)
