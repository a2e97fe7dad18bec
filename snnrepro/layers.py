"""What spiking networks need around torch's layers: sequences are (T, B, ...)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def per_step(module: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Returns ``module`` applied to every step of ``x`` (T, B, ...): one call on the merged T*B axis."""
    return module(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def make_classifier(features: int, num_classes: int) -> nn.Module:
    """Returns the last linear layer of a network, or an identity for 0 classes, as timm has it."""
    return nn.Linear(features, num_classes) if num_classes else nn.Identity()


class SequenceDropout(nn.Module):
    """Dropout of a sequence: one mask per sample, held over the window, or with ``per_step`` one for every step."""

    def __init__(self, p: float, per_step: bool = False):
        super().__init__()
        self.p, self.per_step = p, per_step

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``x`` (T, B, ...) with dropped features zeroed, the rest scaled by 1/(1-p)."""
        if not self.training or self.p == 0:
            return x
        return F.dropout(x, self.p) if self.per_step else x * F.dropout(torch.ones_like(x[0]), self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}, per_step={self.per_step}"
