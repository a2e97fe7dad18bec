"""Direct training of spiking neural networks with MP-Init and TrSG: reproduce, trust, extend."""

__version__ = "0.1.0"
