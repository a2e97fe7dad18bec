"""What the importers share: recognising a surrogate, bringing units into ours, renaming and checking parameters."""

import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from snnrepro.errors import StorageError
from snnrepro.neurons import LIF
from snnrepro.neurons.surrogates import SURROGATES

# gamma of each shape from its maximum f'(0): see ``neurons/surrogates.py``.
_GAMMA_OF_PEAK: dict[str, Callable[[float], float]] = {
    "rectangular": lambda peak: 1 / peak,
    "triangular": lambda peak: 1 / peak,
    "arctan": lambda peak: 2 * peak,
    "sigmoid": lambda peak: 1 / (4 * peak),
}
# In units of 1 / f'(0), off the edges of the windows: enough to tell the shapes apart.
_PROBES = (0.0, 0.1, 0.3, 0.45, 0.55, 0.8, 0.95, 1.05, 1.5, 3.0, 8.0)


def recognise_surrogate(fire: Callable[[Tensor], Tensor]) -> tuple[str, float]:
    """Returns (surrogate, gamma) with the derivative of the spike function ``fire``, found by calling it.

    Raises ValueError when ``fire`` does not emit 0 and 1, or its derivative is none of ours.
    """
    (peak,) = _derivative(fire, torch.zeros(1, dtype=torch.float64))[1].tolist()
    if peak > 0:
        half = torch.tensor(_PROBES, dtype=torch.float64) / peak
        z = torch.cat([-half[1:], half])
        spikes, derivative = _derivative(fire, z)
        if not torch.equal(spikes[z != 0], (z > 0).double()[z != 0]):
            raise ValueError("the surrogate does not emit spikes of 0 and 1 in its forward")
        for name, gamma_of in _GAMMA_OF_PEAK.items():
            expected = SURROGATES[name].derivative(z, gamma_of(peak))
            if torch.allclose(derivative, expected, rtol=1e-5, atol=1e-5 * peak):
                return name, gamma_of(peak)
    raise ValueError(f"the surrogate's derivative is none of {', '.join(_GAMMA_OF_PEAK)}")


def _derivative(fire: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    z = z.clone().requires_grad_()
    with torch.enable_grad():
        spikes = fire(z)
        (gradient,) = torch.autograd.grad(spikes.sum(), z)
    return spikes.detach().double(), gradient


def make_layer(
    fire: Callable[[Tensor], Tensor],
    *,
    tau: float,
    v_threshold: float,
    decay_input: bool,
    reset: str,
    detach_reset: bool,
    learn_threshold: bool,
    learn_tau: bool,
    backend: str,
) -> LIF:
    """Returns the ``LIF`` (as_sg, no MP-Init) that fires and learns like a layer with these values in its own units.

    Without ``decay_input`` the foreign layer integrates ``(1 - 1/tau) u + x``, tau times our membrane: V_thr and the
    surrogate's width shrink by tau. Raises ValueError where no LIF is equal.
    """
    if not tau > 1:
        raise ValueError(f"tau={tau:g}: a LIF needs a time constant above 1")
    if not 0 < v_threshold < float("inf"):
        raise ValueError(f"v_threshold={v_threshold:g}: a LIF needs a positive threshold")
    if learn_tau and not decay_input:
        raise ValueError("a learned leak without decayed input has no equal: our threshold would move with tau")
    surrogate, gamma = recognise_surrogate(fire)
    if not decay_input:
        v_threshold /= tau
        # arctan's gamma is a steepness, the others' a width.
        gamma = gamma * tau if surrogate == "arctan" else gamma / tau
    return LIF(
        family="as_sg",
        surrogate=surrogate,
        gamma=gamma,
        reset=reset,
        detach_reset=detach_reset,
        v_threshold=v_threshold,
        tau=tau,
        learn_threshold=learn_threshold,
        learn_tau=learn_tau,
        mp_init=False,
        beta=0.1,
        backend=backend,
    )


def renamed(state: Mapping[str, Tensor], names: Sequence[tuple[str, str]], program: str) -> dict[str, Tensor]:
    """Returns ``state`` under our names: of every key that of the first (pattern, ours) which matches it whole.

    Raises StorageError naming a key that matches none, or has the same name here as another one.
    """
    found: dict[str, Tensor] = {}
    for key, tensor in state.items():
        match = next((m.expand(ours) for pattern, ours in names if (m := re.fullmatch(pattern, key))), None)
        if match is None:
            raise StorageError(f"{key}: not a parameter of {program}")
        if match in found:
            raise StorageError(f"{key}: a second {match}")
        found[match] = tensor
    return found


def require_fit(converted: Mapping[str, Tensor], model: nn.Module, left_alone: tuple[str, ...] = ()) -> None:
    """Raises StorageError naming the first parameter that is missing, unknown or of another shape.

    left_alone: ends of names that the checkpoint need not have.
    """
    expected = model.state_dict()
    for name in [*expected, *converted]:
        if name.endswith(left_alone) and left_alone:
            continue
        if name not in converted:
            raise StorageError(f"{name}: missing in the checkpoint; is the network of the same stem and blocks?")
        if name not in expected or expected[name].shape != converted[name].shape:
            shape = tuple(expected[name].shape) if name in expected else "none"
            raise StorageError(f"{name}: {tuple(converted[name].shape)} in the checkpoint, {shape} in the network")
