"""Inference as the paper promises it: thresholds absorbed into weights, spikes 0 and 1."""

from snnrepro.deploy.absorb import absorb
from snnrepro.deploy.network import AbsorbedNetwork
from snnrepro.deploy.storage import load_absorbed, save_absorbed

__all__ = ["AbsorbedNetwork", "absorb", "load_absorbed", "save_absorbed"]
