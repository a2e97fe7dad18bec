"""The LIF layer as three Triton kernels: forward, reduce and backward, with or without normalisation in front.

A program takes tiles of neurons, keeps the whole window of a tile in registers, and reads and writes every tensor
once. Arguments named after tensors are pointers; one that is None switches its part off at compile time. Nothing is
added atomically: every program writes its sums to a place of its own.

``norm`` and ``shortcut_norm`` are fp32 tables (rows, C): mean, scale, shift, and for the backward kernel k1, k0.
"""

import triton
import triton.language as tl

from snnrepro.neurons.kernels.triton.parts import (
    THREADS,
    affine,
    after_reset,
    norm_gradient,
    normalised,
    per_channel,
    per_thread,
    place,
    read,
    through_norm,
    tile,
    window_backward,
    write,
    write_channels,
    write_scalars,
)

# The alignment of what is read or written one number at a time is no reason for another compilation.
SCALARS = ["u_init", "v_threshold", "leak"]


@triton.jit(do_not_specialize_on_alignment=[*SCALARS, "u_sums", "counts"])
def forward_kernel(
    y,
    norm,
    shortcut,
    shortcut_norm,
    u_init,
    v_threshold,
    leak,
    o,
    spikes,
    u_sums,
    counts,
    n,
    dyn: tl.constexpr,
    lay: tl.constexpr,
):
    """Writes outputs; with ``spikes`` also packed spikes and, per program, sum and number of active membranes."""
    program = tl.program_id(0)
    row_block, channel, col = place(program, lay)
    offset, mask = tile(row_block, channel, col, n, lay)
    scale, shift, shortcut_scale, shortcut_shift = affine(norm, shortcut_norm, channel, col, lay)
    v, a = tl.load(v_threshold), tl.load(leak)
    high = v.to(o.dtype.element_ty) if dyn.family == "trsg" else 1.0
    u = tl.zeros(offset.shape, tl.float32) + tl.load(u_init)
    bits = tl.zeros(offset.shape, tl.int32)
    for t in tl.static_range(dyn.timesteps):
        if t == 0 or not lay.static:
            x = normalised(read(y, t, offset, mask, n, lay), scale, shift)
            if shortcut is not None:
                x += normalised(read(shortcut, t, offset, mask, n, lay), shortcut_scale, shortcut_shift)
        m = tl.fma(a, x - u, u)
        s = m >= v
        u = after_reset(m, s, v, dyn)
        write(o, t, offset, mask, n, tl.where(s, high, 0.0), lay)
        bits |= tl.where(s, 1 << t, 0)
    if spikes is not None:
        write(spikes, 0, offset, mask, n, bits, lay)
        active = bits != 0
        if mask is not None:
            active = active & mask
        tl.store(u_sums + program, tl.sum(tl.where(active, u, 0.0)))
        tl.store(counts + program, tl.sum(active.to(tl.int32)))


@triton.jit(
    do_not_specialize=["row_blocks"],
    do_not_specialize_on_alignment=[*SCALARS, "channel_partials", "scalar_partials"],
)
def reduce_kernel(
    go,
    y,
    spikes,
    norm,
    shortcut,
    shortcut_norm,
    u_init,
    v_threshold,
    leak,
    channel_partials,
    scalar_partials,
    n,
    row_blocks,
    dyn: tl.constexpr,
    lay: tl.constexpr,
):
    """Writes, per program, the sums for the gradients of norm, shortcut_norm and the scalars.

    channel_partials: (2 or 3, slots, C), sums of g, g * (y - mean) and g * (shortcut - shortcut_mean).
    A program stays with its channels and strides over the row blocks: so all programs move through memory together
    and leave its end in the cache, where the backward kernel starts.
    """
    program = tl.program_id(0)
    first, channel, col = place(program, lay)
    factors = affine(norm, shortcut_norm, channel, col, lay)
    mean, shortcut_mean = per_channel(norm, 0, channel, col, lay), per_channel(shortcut_norm, 0, channel, col, lay)
    scalars = tl.load(u_init), tl.load(v_threshold), tl.load(leak)
    zeros = tl.zeros((lay.rows, lay.cols), tl.float32)
    sum_g, sum_y, sum_shortcut = zeros, zeros, zeros
    zero = tl.zeros((THREADS,), tl.float32)
    sum_u, sum_v, sum_leak = zero, zero, zero
    stride = tl.num_programs(0) // (lay.channels * ((lay.run + lay.cols - 1) // lay.cols))
    for row_block in range(first, row_blocks, stride):
        offset, mask = tile(row_block, channel, col, n, lay)
        ys, shortcuts, gs, gu, gv, gleak = window_backward(
            go, y, spikes, shortcut, factors, scalars, offset, mask, n, dyn, lay
        )
        # Last step first, as they are found: what a step needed can leave the registers.
        for t in tl.static_range(0 if lay.static else dyn.timesteps - 1, -1, -1):
            sum_g += gs[t]
            sum_y = tl.fma(gs[t], ys[t].to(tl.float32) - mean, sum_y)
            if shortcut_norm is not None:
                sum_shortcut = tl.fma(gs[t], shortcuts[t].to(tl.float32) - shortcut_mean, sum_shortcut)
        sum_u += per_thread(gu, lay)
        sum_v += per_thread(gv, lay)
        sum_leak += per_thread(gleak, lay)
    write_scalars(scalar_partials, program, sum_u, sum_v, sum_leak)
    write_channels(channel_partials, 0, program, channel, col, sum_g, lay)
    write_channels(channel_partials, 1, program, channel, col, sum_y, lay)
    if shortcut_norm is not None:
        write_channels(channel_partials, 2, program, channel, col, sum_shortcut, lay)


@triton.jit(do_not_specialize_on_alignment=[*SCALARS, "scalar_partials"])
def backward_kernel(
    go,
    y,
    spikes,
    norm,
    shortcut,
    shortcut_norm,
    u_init,
    v_threshold,
    leak,
    gy,
    gshortcut,
    scalar_partials,
    n,
    dyn: tl.constexpr,
    lay: tl.constexpr,
):
    """Writes the gradients of y and shortcut; without ``norm`` also the scalars' sums, per program.

    With ``norm`` the sums are those of the reduce kernel, and the tiles come in the opposite order.
    """
    program = tl.program_id(0)
    row_block, channel, col = place(program if norm is None else tl.num_programs(0) - 1 - program, lay)
    offset, mask = tile(row_block, channel, col, n, lay)
    factors = affine(norm, shortcut_norm, channel, col, lay)
    scalars = tl.load(u_init), tl.load(v_threshold), tl.load(leak)
    ys, shortcuts, gs, gu, gv, gleak = window_backward(
        go, y, spikes, shortcut, factors, scalars, offset, mask, n, dyn, lay
    )
    # Read before the first write: after it the compiler would have to read them again.
    of_norm = norm_gradient(norm, channel, col, lay)
    of_shortcut_norm = norm_gradient(shortcut_norm, channel, col, lay)
    for t in tl.static_range(0 if lay.static else dyn.timesteps - 1, -1, -1):
        write(gy, t, offset, mask, n, through_norm(gs[t], ys[t], of_norm), lay)
        if shortcut is not None:
            write(gshortcut, t, offset, mask, n, through_norm(gs[t], shortcuts[t], of_shortcut_norm), lay)
    if norm is None:
        write_scalars(scalar_partials, program, gu, gv, gleak)
