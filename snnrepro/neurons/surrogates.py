"""Surrogate shapes f'(z), as printed in the paper (Sec. 6.2 and 11.3), and their primitives f(z).

``z`` is the surrogate argument (any shape), ``gamma`` a positive number: the window's width for
``rectangular``, ``triangular`` and ``sigmoid``, the steepness for ``arctan``. Every derivative
integrates to 1 over the real line. Two shapes of other papers: ``dspike`` (Li et al., NeurIPS 2021) with the
steepness gamma inside a window of width 1, and ``linear`` (DIET-SNN), whose height and area are gamma.
The primitives replace the spike in smooth mode, where finite differences can check the whole unrolled dynamics.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Surrogate(NamedTuple):
    """One shape: ``derivative(z, gamma)`` and ``primitive(z, gamma)``, element-wise; gamma a number or 0-d tensor."""

    derivative: Callable[[Tensor, Any], Tensor]
    primitive: Callable[[Tensor, float], Tensor]


def _rectangular(z: Tensor, gamma: float) -> Tensor:
    return (z.abs() < gamma / 2).to(z.dtype) / gamma


def _rectangular_primitive(z: Tensor, gamma: float) -> Tensor:
    return (z / gamma + 0.5).clamp(0, 1)


def _triangular(z: Tensor, gamma: float) -> Tensor:
    return (gamma - z.abs()).clamp(min=0) / gamma**2


def _triangular_primitive(z: Tensor, gamma: float) -> Tensor:
    tail = (gamma - z.abs()).clamp(min=0) ** 2 / (2 * gamma**2)
    return torch.where(z < 0, tail, 1 - tail)


def _arctan(z: Tensor, gamma: float) -> Tensor:
    return gamma / 2 / (1 + (math.pi / 2 * gamma * z) ** 2)


def _arctan_primitive(z: Tensor, gamma: float) -> Tensor:
    return torch.atan(math.pi / 2 * gamma * z) / math.pi + 0.5


def _sigmoid(z: Tensor, gamma: float) -> Tensor:
    # The printed quotient e^x / (1 + e^x)^2 overflows in float32 from x = 88; s (1 - s) does not.
    s = torch.sigmoid(z / gamma)
    return s * (1 - s) / gamma


def _sigmoid_primitive(z: Tensor, gamma: float) -> Tensor:
    return torch.sigmoid(z / gamma)


def _dspike(z: Tensor, gamma: Any) -> Tensor:
    # sech(y)^2 = 4 s (1 - s), s = sigmoid(2 y)
    s = torch.sigmoid(2 * gamma * z)
    height = 2 * gamma / torch.tanh(z.new_full((), 0.5) * gamma)
    return (z.abs() < 0.5).to(z.dtype) * height * s * (1 - s)


def _dspike_primitive(z: Tensor, gamma: float) -> Tensor:
    return torch.tanh(gamma * z.clamp(-0.5, 0.5)) / (2 * math.tanh(gamma / 2)) + 0.5


def _linear(z: Tensor, gamma: Any) -> Tensor:
    return (1 - z.abs()).clamp(min=0) * gamma


def _linear_primitive(z: Tensor, gamma: float) -> Tensor:
    return _triangular_primitive(z, 1.0) * gamma


SURROGATES: dict[str, Surrogate] = {
    "rectangular": Surrogate(_rectangular, _rectangular_primitive),
    "triangular": Surrogate(_triangular, _triangular_primitive),
    "arctan": Surrogate(_arctan, _arctan_primitive),
    "sigmoid": Surrogate(_sigmoid, _sigmoid_primitive),
    "dspike": Surrogate(_dspike, _dspike_primitive),
    "linear": Surrogate(_linear, _linear_primitive),
}
