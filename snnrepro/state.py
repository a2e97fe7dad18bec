"""What a network must hold to compute anything: asked of every state that comes from a file."""

from collections.abc import Mapping

from torch import Tensor, nn

from snnrepro.neurons import spiking_layers
from snnrepro.neurons.reparam import THRESHOLD_MAPS, inverse_sigmoid


def unusable(state: Mapping[str, Tensor], model: nn.Module) -> str | None:
    """Returns in words the first tensor of ``state``, which fits ``model``, that no training leaves behind, or None.

    That is: a value that is not finite, a negative running variance, a threshold of 0, a time constant that is not
    above 1.
    """
    for name, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            return f"{name}: holds values that are not finite"
        if name.endswith("running_var") and (tensor < 0).any():
            return f"{name}: a variance of {tensor.min().item():g} is negative"
    for name, layer in spiking_layers(model):
        if f"{name}.v_threshold_raw" not in state:
            # Of another kind than LIF.
            continue
        raw, tau_raw = state[f"{name}.v_threshold_raw"], state[f"{name}.tau_raw"]
        v_threshold, tau = THRESHOLD_MAPS[layer.threshold_map].of_tensor(raw), inverse_sigmoid(tau_raw)
        if v_threshold == 0 or not v_threshold.isfinite():
            return f"{name}.v_threshold_raw: {raw.item():g} is a threshold of {v_threshold.item():g}"
        # In double precision, whose exponential is 0 only far from where training goes.
        if not tau.isfinite() or tau_raw.double().neg().exp() == 0:
            return f"{name}.tau_raw: {tau_raw.item():g} is a time constant of {tau.item():g}, not above 1"
    return None
