"""The LIF layer on Triton: allocates, cuts a step into tiles, launches the kernels.

Tensors are contiguous and on one device. LIF: x, o and go are (T, N), x may be (1, N) for a current that is constant
over the window. With normalisation: y, o and go are (T, B, C, S), or (T, B, S, C) with ``channels_last``; y may have
one step. Only the two functions that ``norm_ops.py`` calls meet (T, B, C, H, W), see there. fp32, bf16 or fp16;
membranes and sums are fp32. Scalars ``u_init``, ``v_threshold``, ``leak`` are 0-d fp32.

spikes: bit t of a neuron's number says that it fired in step t; uint8 up to 8 steps, int16 up to 16.
norm, shortcut_norm: fp32 (rows, C), rows mean, scale, shift, and k1, k0 for ``norm_lif_backward``.

Sums depend on shapes alone: how many programs write partial sums is the same on every device, and those are added in
a fixed order.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from snnrepro.collectives import all_sum
from snnrepro.neurons.dynamics import Dynamics
from snnrepro.neurons.kernels.rows import Norm, norm_rows, spikes_dtype, statistics_rows
from snnrepro.neurons.kernels.triton.kernels import backward_kernel, forward_kernel, reduce_kernel
from snnrepro.neurons.kernels.triton.parts import THREADS
from snnrepro.neurons.kernels.triton.tiles import kind_of, neurons_per_thread, programs_per_row_block, tiles

# Programs of the reduce kernel: enough for several waves on the largest device, few enough for the sums that follow.
REDUCE_PROGRAMS = 4096
# Row blocks a program adds up before it writes sums for a whole row of channels.
ROW_BLOCKS_PER_SUM = 8


def empty_spikes(y: Tensor, timesteps: int) -> Tensor:
    """Returns room for the packed spikes of a layer with the input ``y``. Raises ValueError above 16 steps."""
    if timesteps > 16:
        raise ValueError(f"timesteps={timesteps} is above 16: the Triton backend packs spikes into 16 bits")
    return torch.empty(y.shape[1:], dtype=spikes_dtype(timesteps), device=y.device)


def _launch(kernel: Any, programs: int, y: Tensor, *arguments: object, maxnreg: int | None = None) -> None:
    with torch.cuda.device_of(y):
        kernel[(programs,)](*arguments, num_warps=THREADS.value // 32, num_stages=1, maxnreg=maxnreg)


def norm_lif_forward(
    y: Tensor,
    norm: Tensor | None,
    shortcut: Tensor | None,
    shortcut_norm: Tensor | None,
    u_init: Tensor,
    v_threshold: Tensor,
    leak: Tensor,
    dyn: Dynamics,
    channels_last: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns (o, spikes, u_sum, active_count) of a normalised current ``y * scale + shift`` plus shortcut.

    u_sum: fp32 0-d, membranes after the last reset summed over neurons with a spike; active_count: int64 0-d.
    Raises ValueError above 16 steps.
    """
    lay, row_blocks = tiles(y, dyn.timesteps, channels_last, neurons_per_thread("forward", dyn.timesteps))
    programs = row_blocks * programs_per_row_block(lay)
    o = torch.empty((dyn.timesteps, *y.shape[1:]), dtype=y.dtype, device=y.device)
    spikes = empty_spikes(y, dyn.timesteps)
    u_sums = torch.empty(programs, dtype=torch.float32, device=y.device)
    counts = torch.empty(programs, dtype=torch.int32, device=y.device)
    if programs:
        tables = (norm, shortcut, shortcut_norm, u_init, v_threshold, leak)
        _launch(forward_kernel, programs, y, y, *tables, o, spikes, u_sums, counts, spikes.numel(), dyn, lay)
    return o, spikes, u_sums.sum(), counts.sum()


