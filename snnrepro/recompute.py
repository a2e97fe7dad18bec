"""Gradient checkpointing: forwards that run a second time, inside the backward, to make again what was not kept.

The second run has to see what the first one saw, and what a forward moves has to move once.
"""

from inspect import unwrap
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils import checkpoint

# What torch makes for every region under ``checkpoint(..., use_reentrant=False)``.
_Region = checkpoint._CheckpointFrame
# Per region, per owner: the values that its first run saw, in the order of calls, and the backward that has last asked
# for them with how many it was given.
_seen: WeakKeyDictionary[_Region, dict[Any, list[Tensor]]] = WeakKeyDictionary()
_given: WeakKeyDictionary[_Region, dict[Any, tuple[int, int]]] = WeakKeyDictionary()


def repeated() -> bool:
    """Returns whether this forward is a second run: inside a backward pass, or to look at what one would use."""
    # A compiler knows by itself what a graph moves, and moves it once.
    return not torch.compiler.is_compiling() and (torch._C._current_graph_task_id() != -1 or _region()[1])


def first_seen(owner: Any, value: Tensor) -> Tensor | None:
    """Returns ``value``, which ``owner`` is about to read and then to move, or in a second run what the first one saw.

    None where that is not known: the region is not one of ``torch.utils.checkpoint`` with ``use_reentrant=False``, or
    lies inside another one.
    """
    region, again = _region()
    if again or torch._C._current_graph_task_id() != -1:
        return None if region is None else _next(region, owner)
    if region is not None:
        _seen.setdefault(region, {}).setdefault(owner, []).append(value.clone())
    return value


def in_region() -> bool:
    """Returns whether this forward belongs to a region of ``torch.utils.checkpoint`` with ``use_reentrant=False``."""
    return _region()[0] is not None


def _next(region: _Region, owner: Any) -> Tensor | None:
    values = _seen.get(region, {}).get(owner)
    if values is None:
        return None
    backward = torch._C._current_graph_task_id()
    asked, count = _given.setdefault(region, {}).get(owner, (backward, 0))
    count = count if asked == backward else 0
    _given[region][owner] = (backward, count + 1)
    return values[count % len(values)]


def _region() -> tuple[_Region | None, bool]:
    """Returns the innermost region around this call, and whether this is its second run.

    A region is known by its hooks on saved tensors, which hold it: strongly in the first run, weakly in the second.
    """
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
    if hooks is None:
        return None, False
    for cell in getattr(unwrap(hooks[0]), "__closure__", None) or ():
        held = cell.cell_contents
        again = isinstance(held, ReferenceType)
        if isinstance(region := held() if again else held, _Region):
            return region, again
    return None, False
