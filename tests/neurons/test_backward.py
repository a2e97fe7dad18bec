"""Autograd of the spiking forward equals a backward pass written by hand, for every option set."""

import math

import numpy as np
import pytest
import torch

from snnrepro.neurons.functional import lif
from snnrepro.options import FAMILIES, RESETS, SURROGATES

GAMMA = {"rectangular": 0.9, "triangular": 1.1, "arctan": 2.0, "sigmoid": 0.3, "dspike": 3.0, "linear": 0.4}


def surrogate_derivative(name, z, gamma):
    """f'(z) as the paper prints it (Sec. 6.2 and 11.3)."""
    if name == "rectangular":
        return (np.abs(z) < gamma / 2) / gamma
    if name == "triangular":
        return np.maximum(0, gamma - np.abs(z)) / gamma**2
    if name == "arctan":
        return gamma / (2 * (1 + (math.pi / 2 * gamma * z) ** 2))
    if name == "dspike":
        return (np.abs(z) < 0.5) * gamma / (2 * math.tanh(gamma / 2) * np.cosh(gamma * z) ** 2)
    if name == "linear":
        return gamma * np.maximum(0, 1 - np.abs(z))
    return np.exp(z / gamma) / (1 + np.exp(z / gamma)) ** 2 / gamma


def forward(x, u, v, leak, family, reset):
    """Outputs, and per step what the backward reads: (input, membrane before, membrane before firing, spike)."""
    outputs, tape = [], []
    for x_t in x:
        m = u + leak * (x_t - u)
        s = (m >= v).astype(float)
        tape.append((x_t, u, m, s))
        u = m - v * s if reset == "soft" else m * (1 - s)
        outputs.append(v * s if family == "trsg" else s)
    return np.stack(outputs), tape


def backward(grad_o, tape, v, tau, family, surrogate, reset, detach):
    """dL/d(x, u_init, v_threshold, tau) by the recursion for G = dL/du[t], from the last step to the first."""
    leak = 1 / tau
    grad_x, grad_v, grad_leak = np.zeros_like(grad_o), 0.0, 0.0
    g = np.zeros_like(grad_o[0])
    for t in reversed(range(len(tape))):
        x, u, m, s = tape[t]
        relative = family != "as_sg"
        d = surrogate_derivative(surrogate, m / v - 1 if relative else m - v, GAMMA[surrogate])
        ds_dm, ds_dv = (d / v, -d * m / v**2) if relative else (d, -d)
        q = grad_o[t] * (v if family == "trsg" else 1)
        if not detach:
            q = q - g * (v if reset == "soft" else m)
        grad_m = q * ds_dm + g * (1 if reset == "soft" else 1 - s)
        grad_v += np.sum(q * ds_dv)
        if family == "trsg":
            grad_v += np.sum(grad_o[t] * s)
        if reset == "soft" and not detach:
            grad_v -= np.sum(g * s)
        grad_x[t] = leak * grad_m
        grad_leak += np.sum(grad_m * (x - u))
        g = (1 - leak) * grad_m
    return grad_x, np.sum(g), grad_v, -grad_leak * leak**2


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("family", FAMILIES)
def test_autograd_equals_the_hand_written_backward(family, reset, surrogate, detach):
    rng = np.random.default_rng(7)
    u_init, v, tau = 0.21, 0.7, 1.8
    for timesteps in range(1, 7):
        for steps in {1, timesteps}:
            x = rng.uniform(-0.5, 3, (steps, 2, 9))
            grad_o = rng.normal(size=(timesteps, 2, 9))
            leaves = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (x, u_init, v, tau)]
            result = lif(
                *leaves,
                timesteps=timesteps,
                family=family,
                surrogate=surrogate,
                gamma=GAMMA[surrogate],
                reset=reset,
                detach_reset=detach,
                backend="reference",
            )
            found = torch.autograd.grad(result.o, leaves, torch.tensor(grad_o))

            window = np.broadcast_to(x, grad_o.shape)
            outputs, tape = forward(window, np.full((2, 9), u_init), v, 1 / tau, family, reset)
            expected = backward(grad_o, tape, v, tau, family, surrogate, reset, detach)
            if steps == 1:
                expected = (expected[0].sum(0, keepdims=True), *expected[1:])
            np.testing.assert_array_equal(result.o.detach(), outputs)
            assert 0 < (outputs > 0).mean() < 1
            for left, right in zip(found, expected, strict=True):
                np.testing.assert_allclose(left, right, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("family", "v", "inside"), [("trsg", 2.0, 0), ("rs_sg", 2.0, 0), ("as_sg", 1.0, 0), ("as_sg", 2.0, -1)]
)
def test_derivative_of_the_soft_reset(family, v, inside):
    # Rectangular, gamma 1: dU/dM = 1 - 1 inside the window of a relative argument, so a gradient goes through the
    # spike or through time, never both. With an absolute argument it is 1 - V.
    m1 = torch.linspace(0.03, 2.97, 50, dtype=torch.float64) * v
    u1 = torch.where(m1 >= v, m1 - v, m1)
    # tau = 2: x[1] gives m[1] from u_init = 0, and x[2] puts m[2] onto the threshold, the middle of its window.
    x = torch.stack([2 * m1, 2 * v - u1]).requires_grad_()
    scalars = (torch.tensor(number, dtype=torch.float64) for number in (0, v, 2))
    options = {"timesteps": 2, "surrogate": "rectangular", "gamma": 1.0, "reset": "soft", "detach_reset": False}
    output = lif(x, *scalars, family=family, backend="reference", **options).o[1]
    grad = torch.autograd.grad(output.sum(), x)[0]
    distance = m1 - v if family == "as_sg" else m1 / v - 1
    expected = torch.where(distance.abs() < 0.5, float(inside), 1.0).double()
    # dO[2]/dx[1] = dO[2]/dM[2] * (1 - leak) * dU[1]/dM[1] * leak, and dO[2]/dx[2] = dO[2]/dM[2] * leak
    torch.testing.assert_close(grad[0] / grad[1] * 2, expected, rtol=1e-12, atol=1e-12)
