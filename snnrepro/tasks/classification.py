"""Classification: the loss over logits, and accuracies in integer counts."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from snnrepro.collectives import all_sum
from snnrepro.data.sets import Data
from snnrepro.tasks.losses import Loss
from snnrepro.tasks.task import Task


class Classification(Task):
    """One class for each sample, from logits (T, B, K) and class indices (B,) or shares of the classes (B, K)."""

    sums = ("correct",)

    def __init__(self, loss: Loss):
        self.of_logits = loss

    def num_outputs(self, data: Data) -> int:
        return data.num_classes

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.of_logits(outputs, targets)

    def summed(self, outputs: Tensor, targets: Tensor) -> list[Tensor]:
        # Of mixed images the larger part counts.
        classes = targets if targets.ndim == 1 else targets.argmax(-1)
        return [(self.of_logits.readout(outputs)[-1].argmax(-1) == classes).sum()]

    def trained(self, totals: Mapping[str, float]) -> dict[str, float]:
        return {"train_top1": 100 * totals["correct"] / totals["seen"]}

    def metrics(self, timesteps: int, device: torch.device) -> "Accuracy":
        return Accuracy(self.of_logits.readout, timesteps, device)


class Accuracy:
    """Top-1 after each step, and top-5 of the window, in percent."""

    def __init__(self, readout: Callable[[Tensor], Tensor], timesteps: int, device: torch.device):
        self.readout = readout
        # Correct after each step, then within the best five, then samples.
        self.counts = torch.zeros(timesteps + 2, dtype=torch.int64, device=device)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Takes logits (T, B, classes) and class indices (B,)."""
        scores = self.readout(outputs)
        best5 = scores[-1].topk(min(5, outputs.shape[-1])).indices
        self.counts[:-2] += (scores.argmax(-1) == targets).sum(1)
        self.counts[-2] += (best5 == targets[:, None]).any(1).sum()
        self.counts[-1] += len(targets)

    def compute(self) -> dict[str, Any]:
        """Returns ``top1``, ``top5``, ``top1_per_timestep``."""
        *correct, top5, samples = all_sum(self.counts).tolist()
        per_timestep = [count * (100 / samples) for count in correct]
        return {"top1": per_timestep[-1], "top5": top5 * (100 / samples), "top1_per_timestep": per_timestep}
