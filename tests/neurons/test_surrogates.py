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
    "dspike": lambda z, g: (np.abs(z) < 0.5) * g * (1 - np.tanh(g * z) ** 2) / (2 * np.tanh(g / 2)),
    "linear": lambda z, g: g * np.maximum(0, 1 - np.abs(z)),
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
    edges = sorted({-math.inf, -1, -gamma, -gamma / 2, -0.5, 0, 0.5, gamma / 2, gamma, 1, math.inf})
    area = sum(quad(density, low, high)[0] for low, high in pairwise(edges))
    assert area == pytest.approx(gamma if name == "linear" else 1, abs=1e-8)


def test_dspike_runs_from_the_rectangle_to_the_step():
    """Its shape for b to 0 is rectangular with gamma 1; its height 1.657 at b = 3 (Li et al., NeurIPS 2021)."""
    z = torch.linspace(-0.7, 0.7, 101, dtype=torch.float64)
    flat = SURROGATES["rectangular"].derivative(z, 1.0)
    torch.testing.assert_close(SURROGATES["dspike"].derivative(z, 1e-3), flat, rtol=1e-6, atol=0)
    assert SURROGATES["dspike"].derivative(torch.zeros(1), 3.0).item() == pytest.approx(1.657, abs=1e-3)
    assert SURROGATES["dspike"].primitive(torch.tensor([-0.5, 0.0, 0.5]), 3.0).tolist() == [0, 0.5, 1]


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("name", NAMES)
def test_maximum_is_at_zero(name, gamma):
    peak = {
        "rectangular": 1 / gamma,
        "triangular": 1 / gamma,
        "arctan": gamma / 2,
        "sigmoid": 1 / (4 * gamma),
        "dspike": gamma / (2 * math.tanh(gamma / 2)),
        "linear": gamma,
    }[name]
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
    area = gamma if name == "linear" else 1
    torch.testing.assert_close(ends, area * torch.tensor([0, 0.5, 1], dtype=torch.float64), rtol=0, atol=1e-12)


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
