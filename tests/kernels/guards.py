"""Memory that shows what a kernel read or wrote beyond its tensors, and what it forgot to write."""

import torch
from torch import Tensor

GUARD = 64


def guarded(value: Tensor) -> Tensor:
    """Returns a contiguous copy of ``value`` inside a larger buffer of NaN: whoever reads beyond it will show it."""
    buffer = torch.full((value.numel() + 2 * GUARD,), float("nan"), dtype=value.dtype)
    inside = buffer[GUARD : GUARD + value.numel()].view(value.shape)
    return inside.copy_(value)


class GuardedTorch:
    """``torch`` for a module under test: every allocation is poisoned and lies between two guards."""

    def __init__(self):
        self.buffers: list[Tensor] = []

    def __getattr__(self, name):
        return getattr(torch, name)

    def empty(self, *shape, dtype=torch.float32, device=None):
        """Returns memory full of NaN (integers: 85), inside a buffer that is full of it too."""
        shape = torch.Size(shape[0] if shape and not isinstance(shape[0], int) else shape)
        numel = shape.numel()
        buffer = torch.full((numel + 2 * GUARD,), float("nan") if dtype.is_floating_point else 85, dtype=dtype)
        self.buffers.append(buffer)
        return buffer[GUARD : GUARD + numel].view(shape)

    def empty_strided(self, shape, strides, dtype=torch.float32, device=None):
        """Returns poisoned memory of these strides, dense."""
        return self.empty(shape, dtype=dtype).as_strided(shape, strides)

    def empty_like(self, other):
        """Returns poisoned memory like ``other``, which is dense."""
        return self.empty_strided(other.shape, other.stride(), dtype=other.dtype)

    def damaged(self) -> int:
        """Returns how many guards were written to."""
        ends = [end for buffer in self.buffers for end in (buffer[:GUARD], buffer[-GUARD:])]
        return sum(not bool((end.isnan() if end.is_floating_point() else end == 85).all()) for end in ends)
