"""Small networks with generic values everywhere, for the tests of the models."""

from functools import partial

import pytest
import torch
from lif_options import NEURON

from snnrepro.layers import SequenceDropout
from snnrepro.models.cnn7 import CNN7
from snnrepro.models.resnet19 import ResNet19
from snnrepro.models.resnet34 import ResNet34
from snnrepro.neurons import LIF
from snnrepro.norms import make_tdbn

NORM = {"eps": 1e-5, "momentum": 0.1}
RESNET19 = {"stem_width": 64, "widths": (128, 256, 512), "blocks": (3, 3, 2), "head": "official", "hidden": 256}
RESNET34 = {"stem": "imagenet", "widths": (64, 128, 256, 512), "blocks": (3, 4, 6, 3), "connect": None}
CNN = {"widths": (64, 128, 256), "hidden": 1024, "fc_spike": False}
COMMON = {"make_dropout": partial(SequenceDropout, 0.0), "timesteps": 3, "mean_over_time": False}


@pytest.fixture
def make_neuron():
    return partial(LIF, **NEURON)


@pytest.fixture
def make_resnet19(make_neuron):
    """make(in_shape, num_classes, **changed) -> ResNet19, at the published size unless changed."""
    factories = {"make_neuron": make_neuron, "make_norm": partial(make_tdbn, **NORM)}

    def make(in_shape, num_classes, **changed):
        options = RESNET19 | COMMON | factories | changed
        return ResNet19(in_shape=in_shape, num_classes=num_classes, **options)

    return make


@pytest.fixture
def make_cnn7(make_neuron):
    """make(in_shape, num_classes, **changed) -> CNN7, at the published size unless changed."""
    factories = {"make_neuron": make_neuron, "make_norm": partial(make_tdbn, **NORM)}

    def make(in_shape, num_classes, **changed):
        return CNN7(in_shape=in_shape, num_classes=num_classes, **(CNN | COMMON | factories | changed))

    return make


@pytest.fixture
def make_resnet34(make_neuron):
    """make(in_shape, num_classes, **changed) -> ResNet34, at the published size unless changed."""
    factories = {"make_neuron": make_neuron, "make_norm": partial(make_tdbn, **NORM), "tie_thresholds": False}

    def make(in_shape, num_classes, **changed):
        return ResNet34(in_shape=in_shape, num_classes=num_classes, **(RESNET34 | COMMON | factories | changed))

    return make


@pytest.fixture
def generic():
    """generic(model) -> the model in float64 with random values everywhere, large enough that all layers fire."""

    def fill(model):
        generator = torch.Generator().manual_seed(8)

        def uniform(tensor, low, high):
            tensor.copy_(low + (high - low) * torch.rand(tensor.shape, dtype=torch.float64, generator=generator))

        with torch.no_grad():
            for name, tensor in model.double().state_dict().items():
                kind = name.rpartition(".")[2]
                if kind in ("running_mean", "u_init", "tau_raw"):
                    uniform(tensor, -0.3, 0.3)
                elif kind == "running_var" or (kind == "weight" and tensor.ndim == 1):
                    uniform(tensor, 0.6, 1.6)
                elif kind == "weight":
                    bound = (6 / tensor[0].numel()) ** 0.5
                    uniform(tensor, -bound, bound)
                elif kind == "bias":
                    uniform(tensor, 0.2, 1.0)
                elif kind == "v_threshold_raw":
                    uniform(tensor, -0.6, 0.6)
        return model

    return fill
