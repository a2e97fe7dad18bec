"""LIF neurons: pure functions for the maths, one module that holds parameters and buffers."""

from snnrepro.neurons.module import LIF, spiking_layers

__all__ = ["LIF", "spiking_layers"]
