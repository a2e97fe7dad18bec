"""Analytic gradients against float64 finite differences.

The spike is a step, so finite differences can check it only in smooth mode, where the surrogate's primitive stands
for the spike; its derivative is the same f'. What remains, the spiking forward with that backward, is compared with
a hand-written backward in ``test_backward.py``.
"""

from functools import partial

import pytest
import torch

from snnrepro.neurons.reference import lif_reference
from snnrepro.options import FAMILIES, RESETS, SURROGATES

GAMMA = {"rectangular": 1.0, "triangular": 1.0, "arctan": 2.0, "sigmoid": 0.25, "dspike": 3.0, "linear": 0.3}


def inputs(timesteps):
    """x (timesteps, 6), u_init, v_threshold, tau: generic values, a good part inside every window."""
    generator = torch.Generator().manual_seed(3)
    x = 3 * torch.rand(timesteps, 6, dtype=torch.float64, generator=generator) - 0.3
    scalars = (torch.tensor(value, dtype=torch.float64) for value in (0.23, 0.81, 1.9))
    return tuple(tensor.requires_grad_() for tensor in (x, *scalars))


def passes(values, *, timesteps, family, surrogate, reset, detach_reset, smooth):
    function = partial(
        lif_reference,
        timesteps=timesteps,
        family=family,
        surrogate=surrogate,
        gamma=GAMMA[surrogate],
        reset=reset,
        detach_reset=detach_reset,
        smooth=smooth,
    )

    def outputs(*arguments):
        return function(*arguments).o

    return torch.autograd.gradcheck(outputs, values, eps=1e-6, atol=1e-7, rtol=1e-5, raise_exception=False)


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_match_finite_differences_only_in_smooth_mode(family, reset, surrogate):
    options = {"family": family, "reset": reset, "surrogate": surrogate}
    for timesteps in (3, 1):
        check = partial(passes, inputs(timesteps), timesteps=timesteps, detach_reset=False, **options)
        assert check(smooth=True)
        assert not check(smooth=False)


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("family", FAMILIES)
def test_detached_reset_is_the_true_gradient_only_for_one_step(family, reset, surrogate):
    # After one step nothing reads the reset membrane. From the second on, detaching drops a part on purpose, and
    # finite differences see the whole.
    options = {"family": family, "reset": reset, "surrogate": surrogate, "detach_reset": True, "smooth": True}
    assert passes(inputs(1), timesteps=1, **options)
    assert not passes(inputs(3), timesteps=3, **options)


@pytest.mark.parametrize("learned", ["x", "u_init", "v_threshold", "tau"])
def test_gradient_is_the_same_when_only_one_input_is_learned(learned):
    options = {"timesteps": 3, "family": "trsg", "surrogate": "arctan", "gamma": 2.0, "reset": "soft"}
    names = ("x", "u_init", "v_threshold", "tau")
    every = dict(zip(names, inputs(3), strict=True))
    one = {name: tensor.detach().requires_grad_(name == learned) for name, tensor in every.items()}
    grads = []
    for values in (every, one):
        output = lif_reference(*values.values(), detach_reset=False, **options).o
        grads.append(torch.autograd.grad(output.square().sum(), values[learned])[0])
    assert torch.equal(*grads)
    assert grads[0].abs().max() > 0
