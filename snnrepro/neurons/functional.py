"""The public ``lif``: checks its arguments and picks the implementation."""

from functools import cache

import torch
from torch import Tensor

from snnrepro.neurons.reference import LIFResult, lif_reference
from snnrepro.options import FAMILIES, RESETS, SURROGATES


@cache
def _compiled_lif():
    # dynamic=True: one compilation serves layers of every size; each option set still gets its own.
    return torch.compile(lif_reference, dynamic=True, fullgraph=True)


def lif(
    x: Tensor,
    u_init: Tensor,
    v_threshold: Tensor,
    tau: Tensor,
    *,
    timesteps: int,
    family: str,
    surrogate: str,
    gamma: float,
    reset: str,
    detach_reset: bool,
    backend: str,
) -> LIFResult:
    """Returns what ``lif_reference`` defines, computed by ``backend`` (reference or compiled).

    Raises ValueError for an unknown option or an input with the wrong number of steps.
    """
    for name, value, allowed in (
        ("family", family, FAMILIES),
        ("surrogate", surrogate, SURROGATES),
        ("reset", reset, RESETS),
        ("backend", backend, ("reference", "compiled")),
    ):
        if value not in allowed:
            raise ValueError(f"{name}={value!r} is not one of {', '.join(allowed)}")
    if x.shape[0] not in (1, timesteps):
        raise ValueError(f"input has {x.shape[0]} steps, expected 1 or timesteps={timesteps}")
    implementation = lif_reference if backend == "reference" else _compiled_lif()
    return implementation(
        x,
        u_init,
        v_threshold,
        tau,
        timesteps=timesteps,
        family=family,
        surrogate=surrogate,
        gamma=gamma,
        reset=reset,
        detach_reset=detach_reset,
    )
