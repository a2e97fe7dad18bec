"""Accuracy at every timestep, and firing rates, over a whole test set: integer counts, nothing padded."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from snnrepro.collectives import all_sum, rank, world_size
from snnrepro.data.images import ImageSet
from snnrepro.data.loading import loader
from snnrepro.data.order import EpochOrder
from snnrepro.distributed import beat
from snnrepro.execution import RuntimeConfig
from snnrepro.neurons import spiking_layers
from snnrepro.runtime import autocast
from snnrepro.tasks.task import Task
from snnrepro.train.guards import NotFinite


class SpikeCounter:
    """Counts spikes per layer and step through forward hooks, while entered; leaving adds up the ranks' counts."""

    def __init__(self, model: nn.Module, timesteps: int, device: torch.device):
        self.layers = dict(spiking_layers(model))
        # Per layer: spikes at every step, then neurons.
        self.counts = {name: torch.zeros(timesteps + 1, dtype=torch.int64, device=device) for name in self.layers}

    def __enter__(self) -> "SpikeCounter":
        self._handles = [layer.register_forward_hook(self._hook(name)) for name, layer in self.layers.items()]
        return self

    def __exit__(self, error: object, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        if error is None and self.counts:
            total = all_sum(torch.stack(list(self.counts.values())))
            self.counts = dict(zip(self.counts, total, strict=True))

    def _hook(self, name: str) -> Callable:
        def count(_layer: nn.Module, _inputs: tuple, o: Tensor) -> None:
            # o is S or V*S with V > 0: a neuron spiked where it is above 0.
            self.counts[name][:-1] += (o.detach() > 0).flatten(1).sum(1)
            self.counts[name][-1] += o[0].numel()

        return count

    def rates(self) -> dict[str, list[float]]:
        """Returns per layer the share of all neurons that spiked at each step."""
        return {name: (count[:-1] / count[-1]).tolist() for name, count in self.counts.items()}

    def mean_rates(self) -> dict[str, float]:
        """Returns the rate of the whole network over all steps: every neuron counted alike, and every layer.

        Empty for a network without LIF layers, such as an absorbed one.
        """
        if not self.counts:
            return {}
        counts = torch.stack(list(self.counts.values())).double()
        spikes, neurons = counts[:, :-1].mean(1), counts[:, -1]
        return {
            "by_neuron": (spikes.sum() / neurons.sum()).item(),
            "by_layer": (spikes / neurons).mean().item(),
        }


@torch.no_grad()
def evaluate(
    model: nn.Module,
    dataset: ImageSet,
    task: Task,
    timesteps: int,
    device: torch.device,
    runtime: RuntimeConfig,
) -> dict[str, Any]:
    """Returns ``loss``, the task's metrics, ``firing_rate`` and ``firing_rate_mean``.

    The prediction after t steps is what the task's readout makes of steps 1..t; one pass serves all t, because the
    networks are causal in time. ``firing_rate`` is per layer and step, ``firing_rate_mean`` one number by neuron and
    one by layer. Ranks share the samples, and each gets the result of all.

    Raises DataError naming the first sample that is not finite, DivergedError naming the first whose logits are not:
    neither is a prediction.
    """
    model.eval()
    metrics = task.metrics(timesteps, device)
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    batch_size = runtime.eval_batch_size * world_size()
    order = EpochOrder(len(dataset), seed=None, batch_size=batch_size, rank=rank(), ranks=world_size())
    batches = loader(dataset, order, workers=runtime.workers, pin_memory=device.type == "cuda")
    bad = NotFinite(dataset, device)
    with SpikeCounter(model, timesteps, device) as counter:
        for number, batch in enumerate(batches):
            beat(runtime)
            images, targets = task.moved(batch, device)
            x = to_input(dataset, images, runtime.channels_last)
            with autocast(runtime.precision, device):
                outputs = model(x, timesteps).float()
            bad.note(order.stretch(number)[0], x if x.ndim == 4 else x.transpose(0, 1), outputs.transpose(0, 1))
            loss_sum += task.loss(outputs, targets).double() * len(images)
            metrics.update(outputs, targets)
    bad.raise_if_any()
    return {
        "loss": all_sum(loss_sum).item() / len(dataset),
        **metrics.compute(),
        "firing_rate": counter.rates(),
        "firing_rate_mean": counter.mean_rates(),
    }


def to_input(dataset: ImageSet, images: Tensor, channels_last: bool) -> Tensor:
    """Returns normalised float images (B, C, H, W), or frames (T, B, C, H, W), on the device of ``images``.

    images: as stored, frames as (B, T, C, H, W). channels_last: the memory format of images, and of every frame.
    """
    x = dataset.normalise(images)
    if x.ndim == 4:
        return x.contiguous(memory_format=torch.channels_last) if channels_last else x
    frames = x.transpose(0, 1).flatten(0, 1)
    frames = frames.contiguous(memory_format=torch.channels_last) if channels_last else frames
    return frames.unflatten(0, (x.shape[1], x.shape[0]))
