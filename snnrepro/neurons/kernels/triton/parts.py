"""The equations of a LIF layer and the places of its neurons in memory, as parts of the Triton kernels.

Notation as in ``reference.py``: here is the one other place where the neuron is written down. The charge uses explicit
fused multiply-adds, so that no compiler may round it differently in the forward and in the backward, which recomputes
the membranes; the backward's spikes come from the bits that the forward packed, never from a second comparison.
"""

import math
from typing import NamedTuple

import triton
import triton.language as tl

THREADS = tl.constexpr(128)
PI_HALF = tl.constexpr(math.pi / 2)
# The ratio m / v_threshold is cut here: finite, but far outside of every surrogate's window.
FAR = tl.constexpr(1e30)
FP32_MAX = tl.constexpr(3.4028234663852886e38)


class Layout(NamedTuple):
    """How one step of a layer lies in memory and is cut into tiles.

    channels, run: neuron (row, channel, col) has the offset (row * channels + channel) * run + col; with
        ``channels_last`` the channel is ``col``, and ``channels`` is 1.
    rows, cols: size of a tile, powers of two.
    channels_last: as above.
    static: the input has one step, which holds over the whole window.
    masked: some tile reaches over the edge.
    wide: offsets need 64 bits.
    """

    channels: int
    run: int
    rows: int
    cols: int
    channels_last: bool
    static: bool
    masked: bool
    wide: bool


@triton.jit
def place(program, lay: tl.constexpr):
    """Returns (row_block, channel, col) of a program's first tile, ``col`` as (1, cols); order as in memory."""
    col_blocks: tl.constexpr = (lay.run + lay.cols - 1) // lay.cols
    col = program % col_blocks * lay.cols + tl.arange(0, lay.cols)[None, :]
    outer = program // col_blocks
    return outer // lay.channels, outer % lay.channels, col


@triton.jit
def tile(row_block, channel, col, n, lay: tl.constexpr):
    """Returns offsets of a tile's neurons (rows, cols) within one step of ``n`` neurons, and its mask or None."""
    row = row_block * lay.rows + tl.arange(0, lay.rows)[:, None]
    if lay.wide:
        row = row.to(tl.int64)
    offset = (row * lay.channels + channel) * lay.run + col
    if not lay.masked:
        mask: tl.constexpr = None
    elif lay.run % lay.cols == 0:
        mask = offset < n
    else:
        mask = (offset < n) & (col < lay.run)
    return offset, mask


@triton.jit
def read(pointer, step, offset, mask, n, lay: tl.constexpr):
    """Returns one step of a tensor, in the tensor's dtype; zero where masked."""
    if lay.wide:
        n = n.to(tl.int64)
    if mask is None:
        return tl.load(pointer + step * n + offset)
    else:
        return tl.load(pointer + step * n + offset, mask=mask, other=0)


