"""What the trainer asks of a task; it knows nothing else about what a network learns."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from snnrepro.data.sets import Data

# Images or frames as a dataset stores them, one row per sample, and what is to be learned from each.
Batch = tuple[Tensor, Any]


class Metrics(Protocol):
    """Gathers an evaluation batch by batch."""

    def update(self, outputs: Tensor, targets: Any) -> None:
        """Takes the outputs (T, B, ...) for a batch, without waiting for the device."""

    def compute(self) -> dict[str, Any]:
        """Returns the metrics over all batches of all ranks, every rank the same: all of them have to ask."""


class Task:
    """A task over batches of (images, targets), both tensors with a row per sample; override what is otherwise.

    sums: names of what training adds up over samples, beside the loss.
    """

    sums: Sequence[str] = ()

    def num_outputs(self, data: Data) -> int:
        """Returns how many numbers per sample and step the network gives."""
        raise NotImplementedError

    def moved(self, batch: Batch, device: torch.device) -> Batch:
        """Returns a batch on the device."""
        images, targets = batch
        return images.to(device, non_blocking=True), targets.to(device, non_blocking=True)

    def parts(self, batch: Batch, count: int) -> Iterator[Batch]:
        """Yields a batch in ``count`` parts, none of them empty."""
        images, targets = batch
        return zip(images.tensor_split(count), targets.tensor_split(count), strict=True)

    def loss(self, outputs: Tensor, targets: Any) -> Tensor:
        """Returns the mean loss of a batch from outputs (T, B, ...): a scalar."""
        raise NotImplementedError

    def summed(self, outputs: Tensor, targets: Any) -> list[Tensor]:
        """Returns the ``sums`` of a batch, 0-d each."""
        return []

    def trained(self, totals: Mapping[str, float]) -> dict[str, float]:
        """Returns metrics on the training data. totals: the ``sums`` so far, and ``seen``, the samples behind them."""
        raise NotImplementedError

    def metrics(self, timesteps: int, device: torch.device) -> Metrics:
        """Returns new metrics over a window of ``timesteps``."""
        raise NotImplementedError
