"""What a training loss adds for the inside of the spiking layers: firing rates, membrane potentials.

Terms look into the layers through forward hooks that exist only during a training step that has terms. They apply in
training only; the test loss is the loss over the logits alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from snnrepro.collectives import all_sum
from snnrepro.neurons import spiking_layers
from snnrepro.neurons.protocol import SpikingLayer


class Penalty(Protocol):
    """One term: measures every spiking layer during the forward, and prices what it measured."""

    @property
    def name(self) -> str:
        """What the measured value is called in the logs."""

    def hook(self, layer: SpikingLayer, measured: list) -> RemovableHandle:
        """Returns the handle of a hook that appends what it measures at every forward of ``layer``."""

    def value(self, measured: list) -> Tensor:
        """Returns the measured value of the whole network, 0-d, differentiable."""

    def cost(self, value: Tensor, progress: float) -> Tensor:
        """Returns what is added to the loss, 0-d; ``progress`` is (epochs begun) / (all epochs), in (0, 1]."""


class Penalties:
    """All terms of a run. Without terms nothing is hooked and nothing is added."""

    def __init__(self, terms: Sequence[Penalty]):
        self.terms = tuple(terms)

    @contextmanager
    def observing(self, model: nn.Module) -> Iterator[list[list]]:
        """Hooks every spiking layer while entered; yields per term the list of what it measured, layer by layer."""
        measured: list[list] = [[] for _ in self.terms]
        handles = [
            term.hook(layer, found)
            for term, found in zip(self.terms, measured, strict=True)
            for _, layer in spiking_layers(model)
        ]
        try:
            yield measured
        finally:
            for handle in handles:
                handle.remove()

    def added_to(self, loss: Tensor, measured: list[list], progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns (loss with all terms, measured value per term, 0-d without gradient)."""
        values = {}
        for term, found in zip(self.terms, measured, strict=True):
            value = term.value(found)
            loss = loss + term.cost(value, progress)
            values[term.name] = value.detach()
        return loss, values


@dataclass(frozen=True)
class FiringRate:
    """The network's firing rate: ``weight * rate``, or ``weight * (rate - target)^2`` where a target is given.

    The rate is the share of (neuron, step) pairs that spiked, all layers together, so that every neuron counts alike.
    After the spiking regulariser of Yan et al. (Frontiers in Neuroscience 16:760298, 2022), whose printed formula is
    not known here: both forms are this project's.
    """

    weight: float
    target: float | None
    name: str = "firing_rate"

    def hook(self, layer: SpikingLayer, measured: list) -> RemovableHandle:
        """Returns the handle of a hook that appends (spikes, neurons times steps)."""

        def count(_layer: nn.Module, _inputs: tuple, o: Tensor) -> None:
            measured.append((spike_count(layer, o), o.numel()))

        return cast(nn.Module, layer).register_forward_hook(count)

    def value(self, measured: list) -> Tensor:
        """Returns the rate in [0, 1], 0-d."""
        spikes = torch.stack([spikes for spikes, _ in measured]).sum()
        # Of all ranks: a squared distance from the target cannot be taken rank by rank.
        spikes, count = all_sum(torch.stack([spikes, spikes.new_tensor(sum(count for _, count in measured))]))
        return spikes / count

    def cost(self, value: Tensor, progress: float) -> Tensor:
        """Returns the weighted rate, or the weighted squared distance from the target."""
        return self.weight * (value if self.target is None else (value - self.target).square())


def spike_count(layer: SpikingLayer, o: Tensor) -> Tensor:
    """Returns the number of spikes in an output of ``layer``, float32 and 0-d, with the gradient of the spikes S.

    trsg emits o = V*S. Dividing by V itself, gradient included, leaves exactly dS/dV: a detached V would leave an
    extra S/V, and the rate would seem to fall by lowering V, which only rescales o.
    """
    spikes = o.sum(dtype=torch.promote_types(o.dtype, torch.float32))
    scale = layer.output_scale
    if scale is None:
        return spikes
    # V as it went into o: rounded to o's dtype, so that V*S / V is exactly S in half precision too.
    return spikes / scale.to(o.dtype).to(spikes.dtype)


@dataclass(frozen=True)
class MembraneDistance:
    """RMP-Loss: the distance of potentials before firing from the spikes they become (Guo et al., ICCV 2023).

    ``weight * progress * mean over layers of mean((M / V - S)^2)``: the weight rises linearly over the epochs. The
    paper's text was not at hand: the square, the mean over layers and the linear rise are as remembered. M / V instead
    of M makes the term independent of the threshold's scale; S and this V count as constants, so the term moves
    potentials, not targets. The potentials are computed again by the reference equations, for every backend.
    """

    weight: float
    name: str = "rmp"

    def hook(self, layer: SpikingLayer, measured: list) -> RemovableHandle:
        """Returns the handle of a hook that appends the layer's mean squared distance."""

        def measure(_layer: nn.Module, inputs: tuple, options: dict) -> None:
            # Before the forward: after it, u_init has moved.
            measured.append(membrane_distance(layer, *inputs, **options))

        return cast(nn.Module, layer).register_forward_pre_hook(measure, with_kwargs=True)

    def value(self, measured: list) -> Tensor:
        """Returns the mean over layers, 0-d."""
        return torch.stack(measured).mean()

    def cost(self, value: Tensor, progress: float) -> Tensor:
        """Returns the value under the weight of this epoch."""
        return self.weight * progress * value


def membrane_distance(layer: SpikingLayer, x: Any, timesteps: int | None = None) -> Tensor:
    """Returns mean((M / V - S)^2) over steps and neurons, 0-d, for a forward of ``layer`` with these arguments."""
    steps: list[tuple[Tensor, Tensor]] = []
    layer.window(x, timesteps, record=steps)
    v_threshold = layer.v_threshold.detach()
    return torch.stack([(m / v_threshold - s.detach()).square().mean() for m, s in steps]).mean()
