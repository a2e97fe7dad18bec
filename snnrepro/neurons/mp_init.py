"""MP-Init (Algorithm 1): where the next window's membranes start.

After each training batch, ``u_init <- (1 - beta) * u_init + beta * batch_mean``, where ``batch_mean`` is
the mean membrane after the last reset over the active neurons of the layer (all samples, channels and
positions jointly, of all ranks). ``beta`` is the weight of the new batch: 0.9 as printed in the paper, 0.1
as in the authors' released code.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from snnrepro.collectives import all_sum, world_size

# What the windows left behind that ``one_update`` holds back: (layer, sum, count) each. None: layers move at once.
_held_back: list[tuple[Any, Tensor, Tensor]] | None = None


def running_mean(u_init: Tensor, u_sum: Tensor, active_count: Tensor, beta: float) -> Tensor:
    """Returns the updated ``u_init`` (0-d); unchanged where no neuron was active."""
    batch_mean = (u_sum / active_count).to(u_init.dtype)
    return torch.lerp(u_init, torch.where(active_count > 0, batch_mean, u_init), beta)


@torch.no_grad()
def move(layer: Any, u_sum: Tensor, active_count: Tensor) -> None:
    """Moves ``layer.u_init`` with ``layer.beta`` by a window of all ranks, or holds it back for ``one_update``."""
    if _held_back is not None:
        _held_back.append((layer, u_sum, active_count))
        return
    _move(layer, all_sum(_pair(u_sum, active_count)) if world_size() > 1 else (u_sum, active_count))


@contextmanager
def one_update() -> Iterator[None]:
    """While entered, running means hold still; at its end each moves once, by all windows seen, of all ranks together.

    For a step in several parts, and for one message between ranks per step instead of one per layer. After an error
    nothing moves.
    """
    global _held_back
    _held_back = []
    try:
        yield
        with torch.no_grad():
            pairs: dict[Any, Tensor] = {}
            for layer, u_sum, active_count in _held_back:
                pair = _pair(u_sum, active_count)
                pairs[layer] = pairs[layer] + pair if layer in pairs else pair
            if pairs:
                for layer, pair in zip(pairs, all_sum(torch.stack(list(pairs.values()))), strict=True):
                    _move(layer, pair)
    finally:
        _held_back = None


def _pair(u_sum: Tensor, active_count: Tensor) -> Tensor:
    # float64 holds any neuron count exactly; float32 stops at 2^24.
    return torch.stack([u_sum.double(), active_count.double()])


def _move(layer: Any, pair: Tensor | tuple[Tensor, Tensor]) -> None:
    u_sum, active_count = pair
    layer.u_init.copy_(running_mean(layer.u_init, u_sum, active_count, layer.beta))
