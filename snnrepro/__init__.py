"""Direct training of spiking neural networks with MP-Init and TrSG: reproduce, trust, extend.

As a library (docs/library.md): ``from snnrepro import LIF, TrSG, MPInit``. The names are imported when they are asked
for, since a command must not wait for torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snnrepro.neurons import LIF, MPInit, TrSG, one_update, spiking_layers

__version__ = "0.1.0"
__all__ = ["LIF", "MPInit", "TrSG", "__version__", "one_update", "spiking_layers"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from snnrepro import neurons

    return getattr(neurons, name)
