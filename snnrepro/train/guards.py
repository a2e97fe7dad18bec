"""What may end a run early: a signal, or a number that is not finite."""

import math
import signal
from typing import Any, Self

import torch
from torch import Tensor, nn

from snnrepro.collectives import all_sum, any_rank, rank, world_size
from snnrepro.data.images import ImageSet
from snnrepro.data.order import EpochOrder
from snnrepro.errors import ConfigError, DataError, DivergedError
from snnrepro.neurons import spiking_layers
from snnrepro.tracking import flat


class StopRequest:
    """Turns SIGTERM, SIGINT, SIGHUP and SIGUSR1 into a flag that the loop reads at step boundaries.

    A second SIGINT ends a lone process at once; saves are atomic, so nothing is lost but the current step. Ranks get
    each Ctrl-C twice, from the terminal and from what started them. Signals that are ignored stay so, as under nohup.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)

    def __init__(self) -> None:
        self.signal = ""

    def __enter__(self) -> Self:
        heard = [s for s in self.SIGNALS if signal.getsignal(s) != signal.SIG_IGN]
        self._old = {s: signal.signal(s, self._note) for s in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        if self.signal and number == signal.SIGINT and world_size() == 1:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number).name


def learned_scalars(model: nn.Module) -> dict[str, dict[str, float]]:
    """Returns per spiking layer its ``v_threshold``, ``tau`` and ``u_init`` (mean over neurons where learned)."""
    with torch.no_grad():
        return {
            name: {
                "v_threshold": layer.v_threshold.item(),
                "tau": layer.tau.item(),
                # One number per neuron where it is learned.
                "u_init": layer.u_init.mean().item(),
            }
            for name, layer in spiking_layers(model)
        }


def all_finite(*values: float) -> bool:
    """Returns whether no value is NaN or infinite."""
    return all(map(math.isfinite, values))


def require_finite(line: dict[str, Any]) -> None:
    """Raises DivergedError, naming it, for a number of an epoch's line that is not finite.

    Parameters may be finite where what is made of them is not: a threshold far below 0 behind softplus is 0.
    """
    for name, value in flat(line).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise DivergedError(f"epoch {line['epoch']}: {name.replace('/', '.')} is not finite")


class NotFinite:
    """Remembers, on the device, the first samples of a set whose pixels or logits are not finite."""

    def __init__(self, dataset: ImageSet, device: torch.device):
        self.dataset = dataset
        # Of every rank: number of the first sample with such pixels, and with such logits. The size stands for none.
        self.none = len(dataset)
        self.first = torch.full((2,), self.none, dtype=torch.int64, device=device)

    def note(self, start: int, x: Tensor, logits: Tensor) -> None:
        """Looks at the samples ``start``, ``start + 1``, ...; x and logits: one row for each. Nothing is waited for."""
        index = torch.arange(start, start + len(x), device=x.device)
        for kind, values in enumerate((x, logits)):
            bad = ~torch.isfinite(values).flatten(1).all(1)
            self.first[kind] = torch.minimum(self.first[kind], torch.where(bad, index, self.none).min())

    def raise_if_any(self) -> None:
        """Raises DataError for pixels, else DivergedError for logits, on every rank alike."""
        of_ranks = self.first.new_zeros(world_size(), 2)
        of_ranks[rank()] = self.first
        pixels, logits = all_sum(of_ranks).amin(0).tolist()
        if pixels < self.none:
            raise _bad_pixels(self.dataset, "test", self.dataset.where(pixels))
        if logits < self.none:
            raise DivergedError(
                f"the logits of a finite input are not finite: dataset={self.dataset.name}, test set, "
                f"{self.dataset.where(logits)}"
            )


def require_finite_batch(dataset: ImageSet, images: Tensor, order: EpochOrder, batch: int) -> None:
    """Raises DataError, on every rank, where the training images of a batch are what is not finite."""
    bad = ~torch.isfinite(dataset.normalise(images)).flatten(1).all(1)
    if any_rank(bool(bad.any())):
        order.first_batch = batch
        keys = next(iter(order))
        raise _bad_pixels(
            dataset, "training", ", ".join(dataset.where(keys[i][1]) for i in bad.nonzero().flatten()[:3])
        )


def _bad_pixels(dataset: ImageSet, part: str, where: str) -> DataError:
    error = DataError(
        f"dataset={dataset.name}: {part} set, {where}: pixels that are not finite numbers; check what it was read from"
    )
    error.common = True
    return error


def require_parts(order: EpochOrder, micro_batches: int) -> None:
    """Raises ConfigError unless every batch of an epoch has a sample for each part on each rank."""
    smallest = order.batch_len(len(order) - 1)
    if smallest < order.ranks * micro_batches:
        raise ConfigError(
            f"batch_size={order.batch_size}: the last batch has {smallest} samples, too few for {order.ranks} "
            f"processes with micro_batches={micro_batches}; {batch_size_for(order, order.ranks * micro_batches)}"
        )


def batch_size_for(order: EpochOrder, least: int) -> str:
    """Returns the nearest batch size, up or down, that leaves at least so many samples to the last batch."""
    sizes = range(least, order.size + 1)
    fitting = [size for size in sizes if (order.size - 1) % size + 1 >= least]
    if not fitting:
        return f"the training set has {order.size} samples: choose a larger one"
    best = min(fitting, key=lambda size: abs(size - order.batch_size))
    return f"batch_size={best} leaves it {(order.size - 1) % best + 1}"


def non_finite(model: nn.Module, loss: torch.Tensor) -> str:
    """Returns in words what is not finite after a backward pass, and what the nearest spiking layer has learned."""
    tensor, layer = where_not_finite(model, loss)
    text = ", ".join(f"{name}={value:.4g}" for name, value in learned_scalars(model)[layer].items())
    return f"{tensor} is not finite; nearest spiking layer {layer}: {text}"


def where_not_finite(model: nn.Module, loss: torch.Tensor) -> tuple[str, str]:
    """Returns (tensor, spiking layer) where the first non-finite value of the backward pass appeared.

    Gradients flow from the last layer to the first, so among the non-finite gradients the last in forward order
    is where it began. The spiking layer is the nearest one in front of it, or the first of the network.
    """
    names = [name for name, _ in spiking_layers(model)]
    if not torch.isfinite(loss):
        return "loss", names[-1]
    tensor, layer, current = "gradient norm", names[0], names[0]
    for prefix, module in model.named_modules():
        # By module, not by parameter: a layer with frozen scalars has no parameters to be met by.
        current = prefix if prefix in names else current
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                tensor, layer = f"gradient of {prefix}.{name}", current
    return tensor, layer