@triton.jit
def write(pointer, step, offset, mask, n, value, lay: tl.constexpr):
    """Writes one step of a tensor, rounded to the tensor's dtype."""
    if lay.wide:
        n = n.to(tl.int64)
    tl.store(pointer + step * n + offset, value.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def per_channel(table, index: tl.constexpr, channel, col, lay: tl.constexpr):
    """Returns row ``index`` of a (rows, C) table at a tile's channels, a scalar or (1, cols); None without table."""
    if table is None:
        return None
    elif lay.channels_last:
        return tl.load(table + index * lay.run + col, mask=col < lay.run, other=0)
    else:
        return tl.load(table + index * lay.channels + channel)


@triton.jit
def affine(norm, shortcut_norm, channel, col, lay: tl.constexpr):
    """Returns (scale, shift, shortcut_scale, shortcut_shift) at a tile's channels; None where there is no table."""
    return (
        per_channel(norm, 1, channel, col, lay),
        per_channel(norm, 2, channel, col, lay),
        per_channel(shortcut_norm, 1, channel, col, lay),
        per_channel(shortcut_norm, 2, channel, col, lay),
    )


@triton.jit
def normalised(y, scale, shift):
    """Returns ``y * scale + shift`` in fp32; ``y`` where scale is None."""
    if scale is None:
        return y.to(tl.float32)
    else:
        return tl.fma(y.to(tl.float32), scale, shift)


@triton.jit
def after_reset(m, s, v, dyn: tl.constexpr):
    """Returns the membrane after the reset (Eq. 3); ``s`` is boolean."""
    if dyn.reset == "soft":
        return tl.where(s, m - v, m)
    else:
        # A product, as in the reference: an infinite membrane becomes NaN and never spikes again.
        return m * tl.where(s, 0.0, 1.0)


@triton.jit
def _surrogate(z, dyn: tl.constexpr):
    """Returns f'(z), as in ``surrogates.py``; 0 at +-FAR."""
    gamma: tl.constexpr = dyn.gamma
    if dyn.surrogate == "rectangular":
        return tl.where(tl.abs(z) < gamma / 2, 1 / gamma, 0.0)
    elif dyn.surrogate == "triangular":
        return tl.maximum(gamma - tl.abs(z), 0.0) * (1 / (gamma * gamma))
    elif dyn.surrogate == "arctan":
        scaled = z * (PI_HALF * gamma)
        return (gamma / 2) / tl.fma(scaled, scaled, 1.0)
    elif dyn.surrogate == "dspike":
        # b sech(b z)^2 / (2 tanh(b / 2)) inside of the window, both by powers of e that do not overflow
        e = tl.exp(tl.abs(z) * (-2 * gamma))
        whole = tl.exp(tl.full((), -gamma, tl.float32))
        height = 2 * gamma * (1 + whole) / (1 - whole)
        return tl.where(tl.abs(z) < 0.5, height * e / ((1 + e) * (1 + e)), 0.0)
    elif dyn.surrogate == "linear":
        return tl.maximum(1 - tl.abs(z), 0.0) * gamma
    else:
        e = tl.exp(tl.abs(z) * (-1 / gamma))
        return e / ((1 + e) * (1 + e) * gamma)


@triton.jit
def _through_spike(go, carry, m, v, inverse, dyn: tl.constexpr):
    """Returns what reaches m and v through the firing of a step: (gm, gv).

    go, carry: gradients of o and of the membrane after reset. inverse: 1 / v, finite.
    For trsg the factor v of the output meets the 1 / v of z, and neither is computed.
    """
    ratio = 1.0
    if dyn.family == "as_sg":
        z = m - v
    else:
        ratio = tl.clamp(m * inverse, -FAR, FAR)
        z = ratio - 1
    if dyn.detach_reset:
        gs = go
    elif dyn.family == "trsg":
        gs = go - (carry if dyn.reset == "soft" else ratio * carry)
    else:
        gs = go - (v if dyn.reset == "soft" else m) * carry
    gm = gs * _surrogate(z, dyn)
    if dyn.family == "rs_sg":
        gm *= inverse
    return gm, -gm * ratio


@triton.jit
def window_backward(go, y, spikes, shortcut, factors, scalars, offset, mask, n, dyn: tl.constexpr, lay: tl.constexpr):
    """Returns (ys, shortcuts, gs, gu, gv, gleak) of one tile: the window recomputed, then walked back.

    ys, shortcuts, gs: tuples over the input's steps; gs holds the gradient of the current, summed over the window
    where the input is static. gu, gv, gleak: the tile's contributions to the gradients of the scalars.
    """
    u_init, v, leak = scalars
    scale, shift, shortcut_scale, shortcut_shift = factors
    bits = read(spikes, 0, offset, mask, n, lay).to(tl.int32)
    inverse = tl.minimum(1 / v, FP32_MAX)
    u = tl.zeros(offset.shape, tl.float32) + u_init
    ys, shortcuts, ms, pulls = (), (), (), ()
    for t in tl.static_range(dyn.timesteps):
        if t == 0 or not lay.static:
            ys = ys + (read(y, t, offset, mask, n, lay),)
            x = normalised(ys[-1], scale, shift)
            if shortcut is not None:
                shortcuts = shortcuts + (read(shortcut, t, offset, mask, n, lay),)
                x += normalised(shortcuts[-1], shortcut_scale, shortcut_shift)
        pull = x - u
        m = tl.fma(leak, pull, u)
        u = after_reset(m, (bits & (1 << t)) != 0, v, dyn)
        ms, pulls = ms + (m,), pulls + (pull,)
    carry = tl.zeros(offset.shape, tl.float32)
    gv = tl.zeros(offset.shape, tl.float32)
    gleak = tl.zeros(offset.shape, tl.float32)
    gs = ()
    for t in tl.static_range(dyn.timesteps - 1, -1, -1):
        go_t = read(go, t, offset, mask, n, lay).to(tl.float32)
        s = (bits & (1 << t)) != 0
        gm, gv_t = _through_spike(go_t, carry, ms[t], v, inverse, dyn)
        gv += gv_t
        if dyn.family == "trsg":
            gv += tl.where(s, go_t, 0.0)
        if dyn.reset == "hard":
            gm += tl.where(s, 0.0, carry)
        else:
            gm += carry
            if not dyn.detach_reset:
                gv -= tl.where(s, carry, 0.0)
        gleak = tl.fma(gm, pulls[t], gleak)
        if lay.static and t < dyn.timesteps - 1:
            gs = (gs[0] + leak * gm,)
        else:
            gs = (leak * gm,) + gs
        carry = gm * (1 - leak)
    return ys, shortcuts, gs, carry, gv, gleak


@triton.jit
def norm_gradient(norm, channel, col, lay: tl.constexpr):
    """Returns (mean, scale, k1, k0) at a tile's channels; None where there is no table."""
    return (
        per_channel(norm, 0, channel, col, lay),
        per_channel(norm, 1, channel, col, lay),
        per_channel(norm, 3, channel, col, lay),
        per_channel(norm, 4, channel, col, lay),
    )


@triton.jit
def through_norm(g, y, factors):
    """Returns the gradient of a normalised tensor: scale * g + k1 * (y - mean) + k0; ``g`` without norm."""
    mean, scale, k1, k0 = factors
    if mean is None:
        return g
    else:
        return tl.fma(scale, g, tl.fma(k1, y.to(tl.float32) - mean, k0))


@triton.jit
def per_thread(value, lay: tl.constexpr):
    """Returns the sum over each thread's neurons, (THREADS,): what a loop adds up takes one register."""
    return tl.sum(tl.reshape(value, (THREADS, lay.rows * lay.cols // THREADS)), axis=1)


@triton.jit
def write_scalars(partials, program, gu, gv, gleak):
    """Writes a program's sums to its column of (3, programs)."""
    programs = tl.num_programs(0)
    tl.store(partials + program, tl.sum(gu))
    tl.store(partials + programs + program, tl.sum(gv))
    tl.store(partials + 2 * programs + program, tl.sum(gleak))


@triton.jit
def write_channels(partials, index: tl.constexpr, program, channel, col, value, lay: tl.constexpr):
    """Writes a program's sums per channel into row ``index`` of (rows, slots, C), the slot being its own."""
    col_blocks: tl.constexpr = (lay.run + lay.cols - 1) // lay.cols
    if lay.channels_last:
        slots = tl.num_programs(0) // col_blocks
        place_C = partials + (index * slots + program // col_blocks) * lay.run + col
        tl.store(place_C, tl.sum(value, axis=0, keep_dims=True), mask=col < lay.run)
    else:
        slots = tl.num_programs(0) // lay.channels
        slot = program // (lay.channels * col_blocks) * col_blocks + program % col_blocks
        tl.store(partials + (index * slots + slot) * lay.channels + channel, tl.sum(value))
