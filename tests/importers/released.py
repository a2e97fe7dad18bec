"""The released ResNet-19 as its documentation and key names describe it, in evaluation mode, written out in float64.

Nothing of the package is used: the parameter names and the arithmetic are what the importer must get right.
"""

import torch
from torch import nn
from torch.nn import functional as F


class Parts(nn.Module):
    """The container of older SpikingJelly versions: ``module.0``, ``module.1``, or ``module`` for a single part."""

    def __init__(self, *parts):
        super().__init__()
        self.module = parts[0] if len(parts) == 1 else nn.Sequential(*parts)

    def forward(self, x):
        return self.module(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class NewParts(nn.Sequential):
    """The container of newer versions: ``0``, ``1``."""

    def forward(self, x):
        return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class Neuron(nn.Module):
    """``w`` and ``thr`` (or ``z``): emits floor(v / threshold) clamped to one, times the threshold for ``thr``."""

    def __init__(self, key):
        super().__init__()
        self.key = key
        self.w = nn.Parameter(torch.randn(()) * 0.3)
        setattr(self, key, nn.Parameter(torch.randn(()) * 0.3))
        self.start = 0.0

    def forward(self, x):
        threshold, v, out = F.softplus(getattr(self, self.key)), torch.full_like(x[0], self.start), []
        for current in x:
            v = v + (current - v) * self.w.sigmoid()
            spike = ((v / threshold).floor() * threshold).clamp(min=0).minimum(threshold)
            v = v - spike
            out.append(spike if self.key == "thr" else spike / threshold)
        return torch.stack(out)


class Block(nn.Module):
    def __init__(self, inner, width, stride, key, parts):
        super().__init__()
        conv = lambda a, size, step: nn.Conv2d(a, width, size, step, size // 2, bias=False)  # noqa: E731
        self.conv1 = parts(conv(inner, 3, stride), nn.BatchNorm2d(width))
        self.sn1 = Neuron(key)
        self.conv2 = parts(conv(width, 3, 1), nn.BatchNorm2d(width))
        self.sn2 = Neuron(key)
        self.shortcut = nn.Sequential()
        if stride != 1 or inner != width:
            self.shortcut = parts(conv(inner, 1, stride), nn.BatchNorm2d(width))

    def forward(self, x):
        return self.sn2(self.conv2(self.sn1(self.conv1(x))) + self.shortcut(x))


class Released(nn.Module):
    """stem, three stages of widths (a, b, c) with the given blocks, one linear layer."""

    def __init__(self, stem, widths, blocks, classes, key="thr", parts=Parts):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, stem, 3, 1, 1, bias=False), nn.BatchNorm2d(stem)
        self.sn1 = Neuron(key)
        inner = stem
        for stage, (width, depth) in enumerate(zip(widths, blocks, strict=True), 1):
            stage_blocks = []
            for block in range(depth):
                stage_blocks.append(Block(inner, width, 2 if stage > 1 and block == 0 else 1, key, parts))
                inner = width
            self.add_module(f"layer{stage}", nn.Sequential(*stage_blocks))
        self.fc1 = parts(nn.Linear(inner, classes))
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, 0, 0.2)
                nn.init.uniform_(module.running_var, 0.05, 0.4)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0.3, 0.2)

    def forward(self, x, timesteps):
        x = self.bn1(self.conv1(x)).expand(timesteps, *([-1] * 4))
        x = self.layer3(self.layer2(self.layer1(self.sn1(x))))
        return self.fc1(x.mean((-2, -1)))
