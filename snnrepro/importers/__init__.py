"""Layers and checkpoints of other programs as this package's: SpikingJelly, snnTorch, torchvision, the released code.

What has no equal here is refused with a reason, not approximated.
"""

from snnrepro.importers.official import convert_official, load_official
from snnrepro.importers.recalibrate import recalibrate
from snnrepro.importers.snntorch import from_snntorch
from snnrepro.importers.spikingjelly import convert, from_spikingjelly
from snnrepro.importers.torchvision import load_torchvision

__all__ = [
    "convert",
    "convert_official",
    "from_snntorch",
    "from_spikingjelly",
    "load_official",
    "load_torchvision",
    "recalibrate",
]
