"""What the residual networks share: their blocks, and the head that averages. Sequences are (T, B, C, H, W)."""

from torch import Tensor, nn
from torch.nn import functional as F

from snnrepro.layers import make_classifier, per_step
from snnrepro.models.parts import MakeDropout, MakeNeuron, MakeNorm
from snnrepro.options import CONNECTS


class _StridedProjection(nn.Conv2d):
    """A strided 1x1 convolution, around a fault of torch's CPU library.

    oneDNN's gradient of such a weight with fewer channels than a vector has lanes, in channels_last, writes past its
    buffer (uxlfoundation/oneDNN issue 6035): crashes, hangs and wrong numbers. Without the stride it does not.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.in_channels < 16 and input.device.type == "cpu":
            return F.conv2d(input[..., :: self.stride[0], :: self.stride[1]], weight, bias)
        return super()._conv_forward(input, weight, bias)


def conv(in_channels: int, channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Returns a convolution without bias that keeps the size, or divides it by the stride."""
    kind = _StridedProjection if kernel == 1 and stride > 1 else nn.Conv2d
    return kind(in_channels, channels, kernel, stride, kernel // 2, bias=False)


class BasicBlock(nn.Module):
    """Two conv-norm-LIF units; the shortcut adds into the current of the second LIF.

    The identity shortcut therefore adds spikes (V*S under trsg) to a current.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, make_neuron: MakeNeuron, make_norm: MakeNorm):
        super().__init__()
        self.conv1 = conv(in_channels, channels, 3, stride)
        self.norm1 = make_norm(channels, residual=False)
        self.sn1 = make_neuron()
        self.conv2 = conv(channels, channels, 3)
        self.norm2 = make_norm(channels, residual=True)
        self.project = stride != 1 or in_channels != channels
        if self.project:
            self.shortcut_conv = conv(in_channels, channels, 1, stride)
            self.shortcut_norm = make_norm(channels, residual=True)
        self.sn2 = make_neuron()

    def forward(self, x: Tensor) -> Tensor:
        """Returns (T, B, channels, H/stride, W/stride) for x (T, B, in_channels, H, W)."""
        y = self.sn1(self.norm1(per_step(self.conv1, x)))
        y = self.norm2(per_step(self.conv2, y))
        shortcut = self.shortcut_norm(per_step(self.shortcut_conv, x)) if self.project else x
        return self.sn2(y + shortcut)


class PooledHead(nn.Module):
    """Global average, one linear layer per step."""

    def __init__(self, channels: int, num_classes: int, make_dropout: MakeDropout):
        super().__init__()
        self.dropout = make_dropout()
        self.fc = make_classifier(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.dropout(x.mean((-2, -1))))


class SEWBlock(nn.Module):
    """Spike-element-wise block (Fang et al., NeurIPS 2021): both branches end in a LIF, ``connect`` joins them.

    add: a + x, and: a * x, iand: (1 - a) * x, of the block's spikes a and the shortcut's x. A sum holds 0, 1, 2, ...
    spikes; the other two need outputs of 0 and 1, which trsg does not emit.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        make_neuron: MakeNeuron,
        make_norm: MakeNorm,
        *,
        connect: str,
    ):
        super().__init__()
        if connect not in CONNECTS:
            raise ValueError(f"connect={connect!r} is not one of {', '.join(CONNECTS)}")
        self.connect = connect
        self.conv1 = conv(in_channels, channels, 3, stride)
        self.norm1 = make_norm(channels, residual=False)
        self.sn1 = make_neuron()
        self.conv2 = conv(channels, channels, 3)
        self.norm2 = make_norm(channels, residual=False)
        self.sn2 = make_neuron()
        self.project = stride != 1 or in_channels != channels
        if self.project:
            self.shortcut_conv = conv(in_channels, channels, 1, stride)
            self.shortcut_norm = make_norm(channels, residual=False)
            self.shortcut_sn = make_neuron()

    def forward(self, x: Tensor) -> Tensor:
        """Returns (T, B, channels, H/stride, W/stride) for x (T, B, in_channels, H, W)."""
        a = self.sn1(self.norm1(per_step(self.conv1, x)))
        a = self.sn2(self.norm2(per_step(self.conv2, a)))
        if self.project:
            x = self.shortcut_sn(self.shortcut_norm(per_step(self.shortcut_conv, x)))
        if self.connect == "add":
            return a + x
        return a * x if self.connect == "and" else (1 - a) * x
