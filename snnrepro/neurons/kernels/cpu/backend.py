"""The LIF layer on CPUs: allocates, and calls ``lif.cpp``, which is compiled once per machine and set of rules.

The same functions as for GPUs, with the same shapes. Every step of the membrane is rounded as in the reference, so the
spikes are the reference's.
"""

from struct import Struct

import torch
from torch import Tensor

from snnrepro.collectives import all_sum
from snnrepro.errors import UserError
from snnrepro.neurons.dynamics import Dynamics
from snnrepro.neurons.kernels.cpu.cache import library
from snnrepro.neurons.kernels.rows import Norm, spikes_dtype

# Values of a window from which on a second thread is worth starting.
VALUES_PER_THREAD = 2**15
_FORWARD, _BACKWARD, _THROUGH_NORM = range(3)
_FLAT, _CHANNELS_FIRST, _CHANNELS_LAST = range(3)

# ``Call`` of ``lif.cpp``, field by field: three int64, two int32, three float, then pointers.
_NORM, _NORM2 = ("mean", "var", "weight", "bias"), ("mean2", "var2", "weight2", "bias2")
_POINTERS = (
    *("go", "x", "shortcut", "u_init", "v_threshold", "leak", *_NORM, *_NORM2),
    *("o", "spikes", "u_sum", "active_count", "table", "k"),
    *("gweight", "gbias", "gweight2", "gscalars", "gx", "gshortcut", "g"),
)
_CALL = Struct(f"@3q2i3f{len(_POINTERS)}P")

_Given = dict[str, Tensor | None]


def lif_forward(x: Tensor, u_init: Tensor, v_threshold: Tensor, leak: Tensor, dyn: Dynamics) -> tuple[Tensor, ...]:
    """Returns (o (T, N), spikes (N,), u_sum, active_count), see ``kernels/triton/backend.py``."""
    return _forward(x, {}, u_init, v_threshold, leak, dyn, _FLAT)


def lif_infer(x: Tensor, u_init: Tensor, v_threshold: Tensor, leak: Tensor, dyn: Dynamics) -> Tensor:
    """Returns only the outputs of ``lif_forward``, and writes nothing else."""
    return _forward(x, {}, u_init, v_threshold, leak, dyn, _FLAT, outputs_alone=True)[0]


def lif_backward(
    go: Tensor, x: Tensor, spikes: Tensor, u_init: Tensor, v_threshold: Tensor, leak: Tensor, dyn: Dynamics
) -> tuple[Tensor, Tensor]:
    """Returns the gradients of x, and of (u_init, v_threshold, leak) as one (3,) tensor."""
    gx, gscalars = torch.empty_like(x), _empty(3)
    given: _Given = {"go": go, "spikes": spikes, "gx": gx, "gscalars": gscalars}
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

    y, shortcut: (T or 1, B, C, ...), dense, with ``channels_last`` in memory as (T or 1, B, ..., C), like o.
    norm, shortcut_norm: mean, var, weight, bias, each (C,). rows: mean, scale, shift, invstd of each, for the backward.
    outputs_alone: returns (o,), and writes nothing else.
    """
    rows = _empty(4 if shortcut_norm is None else 8, len(norm[0]))
    given: _Given = {"shortcut": shortcut, "table": rows, **dict(zip(_NORM, norm, strict=True))}
    if shortcut_norm is not None:
        given |= zip(_NORM2, shortcut_norm, strict=True)
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

    share: as in ``rows.statistics_rows``; a tensor where ranks share the statistics. None for the gradient of what
    is absent.
    """
    layout, scalars = _CHANNELS_LAST if channels_last else _CHANNELS_FIRST, (u_init, v_threshold, leak)
    second = len(rows) > 4
    channels = rows.shape[1]
    gweight, gbias, gscalars, k = (_empty(n) for n in (channels, channels, 3, len(rows) // 2 * channels))
    gweight2 = _empty(channels) if second else None
    given: _Given = {"go": go, "spikes": spikes, "shortcut": shortcut, "table": rows, "k": k}
    # Of the second norm the backward asks only whether there is one: its numbers are in the table.
    given["mean2"] = rows if second else None
    gy, gshortcut = torch.empty_like(y), None if shortcut is None else torch.empty_like(shortcut)
    # The gradient of the current waits where one of the two will be, or apart where they are rounded to fewer bits.
    g = _empty(*y.shape) if y.dtype != torch.float32 else gy if gshortcut is None else gshortcut
    given |= {"gx": gy, "gshortcut": gshortcut, "g": g}
    given |= {"gweight": gweight, "gbias": gbias, "gscalars": gscalars, "gweight2": gweight2}
    _run(_BACKWARD, layout, y, scalars, dyn, given, share=float(share))
    if isinstance(share, Tensor):
        # Linear in the sums over positions, so ranks that share the statistics add up their rows instead.
        given["k"] = all_sum(k)
    _run(_THROUGH_NORM, layout, y, scalars, dyn, given)
    return gweight, gbias, gweight2, gbias.clone() if second else None, gscalars, gy, gshortcut


def _empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    # Whatever torch's default dtype and device are.
    return torch.empty(shape, dtype=dtype, device="cpu")


def _empty_steps(steps: int, x: Tensor, layout: int) -> Tensor:
    """Returns so many steps without values, in the order in which ``x`` lies in memory."""
    if layout == _CHANNELS_LAST:
        strides = (x.numel() // len(x), *x.stride()[1:])
        return torch.empty_strided((steps, *x.shape[1:]), strides, dtype=x.dtype, device="cpu")
    return _empty(steps, *x.shape[1:], dtype=x.dtype)


def _forward(
    x: Tensor,
    given: _Given,
    u_init: Tensor,
    v_threshold: Tensor,
    leak: Tensor,
    dyn: Dynamics,
    layout: int,
    *,
    eps: float = 0.0,
    outputs_alone: bool = False,
) -> tuple[Tensor, ...]:
    o = _empty_steps(dyn.timesteps, x, layout)
    if outputs_alone:
        _run(_FORWARD, layout, x, (u_init, v_threshold, leak), dyn, given | {"o": o}, eps=eps)
        return (o,)
    spikes = _empty(x.numel() // len(x), dtype=spikes_dtype(dyn.timesteps))
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
    given: _Given,
    *,
    eps: float = 0.0,
    share: float = 0.0,
) -> None:
    """Calls ``lif_run`` for the input ``x`` and what else is ``given``, by the names of ``_POINTERS``."""
    steps = len(x)
    size = x.numel() // steps
    rows, run, channels = 1, size, 0
    if layout != _FLAT:
        table = given["table"]
        assert table is not None
        channels = table.shape[1]
        run = channels if layout == _CHANNELS_LAST else size // (x.shape[1] * channels)
        rows = size // run
    threads = min(torch.get_num_threads(), 1 + size * dyn.timesteps // VALUES_PER_THREAD)
    u_init, v_threshold, leak = scalars
    given = {**given, "x": x, "u_init": u_init, "v_threshold": v_threshold, "leak": leak}
    for name, tensor in given.items():
        if tensor is not None and not tensor.is_cpu:
            raise UserError(
                f"runtime.backend=compiled runs on CPUs, {name} is on {tensor.device.type}: move network and input "
                "together, or use runtime.backend=reference"
            )
    # What is left out is null.
    pointers = [0 if (tensor := given.get(name)) is None else tensor.data_ptr() for name in _POINTERS]
    call = _CALL.pack(rows, run, channels, threads, steps == 1, dyn.gamma, eps, share, *pointers)
    library(dyn, x.dtype).lif_run(function, layout, call)
