"""SpikingJelly's multi-step LIF layers as ``LIF`` (written against SpikingJelly 2.0.0)."""

from typing import Any

import torch
from torch import nn

from snnrepro.importers.translate import make_layer
from snnrepro.neurons import LIF


def from_spikingjelly(node: Any, *, backend: str = "reference") -> LIF:
    """Returns the ``LIF`` that equals a ``LIFNode`` or ``ParametricLIFNode``: spikes and gradients, up to rounding.

    node: with v_reset None (soft reset) or 0 (hard). Its state starts at 0 in every forward, as after ``reset_net``;
    the tau of a ``ParametricLIFNode`` stays learnable. backend: the layer's, see ``runtime.backend``. Raises
    ValueError for what has no equal: other nodes, another v_reset, foreign surrogates.
    """
    from spikingjelly.activation_based import neuron

    kind = type(node).__name__
    parametric = type(node) is neuron.ParametricLIFNode
    if type(node) in (neuron.IFNode, neuron.SimpleIFNode):
        raise ValueError(f"{kind}: no leak; a LIF needs a finite tau")
    if not parametric and type(node) is not neuron.LIFNode:
        raise ValueError(f"{kind}: only LIFNode and ParametricLIFNode have an equal")
    if node.v_reset not in (None, 0):
        raise ValueError(f"{kind}: v_reset={node.v_reset:g}: only None (soft reset) and 0 (hard reset) have an equal")
    try:
        layer = make_layer(
            node.surrogate_function,
            tau=(1 / node.w.detach().double().sigmoid()).item() if parametric else node.tau,
            v_threshold=float(node.v_threshold),
            decay_input=node.decay_input,
            reset="soft" if node.v_reset is None else "hard",
            detach_reset=node.detach_reset,
            learn_threshold=False,
            learn_tau=parametric and node.w.requires_grad,
            backend=backend,
        )
    except ValueError as error:
        raise ValueError(f"{kind}: {error}") from None
    if parametric:
        # The same parameter: tau = 1 / sigmoid(w).
        with torch.no_grad():
            layer.tau_raw.copy_(node.w)
        layer.to(node.w.device)
    return layer.train(node.training)


def convert(model: nn.Module, *, backend: str = "reference") -> nn.Module:
    """Replaces, in place, every spiking node of a multi-step SpikingJelly network by its ``LIF``; returns the network.

    Nothing is replaced unless everything can be: raises ValueError naming the first node without an equal, a
    single-step node, or a node that serves two places, where its state would flow from one to the other.
    """
    from spikingjelly.activation_based.neuron import base_node

    nodes = (base_node.BaseNode, base_node.SimpleBaseNode, base_node.NonSpikingBaseNode)
    if isinstance(model, nodes):
        return from_spikingjelly(model, backend=backend)
    layers: dict[str, LIF] = {}
    names: dict[int, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, nodes):
            continue
        if id(module) in names:
            raise ValueError(f"{name}: the same node as {names[id(module)]}; give each place a node of its own")
        names[id(module)] = name
        if module.step_mode != "m":
            raise ValueError(f"{name}: step_mode='s'; call functional.set_step_mode(model, 'm') first")
        try:
            layers[name] = from_spikingjelly(module, backend=backend)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    device = next(model.parameters(), torch.empty(0)).device
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.to(device))
    return model
