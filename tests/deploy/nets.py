"""Small synthetic networks that the repository's own do not cover: spike sums, pools, norms per step."""

from functools import partial

import torch
from lif_options import make_lif
from torch import nn

from snnrepro.layers import per_step
from snnrepro.norms import make_tdbn

norm = partial(make_tdbn, residual=False, eps=1e-5, momentum=0.1)


class Unit(nn.Module):
    """Conv, norm, LIF."""

    def __init__(self, channels, out, make_norm=norm, stride=1, **neuron):
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.norm, self.sn = make_norm(out), make_lif(**neuron)

    def forward(self, x):
        return self.sn(self.norm(per_step(self.conv, x)))


class Skeleton(nn.Module):
    """Stem unit, ``body(x)`` of a subclass, average, linear layer."""

    def __init__(self, channels=4, make_norm=norm):
        super().__init__()
        self.timesteps = 3
        self.stem = Unit(3, channels, make_norm)
        self.fc = nn.Linear(channels, 5)

    def body(self, x):
        raise NotImplementedError

    def forward(self, x, timesteps=None):
        steps = timesteps or self.timesteps
        x = x[None].expand(steps, *x.shape) if x.ndim == 4 else x
        return self.fc(self.body(self.stem(x)).mean((-2, -1)))


class SEW(Skeleton):
    """Spike-element-wise ADD: every block adds its spikes to a stream of spikes that the next ones read.

    pool: None, or a pool between the blocks. The last stage projects, as SEW-ResNet does: conv, norm, LIF.
    """

    def __init__(self, pool=None):
        super().__init__()
        self.pool = pool
        self.one, self.two, self.three = (nn.Sequential(Unit(4, 4), Unit(4, 4)) for _ in range(3))
        self.down, self.main = Unit(4, 4, stride=2), Unit(4, 4, stride=2)

    def body(self, x):
        x = self.one(x) + x
        x = self.two(x) + x
        if self.pool is not None:
            x = per_step(self.pool, x)
        x = self.three(x) + x
        return self.main(x) + self.down(x)


class Chain(Skeleton):
    """A chain of units with a pool between them."""

    def __init__(self, pool, make_norm=norm):
        super().__init__(make_norm=make_norm)
        self.pool, self.one, self.two = pool, Unit(4, 4, make_norm), Unit(4, 4, make_norm)

    def body(self, x):
        return self.two(self.one(per_step(self.pool, x)))


class Free(Skeleton):
    """``body`` is whatever function the test gives; ``parts`` become submodules."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def body(self, x):
        return self.function(self, x)


class StepNorm(nn.Module):
    """A norm with its own scale and shift at each of ``steps`` steps, random."""

    time_shared = False

    def __init__(self, channels, steps=4):
        super().__init__()
        generator = torch.Generator().manual_seed(channels)
        self.register_buffer("scale", 0.5 + torch.rand(steps, channels, generator=generator))
        self.register_buffer("shift", torch.rand(steps, channels, generator=generator))

    def forward(self, x):
        shape = (len(x), 1, -1, 1, 1)
        return x * self.scale[: len(x)].reshape(shape) + self.shift[: len(x)].reshape(shape)

    def eval_affine(self):
        return self.scale.double(), self.shift.double()


def tie(model, names, v_threshold_raw=0.2):
    """Gives the named layers one threshold."""
    with torch.no_grad():
        for name in names:
            model.get_submodule(name).v_threshold_raw.fill_(v_threshold_raw)
    return model
