"""How the Triton kernels cut a step of neurons into tiles: one per program, a few neurons per thread."""

import triton
from torch import Tensor

from snnrepro.neurons.kernels.triton.parts import THREADS, Layout

# Width of a tile in the channels_last layout: 64 neighbours fill whole sectors of memory, and few channels per
# program mean few partial sums.
CHANNELS_PER_TILE = 64


def neurons_per_thread(kernel: str, timesteps: int, channels_last: bool = False, shortcut: int = 0) -> int:
    """Returns 4, which makes the widest loads, or fewer where the registers would not hold as many windows.

    kernel: forward, reduce or backward. shortcut: 2 for one with a norm of its own, 1 for another. The reduce kernel
    also keeps two or three sums per neuron, or per channel where that is the innermost axis.
    """
    if kernel == "reduce":
        if timesteps <= (2 if channels_last else 4):
            return 4
        return 1 if timesteps > 6 and shortcut == 2 else 2
    return 4 if timesteps <= (4 if kernel == "backward" else 6) else 2


def tiles(y: Tensor, timesteps: int, channels_last: bool, per_thread: int) -> tuple[Layout, int]:
    """Returns how one step of ``y`` is cut into tiles, and the number of row blocks."""
    size = THREADS.value * per_thread
    neurons = y[0].numel()
    if y.ndim == 2:
        # One run of N neurons, cut into rows of a tile each; the last may be incomplete.
        batch, channels, run, cols = triton.cdiv(neurons, size), 1, size, size
    elif channels_last:
        batch, channels, run = y.shape[1] * y.shape[2], 1, y.shape[3]
        cols = min(triton.next_power_of_2(max(run, 1)), CHANNELS_PER_TILE)
    else:
        _, batch, channels, run = y.shape
        cols = min(triton.next_power_of_2(max(run, 1)), size)
    rows = size // cols
    row_blocks = triton.cdiv(batch, rows)
    lay = Layout(
        channels=channels,
        run=run,
        rows=rows,
        cols=cols,
        channels_last=channels_last,
        static=y.shape[0] < timesteps,
        masked=neurons != row_blocks * rows * channels * triton.cdiv(run, cols) * cols,
        wide=timesteps * row_blocks * rows * channels * run >= 2**31,
    )
    return lay, row_blocks


def kind_of(shortcut: Tensor | None, shortcut_norm: Tensor | None) -> int:
    """Returns the kind of a shortcut as ``neurons_per_thread`` counts them."""
    return (shortcut is not None) + (shortcut_norm is not None)


def programs_per_row_block(lay: Layout) -> int:
    """Returns how many programs share a block of rows."""
    return lay.channels * triton.cdiv(lay.run, lay.cols)
