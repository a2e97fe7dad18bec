"""Random small networks: units, shortcuts of both kinds and pools in any order fire the same spikes."""

import torch
from deploy.nets import Skeleton, Unit, norm
from deploy.spikes import assert_same_spikes, spikes_of
from hypothesis import given, settings
from hypothesis import strategies as st
from lif_options import make_lif
from torch import nn

from snnrepro.deploy import absorb
from snnrepro.layers import per_step

PIECES = ("unit", "spike_add", "current_add", "projected_add", "avg_pool", "norm_lif")
firing: list[float] = []


class Piece(nn.Module):
    def __init__(self, kind, neuron):
        super().__init__()
        self.kind = kind
        self.unit, self.conv, self.norm = Unit(4, 4, **neuron), nn.Conv2d(4, 4, 1), norm(4)
        self.sn, self.pool = make_lif(**neuron), nn.AvgPool2d(2, 1)

    def forward(self, x):
        if self.kind == "unit":
            return self.unit(x)
        if self.kind == "spike_add":
            return self.unit(x) + x
        if self.kind == "avg_pool":
            return per_step(self.pool, x)
        if self.kind == "norm_lif":
            return self.sn(self.norm(x))
        shortcut = x if self.kind == "current_add" else per_step(self.conv, x)
        return self.sn(self.norm(per_step(self.conv, x)) + shortcut)


class Random(Skeleton):
    def __init__(self, pieces, neuron):
        super().__init__()
        self.pieces = nn.Sequential(*(Piece(kind, neuron) for kind in pieces))

    def body(self, x):
        return self.pieces(x)


def randomise(model, seed, tied):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.double().state_dict().items():
            if tensor.is_floating_point():
                low, high = (0.5, 1.5) if name.endswith("running_var") else (-0.6, 0.8)
                tensor.copy_(low + (high - low) * torch.rand(tensor.shape, dtype=torch.float64, generator=generator))
            if tied and name.endswith("v_threshold_raw"):
                tensor.fill_(0.3)
    return model


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=4),
    st.sampled_from(("trsg", "as_sg")),
    st.sampled_from(("soft", "hard")),
    st.booleans(),
    st.integers(1, 4),
    st.integers(0, 2**31),
)
def test_random_networks_fire_the_same_spikes(pieces, family, reset, tied, timesteps, seed):
    model = randomise(Random(pieces, {"family": family, "reset": reset}), seed, tied)
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert_same_spikes(model, absorb(model), x, timesteps, alive=False)
    _, spikes = spikes_of(model, x, timesteps)
    firing.append(sum(0 < (o > 0).double().mean() < 1 for o in spikes.values()) / len(spikes))


def test_most_layers_of_the_random_networks_fire():
    firing.clear()
    test_random_networks_fire_the_same_spikes()
    assert sum(firing) / len(firing) > 0.6
