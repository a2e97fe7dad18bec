"""The public ``lif``: checks its arguments, picks the implementation, and brings tensors into the kernels' layouts."""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from snnrepro.errors import ConfigError
from snnrepro.neurons import norm_ops, ops
from snnrepro.neurons.current import NormalisedCurrent
from snnrepro.neurons.dynamics import Dynamics
from snnrepro.neurons.kernels.cpu.cache import compiler
from snnrepro.neurons.ops import snapshot
from snnrepro.neurons.reference import LIFResult, lif_reference
from snnrepro.neurons.reparam import THRESHOLD_MAPS, inverse_sigmoid
from snnrepro.options import FAMILIES, LIF_BACKENDS, MAX_TIMESTEPS, RESETS, SURROGATES

FUSED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def lif(
    x: Tensor | NormalisedCurrent,
    u_init: Tensor,
    v_threshold: Tensor,
    tau: Tensor,
    *,
    timesteps: int,
    family: str,
    surrogate: str,
    gamma: float,
    reset: str,
    detach_reset: bool,
    backend: str,
    statistics: bool = True,
    threshold_map: str | None = None,
) -> LIFResult:
    """Returns what ``lif_reference`` defines, computed by ``backend`` (reference, compiled, triton, or auto).

    statistics: whether ``u_sum`` and ``active_count`` are asked for; without them and without gradients the kernels
    write outputs alone, and both are None. An ``x`` that a norm left uncomputed is normalised in the same kernel.
    threshold_map: where given, v_threshold and tau are the raw values of ``reparam.py``, mapped by it and by
    ``inverse_sigmoid``. Later changes of ``u_init`` do not reach the backward.
    float64 and empty inputs are computed by the reference. Raises ValueError for an unknown option, for ``timesteps``
    below 1, and for an input with another number of steps; ConfigError for more steps than the backend holds.
    """
    if backend == "auto":
        backend = _fitting(x.y if isinstance(x, NormalisedCurrent) else x, timesteps)
    dyn = _rules(timesteps, family, surrogate, gamma, reset, detach_reset, backend)
    outputs_alone = not statistics and not torch.is_grad_enabled()
    if isinstance(x, NormalisedCurrent):
        x.require_gradients()
        if _fusible(x, timesteps, backend):
            scalars = _float32(u_init, v_threshold, tau, threshold_map)
            return _norm_lif(x, scalars, (*dyn, threshold_map, backend), outputs_alone)
        x = x.tensor()
    if x.shape[0] not in (1, timesteps):
        raise ValueError(f"input has {x.shape[0]} steps, expected 1 or timesteps={timesteps}")
    if backend == "reference" or x.dtype not in FUSED_DTYPES or x.numel() == 0:
        if threshold_map is not None:
            v_threshold, tau = THRESHOLD_MAPS[threshold_map].of_tensor(v_threshold), inverse_sigmoid(tau)
        return lif_reference(x, snapshot(u_init), v_threshold, tau, **dyn._asdict())
    # Any dense layout is one row of memory per step: the axes in memory order, merged.
    order = [0, *_memory_order(x)]
    dense = x.permute(order).contiguous()
    rows = dense.reshape(dense.shape[0], -1)
    arguments = (rows, *_float32(u_init, v_threshold, tau, threshold_map), *dyn, threshold_map, backend)
    u_sum = active_count = None
    if outputs_alone:
        o = ops.lif_infer(*arguments)
    else:
        o, _, u_sum, active_count, _ = ops.lif(*arguments)
    inverse = sorted(range(x.ndim), key=lambda position: order[position])
    return LIFResult(o.view(timesteps, *dense.shape[1:]).permute(inverse), u_sum, active_count)


def _memory_order(x: Tensor) -> list[int]:
    """Returns the axes of a step by descending stride. By comparisons alone, which torch.compile knows of any size."""
    strides, order = x.stride(), list(range(1, x.ndim))
    for last in range(1, len(order)):
        for i in range(last, 0, -1):
            if strides[order[i - 1]] >= strides[order[i]]:
                break
            order[i - 1], order[i] = order[i], order[i - 1]
    return order


