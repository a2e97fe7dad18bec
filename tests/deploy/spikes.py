"""Compares an absorbed network with the one it comes from, spike by spike."""

import torch

from snnrepro.deploy.network import Conv, Linear, Spiking
from snnrepro.neurons import spiking_layers


def spikes_of(model, x, timesteps):
    """Returns (logits, spikes per layer) of a network or an absorbed network."""
    spikes = {}
    layers = [*spiking_layers(model)]
    if hasattr(model, "operations"):
        layers = [(name, m) for name, m in model.operations.named_modules() if isinstance(m, Spiking)]
    hooks = [m.register_forward_hook(lambda _m, _i, o, name=name: spikes.update({name: o})) for name, m in layers]
    with torch.no_grad():
        logits = model(x, timesteps)
    for hook in hooks:
        hook.remove()
    return logits, spikes


def assert_same_spikes(model, network, x, timesteps, *, alive=True):
    """Asserts equal spikes everywhere, 0 and 1 only, and equal logits up to float64 rounding."""
    logits, expected = spikes_of(model.eval(), x, timesteps)
    absorbed, got = spikes_of(network, x, timesteps)
    assert set(got) == set(expected)
    for name, spikes in got.items():
        assert bool(((spikes == 0) | (spikes == 1)).all()), name
        assert torch.equal(spikes.bool(), expected[name] > 0), name
        rate = spikes.double().mean()
        assert not alive or 0 < rate < 1, f"{name}: a silent or saturated layer proves nothing ({rate})"
    torch.testing.assert_close(absorbed, logits, rtol=1e-9, atol=1e-9)


def weights_that_read(network, names):
    """Returns the operations with a weight that read one of ``names``."""
    operations = {step.name: network.operations.get_submodule(step.name) for step in network.steps}
    return [
        operations[step.name]
        for step in network.steps
        if isinstance(operations[step.name], Conv | Linear) and set(step.inputs) & set(names)
    ]
