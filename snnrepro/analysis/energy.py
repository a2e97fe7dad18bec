"""Operations and energy of an inference, counted on the absorbed network, where every spike is 0 or 1 (Table 13).

The rules are those of syops: a convolution or linear layer that reads zeros and ones costs its multiplications times
the share of ones, as additions (AC); any other costs multiply-adds (MAC); a neuron costs one AC per step. Norms are
folded into weights, so they cost nothing. 45 nm: 0.9 pJ per AC, 4.6 pJ per MAC.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

PJ_PER_AC, PJ_PER_MAC = 0.9, 4.6


@dataclass
class Operations:
    """Operations of one sample: additions and multiply-adds."""

    acs: float = 0.0
    macs: float = 0.0

    @property
    def millijoule(self) -> float:
        """Energy in mJ."""
        return 1e-9 * (PJ_PER_AC * self.acs + PJ_PER_MAC * self.macs)


@torch.no_grad()
def count_operations(
    network: nn.Module, batches: Iterable[Tensor], timesteps: int
) -> tuple[Operations, dict[str, Any]]:
    """Returns the operations per sample of an absorbed network, and of every layer with its kind and rate of input.

    batches: normalised inputs, images (B, C, H, W) or frames (T, B, C, H, W). A layer that reads whole numbers, a sum
    of spikes, costs an AC for each spike in the sum; one that reads averages of spikes an AC for each nonzero value.
    """
    from snnrepro.deploy.network import Conv, Linear, Spiking

    layers: dict[str, dict[str, Any]] = {}
    samples = 0

    def weighted(name: str):
        def hook(module: nn.Module, inputs: tuple, options: dict, output: Tensor) -> None:
            x = inputs[0]
            with FlopCounterMode(display=False) as counter:
                module.forward(*inputs, **options)
            entry = layers.setdefault(name, {"operations": 0.0, "spikes": 0.0, "inputs": 0, "kind": "AC"})
            entry["operations"] += counter.get_total_flops() / 2
            entry["inputs"] += x.numel()
            whole = bool((x == x.round()).all()) and bool((x >= 0).all())
            few = len(torch.unique(x)) <= 64 and bool((x >= 0).all()) and bool((x == 0).any())
            entry["spikes"] += x.sum().item() if whole else (x != 0).sum().item()
            if not (whole or few):
                entry["kind"] = "MAC"

        return hook

    def neuron(name: str):
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            entry = layers.setdefault(name, {"operations": 0.0, "spikes": 0.0, "inputs": 0, "kind": "neuron"})
            entry["operations"] += output.numel()

        return hook

    handles = []
    for name, module in network.named_modules():
        if isinstance(module, Conv | Linear):
            handles.append(module.register_forward_hook(weighted(name), with_kwargs=True))
        elif isinstance(module, Spiking):
            handles.append(module.register_forward_hook(neuron(name)))
    try:
        for x in batches:
            samples += x.shape[0] if x.ndim == 4 else x.shape[1]
            network(x, timesteps)
    finally:
        for handle in handles:
            handle.remove()
    return _total(layers, samples)


def _total(layers: dict[str, dict[str, Any]], samples: int) -> tuple[Operations, dict[str, Any]]:
    total = Operations()
    for entry in layers.values():
        operations = entry["operations"] / samples
        entry["rate"] = entry["spikes"] / entry["inputs"] if entry["inputs"] else None
        if entry["kind"] == "MAC":
            total.macs += operations
        else:
            total.acs += operations * (1.0 if entry["kind"] == "neuron" else entry["rate"])
        entry["operations"] = operations
        del entry["spikes"], entry["inputs"]
    return total, layers
