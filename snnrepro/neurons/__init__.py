"""LIF neurons: pure functions for the maths, one module that holds parameters and buffers.

The names are imported when they are asked for: an option module lies here, which must not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snnrepro.neurons.module import LIF, TrSG, spiking_layers
    from snnrepro.neurons.mp_init import MPInit, one_update

__all__ = ["LIF", "MPInit", "TrSG", "one_update", "spiking_layers"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "mp_init" if name in ("MPInit", "one_update") else "module"
    return getattr(import_module(f"snnrepro.neurons.{home}"), name)
