"""LIF neurons: pure functions for the maths, one module that holds parameters and buffers."""

from snnrepro.neurons.module import LIF, spiking_layers
from snnrepro.neurons.mp_init import one_update

__all__ = ["LIF", "one_update", "spiking_layers"]
