"""torch.compile of the reference: the same numbers, forward and backward."""

import pytest
import torch

from snnrepro.neurons import LIF
from snnrepro.neurons.functional import lif
from snnrepro.options import BACKENDS

pytestmark = pytest.mark.slow


def run(backend, shape, timesteps, *, family, surrogate, gamma):
    generator = torch.Generator().manual_seed(1)
    x = (2 * torch.randn(*shape, generator=generator)).requires_grad_()
    scalars = [torch.tensor(value, requires_grad=True) for value in (0.1, 0.7, 2.3)]
    options = {"family": family, "surrogate": surrogate, "gamma": gamma, "reset": "soft", "detach_reset": False}
    result = lif(x, *scalars, timesteps=timesteps, backend=backend, **options)
    weight = torch.randn(result.o.shape, generator=generator)
    return result, torch.autograd.grad(result.o, (x, *scalars), weight)


@pytest.mark.parametrize(
    ("family", "surrogate", "gamma"), [("trsg", "rectangular", 1.0), ("as_sg", "arctan", 2.0), ("trsg", "arctan", 1.5)]
)
def test_compiled_equals_reference(family, surrogate, gamma):
    assert "compiled" in BACKENDS
    options = {"family": family, "surrogate": surrogate, "gamma": gamma}
    for shape in ((4, 3, 2, 5, 5), (4, 7, 6, 4, 4)):
        compiled, grads = run("compiled", shape, 4, **options)
        reference, expected = run("reference", shape, 4, **options)
        assert 0.05 < (reference.o > 0).float().mean() < 0.95
        assert torch.equal(compiled.o, reference.o)
        assert torch.equal(compiled.active_count, reference.active_count)
        torch.testing.assert_close(compiled.u_sum, reference.u_sum, rtol=1e-5, atol=1e-5)
        for left, right in zip(grads, expected, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


def test_many_lengths_of_a_static_window_compile():
    # Nine graphs are one more than torch's default limit. With a static current and no gradient the compiler once
    # inlined the whole window, and its code grew fourfold with every step.
    x = 2 * torch.rand(1, 4, 5, generator=torch.Generator().manual_seed(0))
    scalars = tuple(torch.tensor(value) for value in (0.1, 0.7, 2.0))
    options = {"family": "rs_sg", "surrogate": "rectangular", "gamma": 1.0, "reset": "hard", "detach_reset": False}
    for timesteps in range(1, 10):
        with torch.no_grad():
            pair = [lif(x, *scalars, timesteps=timesteps, backend=b, **options).o for b in ("compiled", "reference")]
        assert torch.equal(*pair)


def test_a_training_step_with_mp_init():
    # The layer moves u_init after the forward, while the compiled backward still holds what the forward read.
    found = {}
    for backend in ("compiled", "reference"):
        neuron = LIF(
            family="trsg",
            surrogate="rectangular",
            gamma=1.0,
            reset="soft",
            detach_reset=False,
            v_threshold=1.0,
            tau=2.0,
            learn_threshold=True,
            learn_tau=True,
            mp_init=True,
            beta=0.9,
            backend=backend,
        )
        x = 2 * torch.rand(4, 6, 5, generator=torch.Generator().manual_seed(2))
        for _ in range(2):
            neuron(x).square().sum().backward()
        found[backend] = torch.stack([neuron.u_init, neuron.v_threshold_raw.grad, neuron.tau_raw.grad])
    torch.testing.assert_close(found["compiled"], found["reference"], rtol=1e-5, atol=1e-5)
    assert found["reference"][0] > 0
