"""How the learnable scalars are kept in range (paper Sec. 9.2).

``v_threshold = softplus(v_threshold_raw) > 0`` and ``tau = 1 / sigmoid(tau_raw) > 1``. Both maps are
evaluated in float64 and rounded once, so that V = 1 and tau = 2 come back as exactly 1 and 2: only then
are the three gradient families bitwise the same network at V = 1.
"""

import math

from torch import Tensor
from torch.nn import functional as F


def softplus(v_threshold_raw: Tensor) -> Tensor:
    """Returns the threshold, positive, same shape and dtype as ``v_threshold_raw``."""
    return F.softplus(v_threshold_raw.double(), threshold=40.0).to(v_threshold_raw.dtype)


def inverse_softplus(v_threshold: float) -> float:
    """Returns ``k`` with ``softplus(k) == v_threshold``; stable where ``log(exp(v) - 1)`` overflows."""
    return v_threshold + math.log(-math.expm1(-v_threshold))


def inverse_sigmoid(tau_raw: Tensor) -> Tensor:
    """Returns ``tau = 1 / sigmoid(tau_raw)``, above 1, same shape and dtype as ``tau_raw``."""
    return (1 + (-tau_raw.double()).exp()).to(tau_raw.dtype)


def raw_of_tau(tau: float) -> float:
    """Returns ``w`` with ``1 / sigmoid(w) == tau``; ``tau`` must be above 1."""
    return -math.log(tau - 1)
