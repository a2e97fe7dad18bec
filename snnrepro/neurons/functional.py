"""The public ``lif``: checks its arguments and picks the implementation."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from snnrepro.neurons.reference import LIFResult, lif_reference
from snnrepro.options import FAMILIES, RESETS, SURROGATES


@cache
def _compiled_lif(**options) -> Callable[..., LIFResult]:
    """Returns ``lif_reference`` with these options, compiled; one compilation serves layers of every size."""
    # Above 30 operations an intermediate is stored instead of inlined. The default for CPUs inlines on, and the
    # code then grows exponentially with the number of steps.
    inductor: dict[str, Any] = {"realize_opcount_threshold": 30}
    compiled = torch.compile(partial(lif_reference, **options), dynamic=True, fullgraph=True, options=inductor)
    # gamma enters as a constant: a symbolic float may not cross into the backward of an autograd Function. Every
    # timesteps, number of dimensions and gradient mode is a graph of its own, more than the default limit of 8.
    return torch._dynamo.config.patch(specialize_float=True, recompile_limit=128)(compiled)


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

    Raises ValueError for an unknown option, for ``timesteps`` below 1, and for an input with another number of steps.
    """
    for name, value, allowed in (
        ("family", family, FAMILIES),
        ("surrogate", surrogate, SURROGATES),
        ("reset", reset, RESETS),
        ("backend", backend, ("reference", "compiled")),
    ):
        if value not in allowed:
            raise ValueError(f"{name}={value!r} is not one of {', '.join(allowed)}")
    if timesteps < 1:
        raise ValueError(f"timesteps={timesteps} must be at least 1")
    if x.shape[0] not in (1, timesteps):
        raise ValueError(f"input has {x.shape[0]} steps, expected 1 or timesteps={timesteps}")
    options: dict[str, Any] = {
        "timesteps": timesteps,
        "family": family,
        "surrogate": surrogate,
        "gamma": gamma,
        "reset": reset,
        "detach_reset": detach_reset,
    }
    if backend == "compiled":
        return _compiled_lif(**options)(x, u_init, v_threshold, tau)
    return lif_reference(x, u_init, v_threshold, tau, **options)
