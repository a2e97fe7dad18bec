"""A variance over one value is none: what is refused before training, where a batch norm would meet a lone sample."""

from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from snnrepro.data.order import EpochOrder
from snnrepro.data.sets import Data
from snnrepro.errors import ConfigError
from snnrepro.train.evaluation import to_input
from snnrepro.train.guards import batch_size_for, require_parts


def require_samples(model: nn.Module, data: Data, order: EpochOrder, micro_batches: int, timesteps: int) -> None:
    """Raises ConfigError where a part of a batch has too few samples: none, or one where a norm needs two.

    A lone sample gives a norm behind a pooling to one pixel a single value. Several ranks share their statistics, and
    each has a sample in every part, so there it cannot happen.
    """
    require_parts(order, micro_batches)
    smallest = order.batch_len(len(order) - 1)
    if order.ranks == 1 and smallest // micro_batches == 1 and values_per_sample(model, data, timesteps) == 1:
        count = f"{smallest} sample{'s' if smallest > 1 else ''}"
        parts = f" for micro_batches={micro_batches}" if micro_batches > 1 else ""
        raise ConfigError(
            f"batch_size={order.batch_size}: the last batch has {count}{parts}, and a batch norm cannot take the "
            f"variance of one value; {batch_size_for(order, 2 * micro_batches)}"
        )


def values_per_sample(model: nn.Module, data: Data, timesteps: int) -> int:
    """Returns how many values of a channel a sample gives to the batch statistic that is taken over the fewest.

    Seen in a copy of the network that is given two black images in training mode, whatever its norms are.
    """
    images, _ = data.train.__getitems__([(0, 0), (0, 0)])
    x = to_input(data.train, torch.zeros_like(images), channels_last=False).to(next(model.parameters()).device)
    with torch.random.fork_rng(), torch.no_grad(), _Statistics() as seen:
        deepcopy(model).train()(x, timesteps)
    return min(seen.counts, default=2 * x.numel()) // 2


class _Statistics(TorchFunctionMode):
    """Notes, while entered, over how many values of a channel each batch statistic is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.batch_norm_update_stats or (function is F.batch_norm and kwargs["training"]):
            self.counts.append(args[0].numel() // args[0].shape[1])
        return function(*args, **kwargs)
