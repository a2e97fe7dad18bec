"""How the learnable scalars are kept in range (paper Sec. 9.2).

``v_threshold = softplus(v_threshold_raw) > 0`` and ``tau = 1 / sigmoid(tau_raw) > 1``. Both maps are
evaluated in float64 and rounded once, so that V = 1 and tau = 2 come back as exactly 1 and 2: only then
are the three gradient families bitwise the same network at V = 1.
"""

import math
from collections.abc import Callable
from ctypes import c_float
from typing import Any, NamedTuple

import torch
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


class ThresholdMap(NamedTuple):
    """A map of the raw threshold: of a tensor, its inverse for the initial value, and the map of one number.

    slope: the derivative where the map gives v, with the functions of a module, ``math`` or ``torch``.
    """

    of_tensor: Callable[[Tensor], Tensor]
    inverse: Callable[[float], float]
    of_number: Callable[[float], float]
    slope: Callable[[Any, Any], Any]


THRESHOLD_MAPS = {
    "softplus": ThresholdMap(
        softplus,
        inverse_softplus,
        lambda k: max(k, 0.0) + math.log1p(math.exp(-abs(k))),
        lambda v, module: -module.expm1(-v),
    ),
    "tanh": ThresholdMap(tanh, math.atanh, math.tanh, lambda v, _: 1 - v * v),
}


def raw_of_tau(tau: float) -> float:
    """Returns ``w`` with ``1 / sigmoid(w) == tau``; ``tau`` must be above 1."""
    return -math.log(tau - 1)


def kernel_scalars(u_init: Tensor, v_threshold: Tensor, leak: Tensor, threshold_map: str | None) -> Tensor:
    """Returns u_init, v_threshold and leak = 1 / tau as one float32 tensor (3,), rounded as above, without gradient.

    All 0-d. threshold_map: None where v_threshold and leak are these already; else they are raw, and this is the map of
    the threshold.
    """
    if threshold_map is None:
        return torch.stack([u_init, v_threshold, leak])
    compute = _scalars_on_host if u_init.device.type == "cpu" else _scalars_on_device
    return compute(u_init, v_threshold, leak, threshold_map)


def raw_gradients(gradients: Tensor, scalars: Tensor, threshold_map: str | None) -> Tensor:
    """Returns the gradients (3,) of what ``kernel_scalars`` was given, from those of what it returned."""
    if threshold_map is None:
        return gradients
    return gradients * (_slopes_on_host if scalars.device.type == "cpu" else _slopes_on_device)(scalars, threshold_map)


# On CPUs in Python's numbers: a torch operation on a single number takes as long as a small layer.


def _scalars_on_host(u_init: Tensor, v_threshold_raw: Tensor, tau_raw: Tensor, threshold_map: str) -> Tensor:
    k, w = v_threshold_raw.item(), tau_raw.item()
    v_threshold = THRESHOLD_MAPS[threshold_map].of_number(k)
    tau = math.inf if w < -700 else 1 + math.exp(-w)
    return torch.tensor([u_init.item(), v_threshold, 1 / c_float(tau).value], dtype=torch.float32, device="cpu")


def _scalars_on_device(u_init: Tensor, v_threshold_raw: Tensor, tau_raw: Tensor, threshold_map: str) -> Tensor:
    return torch.stack([u_init, THRESHOLD_MAPS[threshold_map].of_tensor(v_threshold_raw), 1 / inverse_sigmoid(tau_raw)])


def _slopes_on_host(scalars: Tensor, threshold_map: str) -> Tensor:
    _, v_threshold, leak = scalars.tolist()
    slope = THRESHOLD_MAPS[threshold_map].slope(v_threshold, math)
    return torch.tensor([1.0, slope, leak * (1 - leak)], dtype=torch.float32, device="cpu")


def _slopes_on_device(scalars: Tensor, threshold_map: str) -> Tensor:
    _, v_threshold, leak = scalars.unbind(0)
    slope = THRESHOLD_MAPS[threshold_map].slope(v_threshold, torch)
    return torch.stack([torch.ones_like(slope), slope, leak * (1 - leak)])
