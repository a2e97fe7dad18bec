"""The LIF layer on CPUs: allocates, and calls ``lif.cpp``, which is compiled once per machine and set of rules.

The same functions as in ``triton_backend.py``, with the same shapes. Every step of the membrane is rounded as in the
reference, so the spikes are the reference's.
"""

import ctypes
from ctypes import c_float, c_int32, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from snnrepro.collectives import all_sum
from snnrepro.neurons.analytic import Norm, spikes_dtype
from snnrepro.neurons.dynamics import Dynamics
from snnrepro.neurons.kernel_cache import library

# Values of a window from which on a second thread is worth starting.
VALUES_PER_THREAD = 2**15
_FORWARD, _BACKWARD, _THROUGH_NORM = range(3)
_FLAT, _CHANNELS_FIRST, _CHANNELS_LAST = range(3)


class _Call(ctypes.Structure):
    """``Call`` of ``lif.cpp``, field by field; what is left out is null."""

    _fields_ = (
        *((name, c_int64) for name in ("rows", "run", "channels")),
        *((name, c_int32) for name in ("threads", "constant")),
        *((name, c_float) for name in ("gamma", "eps", "share")),
        *((name, c_void_p) for name in ("go", "x", "shortcut", "u_init", "v_threshold", "leak")),
        ("norm", c_void_p * 4),
        ("shortcut_norm", c_void_p * 4),
        *((name, c_void_p) for name in ("o", "spikes", "u_sum", "active_count", "table", "k")),
        *((name, c_void_p) for name in ("gweight", "gbias", "gshortcut_weight", "gscalars", "gx", "gshortcut", "g")),
    )


def lif_forward(x: Tensor, u_init: Tensor, v_threshold: Tensor, leak: Tensor, dyn: Dynamics) -> tuple[Tensor, ...]:
    """Returns (o (T, N), spikes (N,), u_sum, active_count), see ``analytic.lif_forward``."""
    return _forward(x, {}, u_init, v_threshold, leak, dyn, _FLAT)


def lif_infer(x: Tensor, u_init: Tensor, v_threshold: Tensor, leak: Tensor, dyn: Dynamics) -> Tensor:
    """Returns only the outputs of ``lif_forward``, and writes nothing else."""
    return _forward(x, {}, u_init, v_threshold, leak, dyn, _FLAT, outputs_alone=True)[0]


def lif_backward(
    go: Tensor, x: Tensor, spikes: Tensor, u_init: Tensor, v_threshold: Tensor, leak: Tensor, dyn: Dynamics
) -> tuple[Tensor, Tensor]:
    """Returns the gradients of x, and of (u_init, v_threshold, leak) as one (3,) tensor."""
    gx, gscalars = torch.empty_like(x), _empty(3)
    given = {"go": go, "spikes": spikes, "gx": gx, "gscalars": gscalars}
    _run(_BACKWARD, _FLAT, x, (u_init, v_threshold, leak), dyn, given)
    return gx, gscalars


