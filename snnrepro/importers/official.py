"""Checkpoints of the authors' released ResNet-19 (github.com/kookhh0827/SNN-MP-Init-TRSG) for our ``ResNet19``.

The released neurons hold the same raw parameters: ``w`` (tau = 1/sigmoid(w)) and ``thr``, or ``z`` in the CuPy file
(V_thr = softplus). ``thr`` belongs to a neuron that emits V*S (trsg, soft reset), ``z`` to one that emits S (rs_sg).
The running mean is a plain attribute there, so no checkpoint holds it.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from snnrepro.errors import ConfigError
from snnrepro.importers.foreign import load_checked, tensors_of
from snnrepro.importers.translate import renamed, require_fit
from snnrepro.neurons import spiking_layers

# SpikingJelly's container named its parts module.0, module.1 (one part: module); newer versions name them 0, 1.
_FIRST, _SECOND = r"(?:module\.)?0", r"(?:module\.)?1"
_BLOCK = r"(layer\d+\.\d+)"
_NAMES = [
    (r"conv1\.weight", "stem.conv.weight"),
    (r"bn1\.(\w+)", r"stem.norm.\1"),
    (rf"{_BLOCK}\.conv(\d)\.{_FIRST}\.weight", r"\1.conv\2.weight"),
    (rf"{_BLOCK}\.conv(\d)\.{_SECOND}\.(\w+)", r"\1.norm\2.\3"),
    (rf"{_BLOCK}\.shortcut\.{_FIRST}\.weight", r"\1.shortcut_conv.weight"),
    (rf"{_BLOCK}\.shortcut\.{_SECOND}\.(\w+)", r"\1.shortcut_norm.\2"),
    (r"fc1\.(?:module\.0|module|0)\.(\w+)", r"head.fc.\1"),
    (r"((?:layer\d+\.\d+\.)?sn\d)\.w", r"\1.tau_raw"),
    (r"((?:layer\d+\.\d+\.)?sn\d)\.(?:thr|z)", r"\1.v_threshold_raw"),
]


def convert_official(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns the released network's state under our names, with ``u_init`` 0 in every spiking layer.

    Takes both released formats: the plain state, and the dictionary that has it under ``state_dict``. Raises
    StorageError naming a key that is not of that network.
    """
    names = [(f"(?:module\\.)?{pattern}", ours) for pattern, ours in _NAMES]
    converted = renamed(tensors_of(state), names, "the released ResNet-19")
    for name, tensor in converted.items():
        # The scalars of a neuron are 0-d here, whatever shape of one element they were saved with.
        if name.endswith("_raw") and tensor.numel() == 1:
            converted[name] = tensor.reshape(())
    for name in [name for name in converted if name.endswith(".tau_raw")]:
        converted[name.replace("tau_raw", "u_init")] = torch.zeros(())
    return converted


def load_official(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Loads the released network's ``state`` into a ``ResNet19`` with ``head=official``; warns in one line.

    Raises ConfigError where the network's neurons are not those of the checkpoint, and StorageError naming the first
    parameter that is missing, unknown, of another shape or without sense.
    """
    family = "rs_sg" if any(name.endswith(".z") for name in tensors_of(state)) else "trsg"
    for name, layer in spiking_layers(model):
        if layer.family != family:
            raise ConfigError(f"{name}: family={layer.family}, the checkpoint's neurons are {family}: neuron={family}")
        if family == "trsg" and layer.reset != "soft":
            raise ConfigError(f"{name}: the checkpoint's neurons reset softly: neuron.reset=soft")
    converted = convert_official(state)
    require_fit(converted, model)
    load_checked(model, converted)
    print(
        "warning: the checkpoint holds no running means: every u_init is 0; "
        "fill them from training data: recalibrate=BATCHES"
    )
