"""From a ``RunConfig`` to objects: the only code below the command line that unpacks a configuration."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from torch import nn

from snnrepro import losses
from snnrepro.config import RunConfig
from snnrepro.data import Data, build_data
from snnrepro.layers import SequenceDropout
from snnrepro.losses import Loss
from snnrepro.models.cnn7 import CNN7
from snnrepro.models.resnet19 import ResNet19
from snnrepro.models.resnet34 import ResNet34
from snnrepro.neurons import LIF, spiking_layers
from snnrepro.norms import MembraneNorm, make_tdbn
from snnrepro.penalties import FiringRate, MembraneDistance, Penalties, Penalty
from snnrepro.runtime import resolve_backend
from snnrepro.temporal_norms import BNTT, TAB, TEBN


def neuron_factory(run: RunConfig) -> Callable[[], LIF]:
    """Returns ``make_neuron() -> LIF``: every call gives a layer with scalars and a running mean of its own."""
    membrane_norm = partial(MembraneNorm, eps=run.norm.eps, momentum=run.norm.momentum)
    return partial(
        LIF,
        family=run.neuron.family,
        surrogate=run.surrogate.name,
        gamma=run.surrogate.gamma,
        reset=run.neuron.reset,
        detach_reset=run.neuron.detach_reset,
        v_threshold=run.neuron.v_threshold,
        tau=run.neuron.tau,
        learn_threshold=run.neuron.learn_threshold,
        learn_tau=run.neuron.learn_tau,
        mp_init=run.neuron.mp_init.enabled,
        beta=run.neuron.mp_init.beta,
        backend=resolve_backend(run.runtime.backend, run.runtime.device),
        threshold_map=run.neuron.threshold_map,
        input_scale=run.neuron.input_scale,
        learn_u_init=run.neuron.learn_u_init,
        smoothing=run.neuron.smoothing,
        membrane_norm=membrane_norm if run.norm.name == "mpbn" else None,
    )


def norm_factory(run: RunConfig) -> Callable[..., nn.Module]:
    """Returns ``make_norm(channels, residual=...) -> norm`` for sequences (T, B, C, H, W)."""
    norm = run.norm
    if norm.name not in ("tdbn", "mpbn"):
        kinds: dict[str, Callable[..., nn.Module]] = {
            "tebn": TEBN,
            "bntt": BNTT,
            "tab": partial(TAB, share_affine=bool(norm.share_affine)),
        }
        make = partial(kinds[norm.name], timesteps=run.timesteps, eps=norm.eps, momentum=norm.momentum)
        # Only tdBN asks whether a residual sum follows.
        return lambda channels, residual: make(channels)
    # MPBN keeps the norm of the current, and adds one of the membrane: see ``neuron_factory``.
    return partial(
        make_tdbn,
        eps=norm.eps,
        momentum=norm.momentum,
        alpha_v_threshold=bool(norm.alpha_v_threshold),
        v_threshold=run.neuron.v_threshold,
        fused=resolve_backend(run.runtime.backend, run.runtime.device) != "reference",
    )


def build_model(
    run: RunConfig, *, in_shape: Sequence[int], num_classes: int, mean_over_time: bool = False
) -> nn.Module:
    """Returns the network on the CPU: images (B, C, H, W) or frames (T, B, C, H, W) to logits (T, B, classes)."""
    return settled(_network(run, in_shape, num_classes, mean_over_time), in_shape)


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


def _network(run: RunConfig, in_shape: Sequence[int], num_classes: int, mean_over_time: bool) -> nn.Module:
    model = run.model
    shared: dict[str, Any] = {
        "in_shape": in_shape,
        "num_classes": num_classes,
        "widths": model.widths,
        "make_dropout": partial(SequenceDropout, model.dropout, model.dropout_per_step),
        "timesteps": run.timesteps,
        "mean_over_time": mean_over_time,
        "make_neuron": neuron_factory(run),
        "make_norm": norm_factory(run),
    }
    if model.arch == "resnet19":
        own = {key: getattr(model, key) for key in ("stem_width", "blocks", "head", "hidden")}
        return ResNet19(**own, **shared)
    if model.arch == "cnn7":
        return CNN7(**{key: getattr(model, key) for key in ("hidden", "fc_spike")}, **shared)
    own = {key: getattr(model, key) for key in ("stem", "blocks", "connect")}
    return ResNet34(**own, tie_thresholds=bool(model.tie_thresholds), **shared)


def build_loss(run: RunConfig) -> Loss:
    """Returns ``loss(logits (T, B, classes), target (B,)) -> scalar`` and the ``readout`` that predicts with it."""
    loss = run.loss
    if loss.name == "tet":
        assert loss.tet_weight is not None and loss.tet_target is not None
        value = partial(losses.temporal_efficient_training, weight=loss.tet_weight, phi=loss.tet_target)
        return Loss(value, losses.running_mean)
    if loss.name == "mps":
        assert loss.mps_weight is not None and loss.mps_temperature is not None
        value = partial(losses.guided_cross_entropy, weight=loss.mps_weight, temperature=loss.mps_temperature)
        return Loss(value, losses.running_mean)
    if loss.name == "lts":
        return Loss(losses.last_step_cross_entropy, losses.last_step)
    return Loss(losses.mean_logit_cross_entropy, losses.running_mean)


def build_penalties(run: RunConfig) -> Penalties:
    """Returns what training adds to the loss for the inside of the spiking layers; no terms in the default run."""
    terms: list[Penalty] = []
    if run.loss.rmp_weight is not None:
        terms.append(MembraneDistance(run.loss.rmp_weight))
    sparsity = run.loss.sparsity
    if sparsity.weight > 0:
        terms.append(FiringRate(sparsity.weight, sparsity.target if sparsity.kind == "target" else None))
    return Penalties(terms)


def build_dataset(run: RunConfig) -> Data:
    """Returns train and test sets. Raises DataError when files are missing or damaged."""
    dataset = run.dataset
    options = {field.name: getattr(dataset, field.name) for field in fields(dataset)}
    return build_data(dataset.name, options, seed=run.seed, timesteps=run.timesteps)
