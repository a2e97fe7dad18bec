"""Spiking ResNet-19 for small images (geometry of the authors' released network).

Sequences are (T, B, C, H, W). Layers carry the released names: ``sn1`` in the stem, then
``layer{1,2,3}.{block}.sn{1,2}``: 17 spiking layers with the default blocks (3, 3, 2).
"""

from collections.abc import Sequence

from torch import Tensor, nn

from snnrepro.layers import make_classifier, per_step
from snnrepro.models.blocks import BasicBlock, PooledHead, conv
from snnrepro.models.parts import MakeDropout, MakeNeuron, MakeNorm
from snnrepro.models.resnet import ResNet
from snnrepro.models.stem import Stem
from snnrepro.options import HEADS


class _TetHead(nn.Module):
    """Global average, linear, LIF, linear (the head of TET's and tdBN's ResNet-19)."""

    def __init__(
        self, channels: int, hidden: int, num_classes: int, make_dropout: MakeDropout, make_neuron: MakeNeuron
    ):
        super().__init__()
        self.dropout1, self.dropout2 = make_dropout(), make_dropout()
        self.fc1 = nn.Linear(channels, hidden)
        self.sn = make_neuron()
        self.fc = make_classifier(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.sn(self.fc1(self.dropout1(x.mean((-2, -1)))))
        return self.fc(self.dropout2(y))


class _TebnHead(nn.Module):
    """2x2 average, flatten, two linear layers without a neuron between them (TEBN's and TAB's head)."""

    def __init__(self, features: int, hidden: int, num_classes: int, make_dropout: MakeDropout):
        super().__init__()
        self.pool = nn.AvgPool2d(2)
        self.dropout1, self.dropout2 = make_dropout(), make_dropout()
        self.fc1 = nn.Linear(features, hidden)
        self.fc = make_classifier(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc1(self.dropout1(per_step(self.pool, x).flatten(2)))
        return self.fc(self.dropout2(y))


class ResNet19(ResNet):
    """Spiking ResNet-19.

    in_shape: (C, H, W) of one frame. stem_width, widths, blocks: channels of the stem and of the three
    stages, blocks per stage. head: official | tet | tebn; ``hidden`` is the inner width of the latter two.
    make_neuron() -> LIF, make_norm(channels, residual=...) -> norm, make_dropout() -> dropout of a sequence.
    timesteps: T for static images when the call names none. mean_over_time: whether forward averages the logits over T.
    """

    def __init__(
        self,
        *,
        in_shape: Sequence[int],
        num_classes: int,
        stem_width: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        head: str,
        hidden: int,
        timesteps: int,
        mean_over_time: bool,
        make_dropout: MakeDropout,
        make_neuron: MakeNeuron,
        make_norm: MakeNorm,
    ):
        features = {"num_classes": num_classes, "num_features": widths[-1]}
        super().__init__(**features, timesteps=timesteps, mean_over_time=mean_over_time)
        self.head_hidden_size = widths[-1] if head == "official" else hidden
        self.stem = Stem(conv(in_shape[0], stem_width, 3), make_norm(stem_width, residual=False))
        self.sn1 = make_neuron()
        self.pool = nn.Identity()
        self._add_stages(BasicBlock, stem_width, widths, blocks, make_neuron, make_norm)
        self.head = self._make_head(head, widths[-1], in_shape, hidden, num_classes, make_dropout, make_neuron)

    def _make_head(
        self,
        head: str,
        channels: int,
        in_shape: Sequence[int],
        hidden: int,
        num_classes: int,
        make_dropout: MakeDropout,
        make_neuron: MakeNeuron,
    ) -> nn.Module:
        if head == "official":
            return PooledHead(channels, num_classes, make_dropout)
        if head == "tet":
            return _TetHead(channels, hidden, num_classes, make_dropout, make_neuron)
        if head == "tebn":
            size = [-(-side // 2 ** (self.stages - 1)) // 2 for side in in_shape[1:]]
            return _TebnHead(channels * size[0] * size[1], hidden, num_classes, make_dropout)
        raise ValueError(f"head={head!r} is not one of {', '.join(HEADS)}")
