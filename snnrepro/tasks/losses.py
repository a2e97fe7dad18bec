"""Losses over logits of all steps, (T, B, K), and which of these logits predict.

What a loss adds for the inside of the spiking layers is in ``penalties.py``.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Loss:
    """A loss with the prediction that belongs to it.

    value: logits (T, B, K) and class indices (B,), or shares of the classes (B, K), to a scalar. readout: logits
    (T, B, K) to scores (T, B, K); the argmax of row t is the prediction after t + 1 steps, so the last row is the
    prediction of the whole window.
    """

    value: Callable[[Tensor, Tensor], Tensor]
    readout: Callable[[Tensor], Tensor]

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of logits (T, B, K) for class indices (B,) or shares (B, K): a scalar."""
        return self.value(logits, target)


def running_mean(logits: Tensor) -> Tensor:
    """Returns the readout of a network that averages: the sum over the steps so far, (T, B, K), ranks as the mean."""
    return logits.cumsum(0)


def last_step(logits: Tensor) -> Tensor:
    """Returns the readout of a network whose last step alone predicts: the logits themselves, (T, B, K)."""
    return logits


def mean_logit_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the cross-entropy of the logits averaged over time (T, B, K) with class indices (B,): a scalar."""
    return F.cross_entropy(logits.mean(0), target)


def last_step_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the cross-entropy of the last step's logits: a scalar (LTS; Shen et al., NeurIPS 2024)."""
    return F.cross_entropy(logits[-1], target)


def temporal_efficient_training(logits: Tensor, target: Tensor, *, weight: float, phi: float) -> Tensor:
    """Returns ``(1 - weight) * mean_t CE(logits[t]) + weight * mean((logits - phi)^2)``: a scalar.

    TET (Deng et al., ICLR 2022). ``weight`` in [0, 1]; ``phi`` is the level that the logits are drawn to.
    """
    per_step = F.cross_entropy(logits.flatten(0, 1), target.repeat(logits.shape[0], *[1] * (target.ndim - 1)))
    return (1 - weight) * per_step + weight * (logits - phi).square().mean()


def temporal_consistency(logits: Tensor, *, temperature: float) -> Tensor:
    """Returns the sum over adjacent steps of KL(softmax(Z[t-1] / temperature) || softmax(Z[t] / temperature)).

    The guidance of MPS (Ding et al., ICLR 2025), averaged over the batch: a scalar, 0 for one step. Both sides
    receive gradients.
    """
    log_p = F.log_softmax(logits / temperature, -1)
    return F.kl_div(log_p[1:], log_p[:-1], reduction="none", log_target=True).sum((0, 2)).mean()


def guided_cross_entropy(logits: Tensor, target: Tensor, *, weight: float, temperature: float) -> Tensor:
    """Returns ``CE(mean logits) + weight * temporal_consistency``: a scalar (MPS)."""
    return mean_logit_cross_entropy(logits, target) + weight * temporal_consistency(logits, temperature=temperature)
