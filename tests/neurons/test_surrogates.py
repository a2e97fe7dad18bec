"""Areas, maxima and primitives of the surrogate shapes, against the formulas printed in the paper."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from snnrepro.neurons.surrogates import SURROGATES
from snnrepro.options import SURROGATES as NAMES

GAMMAS = (0.25, 1.0, 2.0)

PRINTED = {
    "rectangular": lambda z, g: (np.abs(z) < g / 2) / g,
    "triangular": lambda z, g: np.maximum(0, g - np.abs(z)) / g**2,
    "arctan": lambda z, g: g / (2 * (1 + (np.pi / 2 * g * z) ** 2)),
    "sigmoid": lambda z, g: np.exp(z / g) / (1 + np.exp(z / g)) ** 2 / g,
}


def test_every_named_surrogate_exists():
    assert tuple(SURROGATES) == NAMES


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("name", NAMES)
def test_derivative_is_the_printed_formula(name, gamma):
    z = np.linspace(-7.003, 7, 2001)
    found = SURROGATES[name].derivative(torch.tensor(z), gamma)
    np.testing.assert_allclose(found, PRINTED[name](z, gamma), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("name", NAMES)
def test_area_is_one(name, gamma):
    def density(z):
        return SURROGATES[name].derivative(torch.tensor(z, dtype=torch.float64), gamma).item()

    # pieces between the kinks; the tails of arctan are heavy
    edges = (-math.inf, -gamma, -gamma / 2, 0, gamma / 2, gamma, math.inf)
    area = sum(quad(density, low, high)[0] for low, high in pairwise(edges))
    assert area == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("name", NAMES)
def test_maximum_is_at_zero(name, gamma):
    peak = {"rectangular": 1 / gamma, "triangular": 1 / gamma, "arctan": gamma / 2, "sigmoid": 1 / (4 * gamma)}[name]
    z = torch.linspace(-3, 3, 601, dtype=torch.float64)
    values = SURROGATES[name].derivative(z, gamma)
    assert values[300].item() == pytest.approx(peak, rel=1e-15)
    assert values.max() == values[300]


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("name", NAMES)
def test_primitive_has_the_derivative_and_runs_from_zero_to_one(name, gamma):
    shape = SURROGATES[name]
    z = torch.linspace(-4.003, 4, 1000, dtype=torch.float64, requires_grad=True)
    found = torch.autograd.grad(shape.primitive(z, gamma).sum(), z)[0]
    torch.testing.assert_close(found, shape.derivative(z.detach(), gamma), rtol=1e-12, atol=1e-15)
    ends = shape.primitive(torch.tensor([-1e12, 0, 1e12], dtype=torch.float64), gamma)
    torch.testing.assert_close(ends, torch.tensor([0, 0.5, 1], dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("name", NAMES)
def test_nothing_overflows_far_from_zero_in_float32(name, gamma):
    z = gamma * torch.tensor([-1e4, -100.0, -88.8, 88.8, 100.0, 1e4, math.inf, -math.inf])
    values = SURROGATES[name].derivative(z, gamma)
    assert values.isfinite().all()
    assert (values >= 0).all()
    if name == "sigmoid":
        printed = z.div(gamma).exp() / (1 + z.div(gamma).exp()) ** 2 / gamma
        assert printed.isnan().any()
