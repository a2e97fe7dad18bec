"""A small network of factories."""

from collections.abc import Sequence

from torch import Tensor, nn

from snnrepro.layers import per_step
from snnrepro.models.parts import Parts


class TwoConv(nn.Module):
    """Convolution, norm and spiking layer, twice; the mean over positions is read out at every step."""

    def __init__(self, widths: Sequence[int], parts: Parts):
        super().__init__()
        first, second = widths
        self.conv1, self.norm1 = (
            nn.Conv2d(parts.in_shape[0], first, 3, padding=1),
            parts.make_norm(first, residual=False),
        )
        self.conv2, self.norm2 = nn.Conv2d(first, second, 3, 2, 1), parts.make_norm(second, residual=False)
        self.sn1, self.sn2, self.dropout = parts.make_neuron(), parts.make_neuron(), parts.make_dropout()
        self.fc = nn.Linear(second, parts.num_classes)
        self.num_classes, self.timesteps = parts.num_classes, parts.timesteps

    def forward(self, x: Tensor, timesteps: int | None = None) -> Tensor:
        """Returns logits (T, B, classes) of images (B, C, H, W), or frames (T, B, C, H, W)."""
        steps = timesteps or self.timesteps
        frames = x if x.ndim == 5 else x.expand(steps, *x.shape)
        spikes = self.sn1(self.norm1(per_step(self.conv1, frames)))
        spikes = self.sn2(self.norm2(per_step(self.conv2, spikes)))
        return self.fc(self.dropout(spikes.mean((-2, -1))))
