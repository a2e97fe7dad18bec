"""What happens when the current, the initial membrane and the threshold are scaled together (paper Eq. 10, 11)."""

import pytest
import torch

from snnrepro.neurons.functional import lif
from snnrepro.options import FAMILIES, RESETS, SURROGATES

GAMMA = {"rectangular": 1.0, "triangular": 1.0, "arctan": 2.0, "sigmoid": 0.25, "dspike": 3.0, "linear": 0.3}
SCALES = (0.01, 0.1, 0.3, 1.0, 2.0, 7.0, 100.0)


def run(c, *, timesteps, family, surrogate, reset):
    """Outputs and dO/dx, summed over the window, with x, u_init and v_threshold scaled by ``c``."""
    generator = torch.Generator().manual_seed(5)
    x = 2.5 * torch.rand(timesteps, 200, dtype=torch.float64, generator=generator) - 0.2
    x = (c * x).requires_grad_()
    u_init, v_threshold, tau = (torch.tensor(value, dtype=torch.float64) for value in (0.17 * c, 0.63 * c, 1.7))
    output = lif(
        x,
        u_init,
        v_threshold,
        tau,
        timesteps=timesteps,
        family=family,
        surrogate=surrogate,
        gamma=GAMMA[surrogate],
        reset=reset,
        detach_reset=False,
        backend="reference",
    ).o
    return output.detach(), torch.autograd.grad(output.sum(), x)[0]


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_gradient_of_one_step_under_scaling(surrogate):
    grads = {
        family: {c: run(c, timesteps=1, family=family, surrogate=surrogate, reset="soft")[1] for c in SCALES}
        for family in FAMILIES
    }
    for c in SCALES:
        assert relative(grads["trsg"][c], grads["trsg"][1.0]) < 1e-12
        assert relative(grads["rs_sg"][c], grads["rs_sg"][1.0] / c) < 1e-12
        if c != 1:
            assert relative(grads["as_sg"][c], grads["as_sg"][1.0]) > 0.05
            assert relative(grads["as_sg"][c], grads["as_sg"][1.0] / c) > 0.05


@pytest.mark.parametrize("timesteps", [1, 2, 7, 16])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("family", FAMILIES)
def test_spikes_do_not_change_under_scaling(family, reset, timesteps):
    options = {"timesteps": timesteps, "family": family, "surrogate": "rectangular", "reset": reset}
    base = run(1.0, **options)[0]
    assert 0.1 < (base > 0).double().mean() < 0.9
    for c in SCALES:
        output = run(c, **options)[0]
        assert torch.equal(output > 0, base > 0)
        torch.testing.assert_close(output, base * (c if family == "trsg" else 1), rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("v", "window", "derivative"),
    [
        (0.1, {"as_sg": (-0.4, 0.6), "rs_sg": (0.05, 0.15), "trsg": (0.05, 0.15)}, (1, 10, 1)),
        (1.0, {"as_sg": (0.5, 1.5), "rs_sg": (0.5, 1.5), "trsg": (0.5, 1.5)}, (1, 1, 1)),
        (2.0, {"as_sg": (1.5, 2.5), "rs_sg": (1, 3), "trsg": (1, 3)}, (1, 0.5, 1)),
    ],
)
def test_window_and_height_of_the_rectangular_gradient(v, window, derivative):
    m = torch.linspace(-1, 4, 1013, dtype=torch.float64)
    for family, height in zip(FAMILIES, derivative, strict=True):
        # tau = 1 turns the current into the membrane.
        x = m[None].clone().requires_grad_()
        scalars = (torch.tensor(number, dtype=torch.float64) for number in (0, v, 1))
        options = {"timesteps": 1, "surrogate": "rectangular", "gamma": 1.0, "reset": "soft", "detach_reset": False}
        output = lif(x, *scalars, family=family, backend="reference", **options).o
        grad = torch.autograd.grad(output.sum(), x)[0][0]
        low, high = window[family]
        expected = torch.where((m > low) & (m < high), float(height), 0.0).double()
        torch.testing.assert_close(grad, expected, rtol=1e-12, atol=0)
