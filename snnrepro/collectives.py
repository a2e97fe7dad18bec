"""What the processes of a run (ranks) tell each other inside a training step. A lone process pays nothing for it.

Every function gives N ranks what one process with the whole batch has, gradients included: the loss of the run is the
sum of what the ranks contribute, and a value that all ranks share sends each of them the sum of its gradients.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Returns the number of ranks, 1 where no process group exists."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Returns this process's number, 0 where no process group exists."""
    return dist.get_rank() if world_size() > 1 else 0


def of_other_rank(error: BaseException) -> bool:
    """Returns whether an error says that another rank was lost: NCCL's have a class of their own, gloo's have not."""
    return isinstance(error, RuntimeError) and (isinstance(error, dist.DistError) or "gloo" in str(error))


class _AllSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _AllSum.apply(gradient)


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        gathered = x.new_empty(world_size(), *x.shape)
        dist.all_gather(list(gathered), x.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _AllSum.apply(gradient)[rank()]


def all_sum(x: Tensor) -> Tensor:
    """Returns the sum of ``x`` over ranks, same shape; differentiable."""
    return _AllSum.apply(x) if world_size() > 1 else x


def any_rank(flag: bool) -> bool:
    """Returns whether ``flag`` is set on any rank: the same answer everywhere."""
    if world_size() == 1:
        return flag
    # On the CPU, so that asking does not wait for a GPU's queue.
    votes = torch.tensor(int(flag))
    dist.all_reduce(votes)
    return votes.item() > 0


def moments_across_ranks(mean: Tensor, var: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns mean, biased variance and count (0-d) of the values of all ranks, from those of this one.

    mean, var: any shape, of ``count`` values each. Differentiable, and without cancellation: the variance is the mean
    of those within the ranks plus the variance of their means.
    """
    own = torch.cat([mean.flatten(), var.flatten(), mean.new_full((1,), count)])
    gathered = _AllGather.apply(own)
    means, variances, counts = gathered.split([mean.numel(), mean.numel(), 1], 1)
    total = counts.detach().sum()
    weights = counts.detach() / total
    mean_of_all = (weights * means).sum(0)
    var_of_all = (weights * (variances + (means - mean_of_all).square())).sum(0)
    return mean_of_all.view_as(mean), var_of_all.view_as(var), total
