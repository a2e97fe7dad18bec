"""Operations and energy of an inference, counted on the absorbed network, where every spike is 0 or 1 (Table 13).

The rules are those of syops, see ``RULE``. What a layer reads follows from what feeds it, not from the values that it
happens to see: a black image, or event frames of zeros and ones, are no spikes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

PJ_PER_AC, PJ_PER_MAC = 0.9, 4.6
RULE = (
    "a layer fed by spikes costs its multiplications times the rate of its input, as additions (AC); one fed by the "
    "image or the frames, whatever they show, multiply-adds (MAC); a neuron one AC per step; norms nothing, they are "
    f"folded into weights; {PJ_PER_AC} pJ per AC, {PJ_PER_MAC} pJ per MAC (45 nm)"
)
# What a value of the absorbed network consists of: whole numbers of spikes, averages of spikes, anything.
_WHOLE, _AVERAGE, _DENSE = range(3)


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
def count_operations(network: Any, batches: Iterable[Tensor], timesteps: int) -> tuple[Operations, dict[str, Any]]:
    """Returns the operations per sample of an absorbed network, and of every layer with its kind and rate of input.

    network: what ``absorb`` returns. batches: normalised inputs, images (B, C, H, W) or frames (T, B, C, H, W). A layer
    that reads whole numbers, a sum of spikes, costs an AC for each spike in the sum; one that reads averages of spikes
    an AC for each nonzero value.
    """
    from snnrepro.deploy.network import Conv, Linear, Spiking

    layers: dict[str, dict[str, Any]] = {}
    samples = 0
    reads = _reads(network)

    def weighted(name: str) -> Callable:
        read, kind = reads[name], "MAC" if reads[name] == _DENSE else "AC"

        def hook(module: nn.Module, inputs: tuple, options: dict, output: Tensor) -> None:
            x = inputs[0]
            with FlopCounterMode(display=False) as counter:
                module.forward(*inputs, **options)
            entry = layers.setdefault(name, {"operations": 0.0, "spikes": 0.0, "inputs": 0, "kind": kind})
            entry["operations"] += counter.get_total_flops() / 2
            entry["inputs"] += x.numel()
            entry["spikes"] += x.sum().item() if read == _WHOLE else (x != 0).sum().item()

        return hook

    def neuron(name: str) -> Callable:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            entry = layers.setdefault(name, {"operations": 0.0, "spikes": 0.0, "inputs": 0, "kind": "neuron"})
            entry["operations"] += output.numel()

        return hook

    handles = []
    for name, module in network.operations.named_modules():
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


def _reads(network: Any) -> dict[str, int]:
    """Returns per step what the values that it reads consist of."""
    made, reads = {"input": _DENSE}, {}
    for step in network.steps:
        read = reads[step.name] = max(made[name] for name in step.inputs)
        averages = step.kind in ("mean", "time_mean") or (step.kind == "pool" and step.options["kind"] != "max")
        if step.kind == "spiking":
            made[step.name] = _WHOLE
        elif step.kind in ("conv", "linear", "affine"):
            made[step.name] = _DENSE
        else:
            made[step.name] = max(read, _AVERAGE) if averages else read
    return reads


def _total(layers: dict[str, dict[str, Any]], samples: int) -> tuple[Operations, dict[str, Any]]:
    total = Operations()
    for entry in layers.values():
        operations = entry["operations"] / samples
        entry["rate"] = entry["spikes"] / entry["inputs"] if entry["inputs"] else 0.0
        if entry["kind"] == "MAC":
            total.macs += operations
        else:
            total.acs += operations * (1.0 if entry["kind"] == "neuron" else entry["rate"])
        entry["operations"] = operations
        del entry["spikes"], entry["inputs"]
    return total, layers