def norm_lif(
    y: Tensor,
    norm: Norm,
    shortcut: Tensor | None,
    shortcut_norm: Norm | None,
    u_init: Tensor,
    v_threshold: Tensor,
    leak: Tensor,
    dyn: Dynamics,
    eps: float,
    channels_last: bool,
    outputs_alone: bool = False,
) -> tuple[Tensor, ...]:
    """Returns what ``lif_forward`` does for the normalised current, and the rows of one or two norms, (4 or 8, C).

    norm, shortcut_norm: mean, var, weight, bias, each (C,). rows: mean, scale, shift, invstd of each, for the backward.
    outputs_alone: returns (o,), and writes nothing else.
    """
    rows = _empty(4 if shortcut_norm is None else 8, len(norm[0]))
    given: dict[str, Any] = {"shortcut": shortcut, "norm": norm, "shortcut_norm": shortcut_norm, "table": rows}
    layout = _CHANNELS_LAST if channels_last else _CHANNELS_FIRST
    found = _forward(y, given, u_init, v_threshold, leak, dyn, layout, eps=eps, outputs_alone=outputs_alone)
    return found if outputs_alone else (*found, rows)


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
    """Returns the gradients of weight, bias, the shortcut's weight and bias, the scalars (3,), y, and the shortcut.

    share: as in ``analytic.statistics_rows``; a tensor where ranks share the statistics. None for the gradient of what
    is absent.
    """
    layout, scalars = _CHANNELS_LAST if channels_last else _CHANNELS_FIRST, (u_init, v_threshold, leak)
    second = len(rows) > 4
    channels = rows.shape[1]
    gweight, gbias, gscalars, k = (_empty(n) for n in (channels, channels, 3, len(rows) // 2 * channels))
    gweight2 = _empty(channels) if second else None
    # Only whether there is a norm counts in the backward; its numbers are in the table.
    given: dict[str, Any] = {"go": go, "spikes": spikes, "shortcut": shortcut, "table": rows, "k": k}
    given["shortcut_norm"] = (rows,) * 4 if second else None
    gy, gshortcut = torch.empty_like(y), None if shortcut is None else torch.empty_like(shortcut)
    # The gradient of the current waits where one of the two will be, or apart where they are rounded to fewer bits.
    g = _empty(*y.shape) if y.dtype != torch.float32 else gy if gshortcut is None else gshortcut
    given |= {"gx": gy, "gshortcut": gshortcut, "g": g}
    sums = {"gweight": gweight, "gbias": gbias, "gscalars": gscalars, "gshortcut_weight": gweight2}
    _run(_BACKWARD, layout, y, scalars, dyn, given | sums, share=float(share))
    if isinstance(share, Tensor):
        # Linear in the sums over positions, so ranks that share the statistics add up their rows instead.
        given["k"] = all_sum(k)
    _run(_THROUGH_NORM, layout, y, scalars, dyn, given)
    return gweight, gbias, gweight2, gbias.clone() if second else None, gscalars, gy, gshortcut


def _empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    # Whatever torch's default dtype and device are.
    return torch.empty(shape, dtype=dtype, device="cpu")


def _forward(
    x: Tensor,
    given: dict[str, Any],
    u_init: Tensor,
    v_threshold: Tensor,
    leak: Tensor,
    dyn: Dynamics,
    layout: int,
    *,
    eps: float = 0.0,
    outputs_alone: bool = False,
) -> tuple[Tensor, ...]:
    o = _empty(dyn.timesteps, *x.shape[1:], dtype=x.dtype)
    if outputs_alone:
        _run(_FORWARD, layout, x, (u_init, v_threshold, leak), dyn, given | {"o": o}, eps=eps)
        return (o,)
    spikes = _empty(*x.shape[1:], dtype=spikes_dtype(dyn.timesteps))
    u_sum, active_count = _empty(), _empty(dtype=torch.int64)
    given = given | {"o": o, "spikes": spikes, "u_sum": u_sum, "active_count": active_count}
    _run(_FORWARD, layout, x, (u_init, v_threshold, leak), dyn, given, eps=eps)
    return o, spikes, u_sum, active_count


def _run(
    function: int,
    layout: int,
    x: Tensor,
    scalars: tuple[Tensor, ...],
    dyn: Dynamics,
    given: dict[str, Any],
    **numbers: float,
) -> None:
    """Calls ``lif_run`` for the input ``x`` and what else is ``given``, by the names of ``Call``."""
    steps, *inner = x.shape
    size = x.numel() // steps
    if layout == _FLAT:
        rows, run, channels = 1, size, 0
    else:
        run, channels = inner[2], inner[2 if layout == _CHANNELS_LAST else 1]
        rows = size // run
    pointers = {
        name: (c_void_p * 4)(*(row.data_ptr() for row in value)) if isinstance(value, tuple) else value.data_ptr()
        for name, value in given.items()
        if value is not None
    }
    u_init, v_threshold, leak = (scalar.data_ptr() for scalar in scalars)
    call = _Call(
        rows=rows,
        run=run,
        channels=channels,
        threads=min(torch.get_num_threads(), 1 + size * dyn.timesteps // VALUES_PER_THREAD),
        constant=steps == 1,
        gamma=dyn.gamma,
        x=x.data_ptr(),
        u_init=u_init,
        v_threshold=v_threshold,
        leak=leak,
        **numbers,
        **pointers,
    )
    library(dyn, x.dtype).lif_run(function, layout, ctypes.byref(call))
