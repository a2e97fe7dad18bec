"""The functions of ``analytic.py`` as C++ that Inductor generates: compiled once per machine, then only loaded.

Each function is exported with symbolic sizes, so that one library serves layers of every size, and compiled
ahead of time: a process that finds the libraries in the cache loads them in milliseconds and traces nothing.
What is missing is compiled in one go, on all cores, by a process of its own (``compile_worker.py``).

The arithmetic is the reference's: Inductor contracts nothing into fused multiply-adds, so a membrane that
the backward runs again is the forward's, bit for bit.
"""

from functools import cache

import torch
from torch import Tensor

from snnrepro.neurons.dynamics import Dynamics
from snnrepro.neurons.kernel_cache import Kernel, library


def lif_forward(x: Tensor, u_init: Tensor, v_threshold: Tensor, leak: Tensor, dyn: Dynamics) -> tuple[Tensor, ...]:
    """As ``analytic.lif_forward``."""
    return _run(_kernel("lif_forward", x, dyn), x, u_init, v_threshold, leak)


def lif_backward(
    go: Tensor, x: Tensor, spikes: Tensor, u_init: Tensor, v_threshold: Tensor, leak: Tensor, dyn: Dynamics
) -> tuple[Tensor, ...]:
    """As ``analytic.lif_backward``."""
    return _run(_kernel("lif_backward", x, dyn), go, x, spikes, u_init, v_threshold, leak, _gamma(dyn.gamma))


def norm_lif_forward(
    y: Tensor,
    norm: Tensor,
    shortcut: Tensor | None,
    shortcut_norm: None,
    u_init: Tensor,
    v_threshold: Tensor,
    leak: Tensor,
    dyn: Dynamics,
    channels_last: bool,
) -> tuple[Tensor, ...]:
    """As ``analytic.norm_lif_forward``."""
    kernel = _kernel("norm_lif_forward", y, dyn, shortcut, channels_last)
    return _run(kernel, y, norm, *_given(shortcut), _per_channel(norm, u_init, v_threshold, leak))


def norm_lif_reduce(
    go: Tensor,
    y: Tensor,
    spikes: Tensor,
    norm: Tensor,
    shortcut: Tensor | None,
    shortcut_norm: None,
    u_init: Tensor,
    v_threshold: Tensor,
    leak: Tensor,
    dyn: Dynamics,
    channels_last: bool,
) -> tuple[Tensor, ...]:
    """As ``analytic.norm_lif_reduce``."""
    kernel = _kernel("norm_lif_reduce", y, dyn, shortcut, channels_last)
    scalars = _per_channel(norm, u_init, v_threshold, leak)
    return _run(kernel, go, y, spikes, norm, *_given(shortcut), scalars, _gamma(dyn.gamma))


def norm_lif_backward(
    go: Tensor,
    y: Tensor,
    spikes: Tensor,
    norm: Tensor,
    shortcut: Tensor | None,
    shortcut_norm: None,
    u_init: Tensor,
    v_threshold: Tensor,
    leak: Tensor,
    dyn: Dynamics,
    channels_last: bool,
) -> tuple[Tensor, Tensor | None]:
    """As ``analytic.norm_lif_backward``; None for the gradient of an absent shortcut."""
    kernel = _kernel("norm_lif_backward", y, dyn, shortcut, channels_last)
    scalars = _per_channel(norm, u_init, v_threshold, leak)
    gradients = _run(kernel, go, y, spikes, norm, *_given(shortcut), scalars, _gamma(dyn.gamma))
    return gradients[0], gradients[1] if shortcut is not None else None


def _run(kernel: Kernel, *tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(library(kernel).run(list(tensors)))


def _kernel(
    function: str, x: Tensor, dyn: Dynamics, shortcut: Tensor | None = None, channels_last: bool = False
) -> Kernel:
    dtype = str(x.dtype).removeprefix("torch.")
    return Kernel(function, dyn._replace(gamma=0.0), x.shape[0], shortcut is not None, dtype, channels_last)


def _given(shortcut: Tensor | None) -> tuple[Tensor, ...]:
    return () if shortcut is None else (shortcut,)


@cache
def _gamma(gamma: float) -> Tensor:
    # A tensor, so that every gamma shares one library.
    return torch.tensor(gamma)


def _per_channel(norm: Tensor, *scalars: Tensor) -> Tensor:
    # As rows (3, C): with 0-d scalars Inductor merges the channel axis in some loops and not in others, and
    # can then no longer fuse them.
    return torch.stack(scalars)[:, None].expand(len(scalars), norm.shape[1]).contiguous()
