"""What a network must hold to compute anything: asked of every state that comes from a file."""

import torch
from torch import Tensor, nn

from snnrepro.neurons import spiking_layers


def unusable(model: nn.Module) -> str | None:
    """Returns in words the first tensor of ``model`` that no training leaves behind, or None.

    That is: a value that is not finite, a negative running variance, a threshold of 0, a time constant that is not
    above 1.
    """
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            return f"{name}: holds values that are not finite"
        if name.endswith("running_var") and (tensor < 0).any():
            return f"{name}: a variance of {tensor.min().item():g} is negative"
    for name, layer in spiking_layers(model):
        raw, v_threshold = layer.v_threshold_raw.item(), layer.v_threshold.item()
        if v_threshold == 0 or not _finite(layer.v_threshold):
            return f"{name}.v_threshold_raw: {raw:g} is a threshold of {v_threshold:g}"
        # In double precision, whose exponential is 0 only far from where training goes.
        if not _finite(layer.tau) or layer.tau_raw.double().neg().exp() == 0:
            return f"{name}.tau_raw: {layer.tau_raw.item():g} is a time constant of {layer.tau.item():g}, not above 1"
    return None


def _finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value))
