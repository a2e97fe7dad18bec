"""What the residual networks have in common: stem, stages of blocks, a head with a linear layer ``fc`` at its end."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from snnrepro.layers import make_classifier, per_step


class ResNet(nn.Module):
    """Residual network; subclasses make its parts: ``stem``, ``sn1``, ``pool``, the stages, ``head``.

    timesteps: T for static images when the call names none. mean_over_time: whether forward averages the logits over T.
    """

    stem: nn.Module
    sn1: nn.Module
    head: nn.Module
    pool: nn.Module
    head_hidden_size: int

    def __init__(self, *, num_classes: int, num_features: int, timesteps: int, mean_over_time: bool):
        super().__init__()
        self.timesteps, self.mean_over_time = timesteps, mean_over_time
        self.num_classes, self.num_features = num_classes, num_features

    def _add_stages(
        self,
        make_block: Callable[..., nn.Module],
        channels: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        *make: Any,
    ) -> None:
        """Adds ``layer1``, ``layer2``, ...: every stage but the first begins with stride 2."""
        for stage, (width, depth) in enumerate(zip(widths, blocks, strict=True), start=1):
            units = []
            for block in range(depth):
                stride = 2 if stage > 1 and block == 0 else 1
                units.append(make_block(channels, width, stride, *make))
                channels = width
            self.add_module(f"layer{stage}", nn.Sequential(*units))
        self.stages = len(blocks)

    def forward(self, x: Tensor, timesteps: int | None = None) -> Tensor:
        """Returns logits (T, B, num_classes), or (B, num_classes) with ``mean_over_time``.

        x: a static image (B, C, H, W), shown for ``timesteps`` steps, or frames (T, B, C, H, W).
        """
        logits = self.head(self.forward_features(x, timesteps))
        return logits.mean(0) if self.mean_over_time else logits

    def forward_features(self, x: Tensor, timesteps: int | None = None) -> Tensor:
        """Returns the outputs of the last stage, (T, B, num_features, H', W'); arguments as in forward."""
        x, timesteps = self.stem(x, self.timesteps if timesteps is None else timesteps)
        x = per_step(self.pool, self.sn1(x, timesteps))
        for stage in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        return x

    def get_classifier(self) -> nn.Module:
        """Returns the last linear layer."""
        return self.head.get_submodule("fc")

    def reset_classifier(self, num_classes: int) -> None:
        """Replaces the last linear layer by a fresh one, or by an identity for 0 classes."""
        self.num_classes = num_classes
        self.head.fc = make_classifier(self.head_hidden_size, num_classes).to(next(self.parameters()))
