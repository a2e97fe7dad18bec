"""7-layer CNN for DVS-CIFAR10: 64C3-AP2-128C3-128C3-AP2-256C3-256C3-AP2-1024FC-10FC (paper Sec. 9.1).

Sequences are (T, B, C, H, W). Five spiking layers, six with ``fc_spike``.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from snnrepro.layers import make_classifier, per_step
from snnrepro.models.parts import MakeDropout, MakeNeuron, MakeNorm
from snnrepro.models.stem import Stem


def _conv(in_channels: int, channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


class ConvUnit(nn.Module):
    """Conv, norm, LIF."""

    def __init__(self, in_channels: int, channels: int, make_neuron: MakeNeuron, make_norm: MakeNorm):
        super().__init__()
        self.conv = _conv(in_channels, channels)
        self.norm = make_norm(channels, residual=False)
        self.sn = make_neuron()

    def forward(self, x: Tensor) -> Tensor:
        """Returns (T, B, channels, H, W)."""
        return self.sn(self.norm(per_step(self.conv, x)))


class CNN7(nn.Module):
    """7-layer spiking CNN.

    in_shape: (C, H, W) of one frame, H and W at least 8. widths: channels before each of the three pools.
    hidden: width of the first linear layer; fc_spike puts a LIF behind it (TEBN and TAB have none).
    Other arguments as in ``ResNet19``.
    """

    def __init__(
        self,
        *,
        in_shape: Sequence[int],
        num_classes: int,
        widths: Sequence[int],
        hidden: int,
        fc_spike: bool,
        timesteps: int,
        mean_over_time: bool,
        make_dropout: MakeDropout,
        make_neuron: MakeNeuron,
        make_norm: MakeNorm,
    ):
        super().__init__()
        if min(in_shape[1:]) < 8:
            raise ValueError(f"in_shape={tuple(in_shape)}: three pools need frames of at least 8 x 8")
        self.timesteps, self.mean_over_time = timesteps, mean_over_time
        a, b, c = widths
        self.num_classes, self.num_features, self.head_hidden_size = num_classes, c, hidden
        self.stem = Stem(_conv(in_shape[0], a), make_norm(a, residual=False))
        self.sn1 = make_neuron()
        self.conv2 = ConvUnit(a, b, make_neuron, make_norm)
        self.conv3 = ConvUnit(b, b, make_neuron, make_norm)
        self.conv4 = ConvUnit(b, c, make_neuron, make_norm)
        self.conv5 = ConvUnit(c, c, make_neuron, make_norm)
        self.pool = nn.AvgPool2d(2)
        self.dropout1, self.dropout2 = make_dropout(), make_dropout()
        self.fc1 = nn.Linear(c * (in_shape[1] // 8) * (in_shape[2] // 8), hidden)
        self.sn6 = make_neuron() if fc_spike else nn.Identity()
        self.fc = make_classifier(hidden, num_classes)

    def forward(self, x: Tensor, timesteps: int | None = None) -> Tensor:
        """Returns logits (T, B, num_classes), or (B, num_classes) with ``mean_over_time``.

        x: frames (T, B, C, H, W), or a static image (B, C, H, W), shown for ``timesteps`` steps.
        """
        x = self.forward_features(x, timesteps)
        x = self.sn6(self.fc1(self.dropout1(x.flatten(2))))
        logits = self.fc(self.dropout2(x))
        return logits.mean(0) if self.mean_over_time else logits

    def forward_features(self, x: Tensor, timesteps: int | None = None) -> Tensor:
        """Returns the pooled maps before the linear layers, (T, B, num_features, H/8, W/8); arguments as in forward."""
        x, timesteps = self.stem(x, self.timesteps if timesteps is None else timesteps)
        x = per_step(self.pool, self.sn1(x, timesteps))
        x = per_step(self.pool, self.conv3(self.conv2(x)))
        return per_step(self.pool, self.conv5(self.conv4(x)))

    def get_classifier(self) -> nn.Module:
        """Returns the last linear layer."""
        return self.fc

    def reset_classifier(self, num_classes: int) -> None:
        """Replaces the last linear layer by a fresh one, or by an identity for 0 classes."""
        self.num_classes = num_classes
        self.fc = make_classifier(self.head_hidden_size, num_classes).to(next(self.parameters()))
