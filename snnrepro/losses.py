"""Losses over logits of all steps, (T, B, K)."""

from torch import Tensor
from torch.nn import functional as F


def mean_logit_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the cross-entropy of the logits averaged over time (T, B, K) with class indices (B,): a scalar."""
    return F.cross_entropy(logits.mean(0), target)


LOSSES = {"ce": mean_logit_cross_entropy}
