"""Losses over logits of all steps, (T, B, K)."""

from torch import Tensor
from torch.nn import functional as F


def mean_logit_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the cross-entropy of the logits averaged over time (T, B, K) with class indices (B,): a scalar."""
    return F.cross_entropy(logits.mean(0), target)


def temporal_efficient_training(logits: Tensor, target: Tensor, *, mse_weight: float, mse_target: float) -> Tensor:
    """Returns ``(1 - mse_weight) * mean_t CE(logits[t]) + mse_weight * mean (logits - mse_target)^2``: a scalar.

    Every step is supervised on its own; the second term keeps single logits from running away. logits (T, B, K),
    target: class indices (B,). Deng et al., ICLR 2022; the constants of their published code are in ``loss/tet.yaml``.
    """
    per_step = F.cross_entropy(logits.flatten(0, 1), target.repeat(len(logits)))
    return (1 - mse_weight) * per_step + mse_weight * (logits - mse_target).square().mean()
