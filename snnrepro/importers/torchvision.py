"""Weights of torchvision's ResNet-34 for our spiking ones, which share its convolutions, norms and classifier.

Thresholds, time constants and running means have no counterpart and stay as the network has them.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from snnrepro.importers.foreign import load_checked, tensors_of
from snnrepro.importers.translate import renamed, require_fit

_NAMES = [
    (r"conv1\.weight", "stem.conv.weight"),
    (r"bn1\.(\w+)", r"stem.norm.\1"),
    (r"(layer\d\.\d+)\.conv(\d)\.weight", r"\1.conv\2.weight"),
    (r"(layer\d\.\d+)\.bn(\d)\.(\w+)", r"\1.norm\2.\3"),
    (r"(layer\d\.\d+)\.downsample\.0\.weight", r"\1.shortcut_conv.weight"),
    (r"(layer\d\.\d+)\.downsample\.1\.(\w+)", r"\1.shortcut_norm.\2"),
    (r"fc\.(\w+)", r"head.fc.\1"),
]
_OF_NEURONS = ("v_threshold_raw", "tau_raw", "u_init")


def convert_torchvision(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns torchvision's ``resnet34`` state under our names. Raises StorageError naming a foreign key."""
    return renamed(tensors_of(state), _NAMES, "torchvision's ResNet-34")


def load_torchvision(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Loads torchvision's ``resnet34`` ``state`` into a ``ResNet34`` and leaves its neurons alone.

    Raises StorageError naming the first parameter that is missing, unknown, of another shape or without sense.
    """
    converted = convert_torchvision(state)
    require_fit(converted, model, _OF_NEURONS)
    load_checked(model, converted)
