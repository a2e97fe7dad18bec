"""snnTorch's ``Leaky`` as ``LIF`` (written against snnTorch 1.0.0).

Leaky integrates ``mem = beta * mem + x`` and fires where ``mem > threshold``; in our units tau = 1 / (1 - beta) and
V_thr = threshold / tau. Which resets are equal:

* zero, reset_delay=True: exactly ``reset=hard`` with a detached reset; the delay moves the reset, not its effect.
* zero, reset_delay=False: exactly ``reset=hard``.
* subtract, reset_delay=False: ``reset=soft`` as long as no potential exceeds twice the threshold; beyond that, Leaky
  subtracts before it fires again.
* subtract, reset_delay=True (snnTorch's default): none. It subtracts the threshold one step later, undecayed, which
  is a soft reset by threshold / beta.

A potential exactly at the threshold fires here and not there.
"""

import warnings
from typing import Any

from snnrepro.importers.translate import make_layer
from snnrepro.neurons import LIF


def from_snntorch(node: Any, *, backend: str = "reference") -> LIF:
    """Returns the ``LIF`` that equals a ``Leaky``: spikes and gradients, up to rounding.

    It takes the whole sequence (T, ...) at once: call it in place of the loop over time. A learned threshold stays
    learnable. backend: the layer's, see ``runtime.backend``. Warns where equality has a condition (see above). Raises
    ValueError for what has no equal.
    """
    import snntorch

    kind = type(node).__name__
    if type(node) is not snntorch.Leaky:
        raise ValueError(f"{kind}: only Leaky has an equal")
    reason = _no_equal(node)
    if reason is not None:
        raise ValueError(f"Leaky: {reason}")
    subtract = node.reset_mechanism == "subtract"
    try:
        layer = make_layer(
            node.spike_grad,
            tau=1 / (1 - node.beta.double().item()),
            v_threshold=node.threshold.double().item(),
            decay_input=False,
            reset="soft" if subtract else "hard",
            detach_reset=bool(node.reset_delay),
            learn_threshold=node.threshold.requires_grad,
            learn_tau=node.beta.requires_grad,
            backend=backend,
        )
    except ValueError as error:
        raise ValueError(f"Leaky: {error}") from None
    if subtract:
        warnings.warn("Leaky with subtract: equal while no potential exceeds twice the threshold", stacklevel=2)
    return layer.to(node.threshold.device).train(node.training)


def _no_equal(node: Any) -> str | None:
    """Returns why this layer has no equal, or None."""
    if node.beta.numel() != 1 or node.threshold.numel() != 1:
        return "beta or threshold per neuron; a LIF has one of each per layer"
    if not 0 < node.beta.item() < 1:
        return f"beta={node.beta.item():g}: only values between 0 and 1 have an equal"
    if node.reset_mechanism == "none":
        return "reset_mechanism=none: a LIF resets"
    if node.reset_mechanism == "subtract" and node.reset_delay:
        return "subtract with reset_delay=True subtracts an undecayed threshold one step later; use reset_delay=False"
    if node.inhibition or node.state_quant or node.surrogate_disable:
        return "inhibition, state_quant and surrogate_disable have no equal"
    if node.graded_spikes_factor.requires_grad or (node.graded_spikes_factor != 1).any():
        return "graded spikes have no equal"
    return None
