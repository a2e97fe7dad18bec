"""The input current of a spiking layer as a norm leaves it: known, but not yet written to memory.

A norm in front of a fused LIF returns a ``NormalisedCurrent``. Adding a shortcut keeps it one; the LIF takes
it apart and computes everything in one kernel. Whatever else touches it sees a tensor: torch functions and
attributes are answered by the computed values.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from snnrepro.batch_norm import batch_moments, normalise
from snnrepro.errors import UserError


class NormalisedCurrent:
    """``weight * (y - mean) * invstd + bias`` per channel, plus an optional shortcut.

    y: (T, B, C, ...), or (1, B, C, ...) for a current that is constant over the window. mean, var, weight, bias:
    float32 (C,). batch_stats: mean and var are those of y itself, and gradients flow through them. share: where they
    are those of the y of several ranks, the part of one value in their mean (0-d).
    """

    def __init__(
        self,
        y: Tensor,
        mean: Tensor,
        var: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        batch_stats: bool,
        share: Tensor | None = None,
    ):
        self.y, self.mean, self.var, self.weight, self.bias = y, mean, var, weight, bias
        self.eps, self.batch_stats, self.share = eps, batch_stats, share
        self.with_gradients = torch.is_grad_enabled()
        self.shortcut: Tensor | NormalisedCurrent | None = None

    @property
    def shape(self) -> torch.Size:
        """The shape of the current, known without computing it."""
        # torch.broadcast_shapes takes longer than a small layer.
        if self.shortcut is None or self.shortcut.shape == self.y.shape:
            return self.y.shape
        return torch.broadcast_shapes(self.y.shape, self.shortcut.shape)

    def tensor(self) -> Tensor:
        """Returns the current as a tensor, differentiable like the fused kernel."""
        self.require_gradients()
        y = self.y.flatten(0, 1)
        if self.share is not None:
            x = normalise(y, *batch_moments(y)[:2], self.weight, self.bias, self.eps)
        else:
            mean, var = (None, None) if self.batch_stats else (self.mean, self.var)
            x = F.batch_norm(y, mean, var, self.weight, self.bias, self.batch_stats, 0.0, self.eps)
        x = x.unflatten(0, self.y.shape[:2])
        if self.shortcut is None:
            return x
        return x + (self.shortcut.tensor() if isinstance(self.shortcut, NormalisedCurrent) else self.shortcut)

    def require_gradients(self) -> None:
        """Raises UserError where the current was made without gradients, and now they are wanted.

        A tensor would be a constant then; ``checkpoint`` with ``use_reentrant=True`` relies on being handed a tensor.
        """
        if torch.is_grad_enabled() and not self.with_gradients:
            raise UserError(
                "the norm in front of a spiking layer ran without gradients, the layer runs with them: use checkpoint "
                "with use_reentrant=False, or under torch.no_grad() let the norm return tensors, norm(x).tensor()"
            )

    def scaled(self, factor: Tensor) -> "NormalisedCurrent":
        """Returns the current times a number (0-d, differentiable), still uncomputed."""
        weight, bias = self.weight * factor, self.bias * factor
        total = NormalisedCurrent(self.y, self.mean, self.var, weight, bias, self.eps, self.batch_stats, self.share)
        total.with_gradients = self.with_gradients
        if isinstance(self.shortcut, NormalisedCurrent):
            total.shortcut = self.shortcut.scaled(factor)
        elif self.shortcut is not None:
            total.shortcut = self.shortcut * factor.to(self.shortcut.dtype)
        return total

    def part(self, samples: slice) -> "NormalisedCurrent":
        """Returns the current of some samples of the batch, still uncomputed, with the statistics of them all."""
        y = self.y[:, samples]
        few = NormalisedCurrent(y, self.mean, self.var, self.weight, self.bias, self.eps, batch_stats=False)
        few.shortcut = None if self.shortcut is None else part(self.shortcut, samples)
        return few

    def __add__(self, shortcut: Any) -> Any:
        if self.shortcut is not None or not isinstance(shortcut, Tensor | NormalisedCurrent):
            return self.tensor() + shortcut
        if isinstance(shortcut, NormalisedCurrent) and shortcut.shortcut is not None:
            shortcut = shortcut.tensor()
        mean, var, weight, bias = self.mean, self.var, self.weight, self.bias
        total = NormalisedCurrent(self.y, mean, var, weight, bias, self.eps, self.batch_stats, self.share)
        total.with_gradients = self.with_gradients
        if isinstance(shortcut, NormalisedCurrent):
            total.with_gradients &= shortcut.with_gradients
        total.shortcut = shortcut
        return total

    __radd__ = __add__

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tensor(), name)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def plain(value: Any) -> Any:
            if isinstance(value, NormalisedCurrent):
                return value.tensor()
            return type(value)(map(plain, value)) if isinstance(value, list | tuple) else value

        return function(*plain(args), **{name: plain(value) for name, value in (kwargs or {}).items()})


def as_tensor(x: Tensor | NormalisedCurrent) -> Tensor:
    """Returns the current of a layer as a tensor (T or 1, ...neurons)."""
    return x.tensor() if isinstance(x, NormalisedCurrent) else x


def part(x: Tensor | NormalisedCurrent, samples: slice) -> Tensor | NormalisedCurrent:
    """Returns the current (T or 1, B, ...) of some samples of the batch."""
    return x.part(samples) if isinstance(x, NormalisedCurrent) else x[:, samples]
