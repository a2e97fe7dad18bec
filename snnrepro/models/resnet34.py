"""Spiking ResNet-34 and SEW-ResNet-34 (geometry of the authors' released network and of SEW's).

Sequences are (T, B, C, H, W). ``sn1`` in the stem, then ``layer{1..4}.{block}.sn{1,2}``, and in SEW's projections
``shortcut_sn``: 33 and 36 spiking layers with the default blocks (3, 4, 6, 3).
"""

from collections.abc import Iterator, Sequence
from functools import partial

from torch import nn

from snnrepro.models.blocks import BasicBlock, PooledHead, SEWBlock, conv
from snnrepro.models.parts import MakeDropout, MakeNeuron, MakeNorm
from snnrepro.models.resnet import ResNet
from snnrepro.models.stem import Stem
from snnrepro.options import STEMS


class ResNet34(ResNet):
    """Spiking ResNet-34; with ``connect`` SEW-ResNet-34.

    in_shape: (C, H, W) of one frame. stem: imagenet (7x7 convolution with stride 2, maximum of the first spikes) or
    small (3x3, no pool), ``widths[0]`` wide. widths, blocks: channels and blocks of the four stages. connect: None adds
    shortcuts into currents; add, and, iand join spikes, see ``SEWBlock``. tie_thresholds: one threshold for all that
    add up in a stage of SEW-ResNet, so that a sum is a whole number of thresholds. Other arguments as in ``ResNet19``.
    Raises ValueError for an unknown stem.
    """

    def __init__(
        self,
        *,
        in_shape: Sequence[int],
        num_classes: int,
        stem: str,
        widths: Sequence[int],
        blocks: Sequence[int],
        connect: str | None,
        tie_thresholds: bool,
        timesteps: int,
        mean_over_time: bool,
        make_dropout: MakeDropout,
        make_neuron: MakeNeuron,
        make_norm: MakeNorm,
    ):
        features = {"num_classes": num_classes, "num_features": widths[-1]}
        super().__init__(**features, timesteps=timesteps, mean_over_time=mean_over_time)
        if stem not in STEMS:
            raise ValueError(f"stem={stem!r} is not one of {', '.join(STEMS)}")
        self.head_hidden_size = widths[-1]
        channels, large = widths[0], stem == "imagenet"
        first = conv(in_shape[0], channels, 7, 2) if large else conv(in_shape[0], channels, 3)
        self.stem = Stem(first, make_norm(channels, residual=False))
        self.sn1 = make_neuron()
        self.pool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        make_block = BasicBlock if connect is None else partial(SEWBlock, connect=connect)
        self._add_stages(make_block, channels, widths, blocks, make_neuron, make_norm)
        self.head = PooledHead(widths[-1], num_classes, make_dropout)
        self._initialise(connect)
        if tie_thresholds:
            self._tie_thresholds()

    def _initialise(self, connect: str | None) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            # SEW's authors leave the classifier as torch makes it.
            elif isinstance(module, nn.Linear) and connect is None:
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def _streams(self) -> Iterator[list]:
        """Yields the spiking layers whose outputs add up: a stage's second ones, and what enters its first block."""
        writers = [self.sn1]
        for stage in range(1, self.stages + 1):
            for block in self.get_submodule(f"layer{stage}").children():
                if block.project:
                    if len(writers) > 1:
                        yield writers
                    writers = [block.get_submodule("shortcut_sn")]
                writers.append(block.get_submodule("sn2"))
        yield writers

    def _tie_thresholds(self) -> None:
        for first, *others in self._streams():
            for neuron in others:
                neuron.v_threshold_raw = first.v_threshold_raw
