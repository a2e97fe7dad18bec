"""MPBN: the batch norm between charging and firing, and its folding into thresholds."""

import pytest
import torch
from deploy.spikes import assert_same_spikes
from lif_options import make_lif
from torch import nn
from torch.nn import functional as F

from snnrepro.build import build_model
from snnrepro.compose import compose_run
from snnrepro.deploy import absorb
from snnrepro.errors import AbsorptionError
from snnrepro.norms import MembraneNorm

MAKE = {"eps": 1e-5, "momentum": 0.1}


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def layer_of(x, **changed):
    layer = make_lif(membrane_norm=lambda channels: MembraneNorm(channels, **MAKE), **changed)
    layer.settle(x)
    with torch.no_grad():
        layer.membrane_norm.weight.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(1))
        layer.membrane_norm.bias.uniform_(-0.5, 0.5, generator=torch.Generator().manual_seed(2))
    return layer.double()


@pytest.mark.parametrize("shape", [(5, 4, 3, 6, 6), (5, 16, 7)])
def test_each_step_is_normalised_for_firing_and_remembered_as_it_was(shape):
    x = random(*shape).requires_grad_()
    layer = layer_of(x, family="trsg", reset="hard", surrogate="arctan", gamma=2.0)
    norm = layer.membrane_norm
    mean, var = torch.zeros(shape[2], dtype=torch.float64), torch.ones(shape[2], dtype=torch.float64)
    v, tau, u, outputs = layer.v_threshold, layer.tau, torch.zeros(shape[1:], dtype=torch.float64), []
    for x_t in x:
        m = u + (x_t - u) / tau
        n = F.batch_norm(m, mean, var, norm.weight, norm.bias, True, 0.1, 1e-5)
        soft = torch.atan(torch.pi * (n / v - 1)) / torch.pi
        s = (n >= v).double() + soft - soft.detach()
        u = m * (1 - s)
        outputs.append(v * s)
    expected = torch.stack(outputs)
    o, weight = layer(x), random(*shape, seed=3)
    torch.testing.assert_close(o, expected)
    # T moves of the running statistics per batch.
    torch.testing.assert_close((norm.running_mean, norm.running_var), (mean, var))
    leaves = (x, norm.weight, norm.bias, layer.v_threshold_raw)
    torch.testing.assert_close(torch.autograd.grad(o, leaves, weight), torch.autograd.grad(expected, leaves, weight))


def test_a_norm_that_changes_nothing_leaves_the_plain_neuron():
    x = random(5, 4, 3, 6, 6)
    layer, plain = layer_of(x).eval(), make_lif().double().eval()
    norm = layer.membrane_norm
    with torch.no_grad():
        norm.running_var.fill_(1 - norm.eps), norm.weight.fill_(1), norm.bias.zero_()
    assert torch.equal(layer(x), plain(x))
    norm.running_mean.fill_(0.1)
    assert not torch.equal(layer(x), plain(x))


def test_folded_threshold_fires_where_the_norm_does():
    norm = nn.Module.double(MembraneNorm(7, **MAKE)).eval()
    with torch.no_grad():
        norm.weight.uniform_(0.2, 2), norm.bias.uniform_(-1, 1)
        norm.running_mean.uniform_(-1, 1), norm.running_var.uniform_(0.1, 3)
    m, v = random(50, 7, 9, 9), torch.tensor(0.5, dtype=torch.float64)
    folded = norm.folded_threshold(v).view(-1, 1, 1)
    fires = norm(m) >= v
    assert torch.equal(fires, m >= folded) and 0.05 < fires.double().mean() < 0.95
    # Control: without the shift it is another set of neurons.
    assert not torch.equal(fires, m >= folded - norm.running_mean.view(-1, 1, 1))
    with torch.no_grad():
        norm.weight[2] = -0.1
    with pytest.raises(ValueError, match="1 of 7 weights"):
        norm.folded_threshold(v)


def network(*words):
    run = compose_run(["model=resnet19_mini", "timesteps=3", "runtime.backend=reference", *words])
    torch.manual_seed(0)
    model = build_model(run, in_shape=(1, 8, 8), num_classes=10).double()
    x = random(16, 1, 8, 8)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("bias"):
                parameter.fill_(0.5)
    model.train()
    # As long as the running statistics need: with those of the first batches every deep layer would be silent.
    for _ in range(40):
        model(x).sum().backward()
    return model.eval(), x


@pytest.mark.parametrize(
    "words",
    [["norm=mpbn", "neuron=trsg"], ["norm=mpbn", "neuron=mpbn_original"], ["neuron=mps"], ["neuron=imp"],
     ["neuron=ltmd"], ["neuron=diet_snn"], ["norm=mpbn", "neuron=mps", "neuron.mp_init.enabled=true"]],
    ids="-".join,
)  # fmt: skip
def test_absorbed_network_fires_the_same_spikes(words):
    model, x = network(*words)
    assert_same_spikes(model, absorb(model), x, 3)


def test_what_cannot_be_absorbed_is_refused_by_name():
    model, _ = network("norm=mpbn", "neuron=lif")
    with torch.no_grad():
        model.sn1.membrane_norm.weight[0] = -1
    with pytest.raises(AbsorptionError, match=r"sn1: 1 of .* cannot be folded"):
        absorb(model)
    model, _ = network("neuron=ltmd")
    with torch.no_grad():
        model.sn1.v_threshold_raw.fill_(-0.1)
    with pytest.raises(AbsorptionError, match=r"sn1: its threshold is -0.09967, and must be above 0"):
        absorb(model)
