"""The LIF layer that tests start from: the paper's method, reference implementation."""

from snnrepro.neurons import LIF

NEURON = {
    "family": "trsg",
    "surrogate": "rectangular",
    "gamma": 1.0,
    "reset": "soft",
    "detach_reset": False,
    "v_threshold": 1.0,
    "tau": 2.0,
    "learn_threshold": True,
    "learn_tau": True,
    "mp_init": True,
    "beta": 0.9,
    "backend": "reference",
}


def make_lif(kind: type[LIF] = LIF, **changed) -> LIF:
    """Returns a layer with the options above, some of them changed."""
    return kind(**(NEURON | changed))
