"""Fills the running means (MP-Init) of a network that was stored without them."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from snnrepro.neurons import spiking_layers


def recalibrate(model: nn.Module, batches: Iterable[Tensor], timesteps: int | None = None) -> int:
    """Moves every ``u_init`` by Algorithm 1 over forward passes of ``batches``; returns how many there were.

    Only the spiking layers are in training mode: weights, norm statistics and dropout stay as at inference.
    timesteps: as in the network's forward. Raises ValueError when no layer has MP-Init.
    """
    layers = [layer for _, layer in spiking_layers(model)]
    if not any(layer.mp_init for layer in layers):
        raise ValueError("no spiking layer has MP-Init; build the network with neuron.mp_init.enabled=true")
    modes = {module: module.training for module in model.modules()}
    model.eval()
    for layer in layers:
        layer.train()
    count = 0
    try:
        for images in batches:
            # The running means move only where gradients are enabled, as in training.
            with torch.enable_grad():
                model(images) if timesteps is None else model(images, timesteps)
            count += 1
    finally:
        for module, training in modes.items():
            module.training = training
    return count
