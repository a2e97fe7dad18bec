"""The exponential moving average of a network over its steps."""

from copy import deepcopy

import torch
from torch import nn


class Average:
    """A copy of a network whose numbers follow it: ``average = decay * average + (1 - decay) * network``.

    Parameters and buffers alike, running means of norms and membranes included; counters are copied. What the learned
    scalars are averaged in are their raw values. After Polyak and Juditsky (1992), without a correction of the start.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay, self.model = decay, deepcopy(model).requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the average towards ``model``, once per step."""
        own, new = self.model.state_dict(), model.state_dict()
        real = [name for name, value in own.items() if value.is_floating_point()]
        torch._foreach_lerp_([own[name] for name in real], [new[name] for name in real], 1 - self.decay)
        for name in own.keys() - set(real):
            own[name].copy_(new[name])