def norm_lif_infer(
    y: Tensor,
    norm: Tensor | None,
    shortcut: Tensor | None,
    shortcut_norm: Tensor | None,
    u_init: Tensor,
    v_threshold: Tensor,
    leak: Tensor,
    dyn: Dynamics,
    channels_last: bool,
) -> Tensor:
    """Returns only the outputs of ``norm_lif_forward``, and writes nothing else."""
    lay, row_blocks = tiles(y, dyn.timesteps, channels_last, neurons_per_thread("forward", dyn.timesteps))
    programs = row_blocks * programs_per_row_block(lay)
    o = torch.empty((dyn.timesteps, *y.shape[1:]), dtype=y.dtype, device=y.device)
    if programs:
        tables = (norm, shortcut, shortcut_norm, u_init, v_threshold, leak)
        _launch(forward_kernel, programs, y, y, *tables, o, None, None, None, y[0].numel(), dyn, lay)
    return o


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
    """Returns what ``norm_lif_forward`` does, and what the backward needs: the rows of one or two norms, (4 or 8, C).

    y, shortcut: (T or 1, B, C, ...), dense, with ``channels_last`` in memory as (T or 1, B, ..., C), like o.
    norm, shortcut_norm: mean, var, weight, bias, each (C,). outputs_alone: returns (o,), and writes nothing else.
    """
    rows = torch.cat([norm_rows(*table, eps) for table in (norm, shortcut_norm) if table is not None])
    added = None if shortcut is None else _inner(shortcut, channels_last)
    tables = (rows[:3], added, None if shortcut_norm is None else rows[4:7])
    given: Any = (_inner(y, channels_last), *tables, u_init, v_threshold, leak, dyn, channels_last)
    if outputs_alone:
        return (_outer(norm_lif_infer(*given), y, channels_last),)
    o, spikes, *sums = norm_lif_forward(*given)
    return _outer(o, y, channels_last), spikes.view(-1), *sums, rows


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

    share: as in ``statistics_rows``; a tensor where ranks share the statistics. None for the gradient of what is
    absent.
    """
    norm, norm2 = rows[:4], rows[4:] if len(rows) > 4 else None
    rest: Any = (u_init, v_threshold, leak, dyn, channels_last)
    shape, added = y, None if shortcut is None else _inner(shortcut, channels_last)
    go, y = _inner(go, channels_last), _inner(y, channels_last)
    given = (added, None if norm2 is None else norm2[:3])
    sums, gscalars = norm_lif_reduce(go, y, spikes, norm[:3], *given, *rest)

    def statistics(norm: Tensor, sum_gy: Tensor) -> Tensor:
        rows = statistics_rows(norm, sums[0], sum_gy, share)
        # Linear in the sums over positions, so ranks that share the statistics add up their rows instead.
        return all_sum(rows) if isinstance(share, Tensor) else rows

    table = torch.cat([norm[:3], statistics(norm, sums[1])])
    table2 = gweight2 = gbias2 = None
    if norm2 is not None:
        table2 = torch.cat([norm2[:3], statistics(norm2, sums[2])])
        gweight2, gbias2 = sums[2] * norm2[3], sums[0].clone()
    gy, gadded = norm_lif_backward(go, y, spikes, table, added, table2, *rest)
    gshortcut = None if gadded is None else _outer(gadded, shape, channels_last)
    gy = _outer(gy, shape, channels_last)
    return sums[1] * norm[3], sums[0].clone(), gweight2, gbias2, gscalars, gy, gshortcut


def _inner(x: Tensor, channels_last: bool) -> Tensor:
    """Returns (T, B, C, ...) as it lies in memory, (T, B, C, S) or (T, B, S, C)."""
    if channels_last:
        return x.movedim(2, -1).flatten(2, -2)
    return x[..., None] if x.ndim == 3 else x.flatten(3)


def _outer(x: Tensor, like: Tensor, channels_last: bool) -> Tensor:
    """Returns what ``_inner`` did to a tensor of the shape of ``like`` undone; ``x`` may have more steps."""
    _, batch, channels, *size = like.shape
    if channels_last:
        return x.view(-1, batch, *size, channels).movedim(-1, 2)
    return x.view(-1, batch, channels, *size)


def norm_lif_reduce(
    go: Tensor,
    y: Tensor,
    spikes: Tensor,
    norm: Tensor,
    shortcut: Tensor | None,
    shortcut_norm: Tensor | None,
    u_init: Tensor,
    v_threshold: Tensor,
    leak: Tensor,
    dyn: Dynamics,
    channels_last: bool,
) -> tuple[Tensor, Tensor]:
    """Returns (sums, gscalars): what the backward of the normalisation needs before its last pass.

    sums: fp32 (2, C), over all steps and positions, of g, the gradient of the current, and of g * (y - mean); with
    ``shortcut_norm`` (3, C), also of g * (shortcut - shortcut_mean).
    gscalars: fp32 (3,), gradients of u_init, v_threshold, leak.
    """
    per_thread = neurons_per_thread("reduce", dyn.timesteps, channels_last, kind_of(shortcut, shortcut_norm))
    lay, row_blocks = tiles(y, dyn.timesteps, channels_last, per_thread)
    # Long windows with a shortcut fit into 96 registers without spilling, but the assembler alone takes up to 128.
    maxnreg = 96 if 6 < dyn.timesteps <= 8 and shortcut is not None else None
    per_row_block = programs_per_row_block(lay)
    row_programs = row_blocks // (ROW_BLOCKS_PER_SUM if channels_last else 1)
    row_programs = min(max(row_programs, 1), max(REDUCE_PROGRAMS // max(per_row_block, 1), 1), row_blocks)
    programs = row_programs * per_row_block
    slots = row_programs if channels_last else row_programs * triton.cdiv(lay.run, lay.cols)
    sums = torch.empty((2 if shortcut_norm is None else 3, slots, norm.shape[1]), dtype=torch.float32, device=y.device)
    scalars = torch.empty((3, programs), dtype=torch.float32, device=y.device)
    if programs:
        tables = (norm, shortcut, shortcut_norm, u_init, v_threshold, leak)
        partials = (sums, scalars, spikes.numel(), row_blocks)
        _launch(reduce_kernel, programs, y, go, y, spikes, *tables, *partials, dyn, lay, maxnreg=maxnreg)
    return sums.sum(1), scalars.sum(1)


def norm_lif_backward(
    go: Tensor,
    y: Tensor,
    spikes: Tensor,
    norm: Tensor,
    shortcut: Tensor | None,
    shortcut_norm: Tensor | None,
    u_init: Tensor,
    v_threshold: Tensor,
    leak: Tensor,
    dyn: Dynamics,
    channels_last: bool,
) -> tuple[Tensor, Tensor | None]:
    """Returns (gy, gshortcut), the latter None without shortcut: the last pass, after ``norm_lif_reduce``.

    norm and shortcut_norm have five rows. gy = scale * g + k1 * (y - mean) + k0, in shape and dtype of y, g summed
    over the window where y has one step; gshortcut likewise, or g where there is no ``shortcut_norm``.
    """
    per_thread = neurons_per_thread("backward", dyn.timesteps, channels_last, kind_of(shortcut, shortcut_norm))
    lay, row_blocks = tiles(y, dyn.timesteps, channels_last, per_thread)
    programs = row_blocks * programs_per_row_block(lay)
    gy = torch.empty_like(y)
    gshortcut = None if shortcut is None else torch.empty_like(shortcut)
    if programs:
        tables = (norm, shortcut, shortcut_norm, u_init, v_threshold, leak)
        _launch(backward_kernel, programs, y, go, y, spikes, *tables, gy, gshortcut, None, spikes.numel(), dyn, lay)
    return gy, gshortcut


def lif_forward(
    x: Tensor, u_init: Tensor, v_threshold: Tensor, leak: Tensor, dyn: Dynamics
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns (o, spikes, u_sum, active_count), see ``norm_lif_forward``. Raises ValueError above 16 steps."""
    return norm_lif_forward(x, None, None, None, u_init, v_threshold, leak, dyn, channels_last=False)


def lif_infer(x: Tensor, u_init: Tensor, v_threshold: Tensor, leak: Tensor, dyn: Dynamics) -> Tensor:
    """Returns only the outputs of ``lif_forward``, and writes nothing else."""
    return norm_lif_infer(x, None, None, None, u_init, v_threshold, leak, dyn, channels_last=False)


def lif_backward(
    go: Tensor,
    x: Tensor,
    spikes: Tensor,
    u_init: Tensor,
    v_threshold: Tensor,
    leak: Tensor,
    dyn: Dynamics,
) -> tuple[Tensor, Tensor]:
    """Returns (gx, gscalars): gx in shape and dtype of x; gscalars fp32 (3,), of u_init, v_threshold, leak."""
    lay, programs = tiles(x, dyn.timesteps, False, neurons_per_thread("backward", dyn.timesteps))
    gx = torch.empty_like(x)
    scalars = torch.empty((3, programs), dtype=torch.float32, device=x.device)
    if programs:
        tables = (None, None, None, u_init, v_threshold, leak)
        _launch(backward_kernel, programs, x, go, x, spikes, *tables, gx, None, scalars, spikes.numel(), dyn, lay)
    return gx, scalars.sum(1)