def _fitting(x: Tensor, timesteps: int) -> str:
    """Returns the fastest backend for ``x`` on this machine."""
    backend = "triton" if x.is_cuda else "compiled" if not x.is_mps and _has_compiler() else "reference"
    return backend if timesteps <= MAX_TIMESTEPS.get(backend, timesteps) else "reference"


@cache
def _has_compiler() -> bool:
    return compiler() is not None


def _rules(
    timesteps: int, family: str, surrogate: str, gamma: float, reset: str, detach_reset: bool, backend: str
) -> Dynamics:
    """Returns the rules of a layer. Raises as ``lif`` does for impossible ones."""
    for name, value, allowed in (
        ("family", family, FAMILIES),
        ("surrogate", surrogate, SURROGATES),
        ("reset", reset, RESETS),
        ("backend", backend, LIF_BACKENDS),
    ):
        if value not in allowed:
            raise ValueError(f"{name}={value!r} is not one of {', '.join(allowed)}")
    if timesteps < 1:
        raise ValueError(f"timesteps={timesteps} must be at least 1")
    if timesteps > MAX_TIMESTEPS.get(backend, timesteps):
        raise ConfigError(
            f"timesteps={timesteps}: runtime.backend={backend} holds at most {MAX_TIMESTEPS[backend]} steps; "
            "use runtime.backend=reference"
        )
    return Dynamics(timesteps, family, surrogate, gamma, reset, detach_reset)


def _float32(
    u_init: Tensor, v_threshold: Tensor, tau: Tensor, threshold_map: str | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the scalars as the operators read them: see ``reparam.kernel_scalars``."""
    tau = tau.float()
    return u_init.float(), v_threshold.float(), tau.reciprocal() if threshold_map is None else tau


def _fusible(x: NormalisedCurrent, timesteps: int, backend: str) -> bool:
    """Returns whether norm and LIF go into one kernel."""
    shortcut = x.shortcut.y if isinstance(x.shortcut, NormalisedCurrent) else x.shortcut
    same = shortcut is None or (shortcut.shape == x.y.shape and shortcut.dtype == x.y.dtype)
    fits = x.y.ndim >= 3 and x.y.dtype in FUSED_DTYPES and x.y.numel() > 0 and x.y.shape[0] in (1, timesteps)
    return backend != "reference" and same and fits and x.weight.dtype == torch.float32


def _one_kind(x: NormalisedCurrent, shortcut: NormalisedCurrent) -> bool:
    """Returns whether one kernel can normalise both: it knows one eps, and one origin of the statistics."""
    alike = x.eps == shortcut.eps and x.batch_stats == shortcut.batch_stats
    return alike and x.weight.dtype == shortcut.weight.dtype


def _norm_lif(
    x: NormalisedCurrent, scalars: tuple[Tensor, ...], rules: tuple[Any, ...], outputs_alone: bool
) -> LIFResult:
    shortcut = x.shortcut
    if isinstance(shortcut, NormalisedCurrent) and not _one_kind(x, shortcut):
        shortcut = shortcut.tensor()
    channels_last = not x.y.is_contiguous() and x.y.movedim(2, -1).is_contiguous()

    def norm(current: NormalisedCurrent) -> tuple[Tensor, ...]:
        return current.mean, current.var, current.weight, current.bias

    added: tuple[Tensor | None, ...]
    if isinstance(shortcut, NormalisedCurrent):
        added = (shortcut.y, *norm(shortcut))
    else:
        added = (shortcut, None, None, None, None)
    flags = (x.share, x.eps, x.batch_stats, channels_last)
    arguments = (x.y, *norm(x), *added, *scalars, *flags, *rules)
    if outputs_alone:
        return LIFResult(norm_ops.norm_lif_infer(*arguments), None, None)
    o, _, u_sum, active_count, *_ = norm_ops.norm_lif(*arguments)
    return LIFResult(o, u_sum, active_count)
