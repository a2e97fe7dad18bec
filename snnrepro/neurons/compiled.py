"""The functions of ``analytic.py`` as C++ that Inductor generates: compiled once per machine, then only loaded.

Each function is exported with symbolic sizes, so that one library serves layers of every size, and compiled
ahead of time: a process that finds the libraries in the cache loads them in milliseconds and traces nothing.
What is missing is compiled in one go, on all cores, by a process of its own (``compile_worker.py``).

The arithmetic is the reference's: Inductor contracts nothing into fused multiply-adds, so a membrane that
the backward runs again is the forward's, bit for bit.
"""

from functools import lru_cache

import torch
from torch import Tensor

from snnrepro.collectives import all_sum
from snnrepro.neurons.analytic import Norm
from snnrepro.neurons.dynamics import Dynamics
from snnrepro.neurons.kernel_cache import Kernel, library


def lif_forward(x: Tensor, u_init: Tensor, v_threshold: Tensor, leak: Tensor, dyn: Dynamics) -> tuple[Tensor, ...]:
    """As ``analytic.lif_forward``."""
    return _run(_kernel("lif_forward", x, dyn), x, u_init, v_threshold, leak)


def lif_backward(
    go: Tensor, x: Tensor, spikes: Tensor, u_init: Tensor, v_threshold: Tensor, leak: Tensor, dyn: Dynamics
) -> tuple[Tensor, ...]:
    """As ``analytic.lif_backward``."""
    return _run(_kernel("lif_backward", x, dyn), go, x, spikes, u_init, v_threshold, leak, _number(dyn.gamma))


def norm_lif(
    y: Tensor,
    norm: Norm,
    shortcut: Tensor | None,
    shortcut_norm: None,
    u_init: Tensor,
    v_threshold: Tensor,
    leak: Tensor,
    dyn: Dynamics,
    eps: float,
    channels_last: bool,
) -> tuple[Tensor, ...]:
    """Returns what ``lif_forward`` does for the normalised current, and what the backward needs: rows (7, C).

    norm: mean, var, weight, bias, each (C,). rows: those of ``analytic.norm_rows``, then the three scalars.
    """
    kernel = _kernel("norm_lif_forward", y, dyn, shortcut, channels_last)
    return _run(kernel, y, *_given(shortcut), u_init, v_threshold, leak, *norm, _number(eps))


def norm_lif_gradients(
    go: Tensor,
    y: Tensor,
    spikes: Tensor,
    rows: Tensor,
    shortcut: Tensor | None,
    u_init: Tensor,
    v_threshold: Tensor,
    leak: Tensor,
    dyn: Dynamics,
    share: float | Tensor,
    channels_last: bool,
) -> tuple[Tensor | None, ...]:
    """Returns the gradients of weight, bias, (no weight and bias of a shortcut), the scalars (3,), y, and the shortcut.

    share: as in ``analytic.statistics_rows``; a tensor where ranks share the statistics. None for the gradient of what
    is absent.
    """
    gamma = _number(dyn.gamma)
    given = (go, y, spikes, rows)
    kernel = _kernel("norm_lif_reduce", y, dyn, shortcut, channels_last)
    part = share if isinstance(share, Tensor) else _number(share)
    gscalars, gweight, gbias, k = _run(kernel, *given, part, *_given(shortcut), gamma)
    if isinstance(share, Tensor):
        # Linear in the sums over positions, so the ranks add up their rows instead.
        k = all_sum(k)
    kernel = _kernel("norm_lif_backward", y, dyn, shortcut, channels_last)
    gy, *gshortcut = _run(kernel, *given, k, *_given(shortcut), gamma)
    return gweight, gbias, None, None, gscalars, gy, gshortcut[0] if gshortcut else None


def _run(kernel: Kernel, *tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(library(kernel).run(list(tensors)))


def _kernel(
    function: str, x: Tensor, dyn: Dynamics, shortcut: Tensor | None = None, channels_last: bool = False
) -> Kernel:
    dtype = str(x.dtype).removeprefix("torch.")
    return Kernel(function, dyn._replace(gamma=0.0), x.shape[0], shortcut is not None, dtype, channels_last)


def _given(shortcut: Tensor | None) -> tuple[Tensor, ...]:
    return () if shortcut is None else (shortcut,)


@lru_cache(1024)
def _number(value: float) -> Tensor:
    # A tensor, so that every value shares one library.
    return torch.tensor(value)
