"""The first conv and norm, shared by all networks: a static image passes them once."""

from torch import Tensor, nn

from snnrepro.layers import per_step


class Stem(nn.Module):
    """Convolution and norm in front of the first spiking layer."""

    def __init__(self, conv: nn.Conv2d, norm: nn.Module):
        super().__init__()
        self.conv, self.norm = conv, norm

    def forward(self, x: Tensor, timesteps: int) -> tuple[Tensor, int]:
        """Returns (current, T): a current (1, B, C, H, W) that is constant over T, or (T, B, C, H, W).

        x: static image (B, C, H, W), or frames (T, B, C, H, W), whose own T then counts. A norm with
        statistics per step sees the image repeated; the convolution still runs once.
        """
        static = x.ndim == 4
        x = per_step(self.conv, x[None] if static else x)
        if static and not self.norm.time_shared:
            x = x.expand(timesteps, *x.shape[1:])
        return self.norm(x), timesteps if static else x.shape[0]
