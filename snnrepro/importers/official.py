"""Checkpoints of the authors' released ResNet-19 (github.com/kookhh0827/SNN-MP-Init-TRSG) for our ``ResNet19``.

The released neurons hold the same raw parameters: ``w`` (tau = 1/sigmoid(w)) and ``thr``, or ``z`` in the CuPy file
(V_thr = softplus). ``thr`` belongs to a neuron that emits V*S (trsg, soft reset), ``z`` to one that emits S (rs_sg).
The running mean is a plain attribute there, so no checkpoint holds it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snnrepro.errors import ConfigError, StorageError
from snnrepro.importers.translate import rename, require_fit
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
    state = state.get("state_dict", state)
    converted: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = rename(key.removeprefix("module."), _NAMES, "the released ResNet-19")
        # The scalars of a neuron are 0-d here, whatever shape of one element they were saved with.
        scalar = name.endswith("_raw") and isinstance(tensor, Tensor) and tensor.numel() == 1
        converted[name] = tensor.reshape(()) if scalar else tensor
    for name in [name for name in converted if name.endswith(".tau_raw")]:
        converted[name.replace("tau_raw", "u_init")] = torch.zeros(())
    return converted


def read_official(file: Path) -> dict[str, Any]:
    """Returns what the released code saved in ``file``; nothing in it is executed. Raises StorageError."""
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise StorageError(f"{file}: cannot read: {error.strerror}") from None
    except Exception as error:
        # torch raises many types here; the first line says which content was refused.
        raise StorageError(f"{file}: refused: {str(error).strip().splitlines()[0]}") from None
    if not isinstance(state, Mapping):
        raise StorageError(f"{file}: holds a {type(state).__name__}, not a dictionary of tensors")
    return dict(state)


def load_official(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Loads the released network's ``state`` into a ``ResNet19`` with ``head=official``; warns in one line.

    Raises ConfigError where the network's neurons are not those of the checkpoint, and StorageError naming the first
    parameter that is missing, unknown or of another shape.
    """
    names = state.get("state_dict", state)
    family = "rs_sg" if any(name.endswith(".z") for name in names) else "trsg"
    for name, layer in spiking_layers(model):
        if layer.family != family:
            raise ConfigError(f"{name}: family={layer.family}, the checkpoint's neurons are {family}: neuron={family}")
        if family == "trsg" and layer.reset != "soft":
            raise ConfigError(f"{name}: the checkpoint's neurons reset softly: neuron.reset=soft")
    converted = convert_official(state)
    require_fit(converted, model)
    model.load_state_dict(converted)
    print(
        "warning: the checkpoint holds no running means: every u_init is 0; recalibrate on training data to fill them"
    )
