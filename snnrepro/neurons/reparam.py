"""How the learnable scalars are kept in range (paper Sec. 9.2).

``v_threshold = softplus(v_threshold_raw) > 0`` and ``tau = 1 / sigmoid(tau_raw) > 1``. Both maps are
evaluated in float64 and rounded once, so that V = 1 and tau = 2 come back as exactly 1 and 2: only then
are the three gradient families bitwise the same network at V = 1.
"""

import math
from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F


def softplus(v_threshold_raw: Tensor) -> Tensor:
    """Returns the threshold, positive, same shape and dtype as ``v_threshold_raw``."""
    return F.softplus(v_threshold_raw.double(), threshold=40.0).to(v_threshold_raw.dtype)


def inverse_softplus(v_threshold: float) -> float:
    """Returns ``k`` with ``softplus(k) == v_threshold``; stable where ``log(exp(v) - 1)`` overflows."""
    return v_threshold + math.log(-math.expm1(-v_threshold))


def tanh(v_threshold_raw: Tensor) -> Tensor:
    """Returns the threshold of LTMD (Wang et al., NeurIPS 2022), in (-1, 1), same shape and dtype as its raw value."""
    return v_threshold_raw.double().tanh().to(v_threshold_raw.dtype)


def inverse_sigmoid(tau_raw: Tensor) -> Tensor:
    """Returns ``tau = 1 / sigmoid(tau_raw)``, above 1, same shape and dtype as ``tau_raw``."""
    return (1 + (-tau_raw.double()).exp()).to(tau_raw.dtype)


# threshold_map: the map, and its inverse for the initial value.
THRESHOLD_MAPS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[float], float]]] = {
    "softplus": (softplus, inverse_softplus),
    "tanh": (tanh, math.atanh),
}


def raw_of_tau(tau: float) -> float:
    """Returns ``w`` with ``1 / sigmoid(w) == tau``; ``tau`` must be above 1."""
    return -math.log(tau - 1)
