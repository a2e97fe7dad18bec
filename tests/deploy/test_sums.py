"""Sums of spikes (SEW), pools, weight-less edges and norms per step."""

import pytest
import torch
from deploy.nets import SEW, Chain, Free, StepNorm, Unit, norm, tie
from deploy.spikes import assert_same_spikes
from lif_options import make_lif
from torch import nn

from snnrepro.deploy import absorb
from snnrepro.deploy.network import Sum
from snnrepro.errors import AbsorptionError, ConfigError
from snnrepro.layers import per_step

STREAM = ["stem.sn", "one.1.sn", "two.1.sn", "three.1.sn"]
LAST = ["main.sn", "down.sn"]


def images(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def edges_of(network, layer):
    return [edge for edge in network.report if any(layer in part for part in edge.via)]


def test_sew_with_different_thresholds_has_a_weight_copy_for_each_source(generic):
    model = generic(SEW())
    network = absorb(model)
    assert_same_spikes(model, network, images(4, 3, 8, 8), 4)
    assert_same_spikes(model, network, images(5, 4, 3, 8, 8), None)
    for layer, copies in (("one.0.conv", 1), ("two.0.conv", 2), ("three.0.conv", 3), ("down.conv", 4), ("fc", 2)):
        edges = edges_of(network, layer)
        sources = (LAST if layer == "fc" else STREAM)[:copies]
        assert sorted(edge.sources for edge in edges) == sorted((name,) for name in sources)
        assert all(("R6" in edge.rules) == (copies > 1) for edge in edges)
        assert all((f"of {copies}" in edge.how) == (copies > 1) for edge in edges)


def test_sew_with_tied_thresholds_has_one_weight_over_whole_numbers(generic):
    model = tie(tie(generic(SEW()), STREAM), LAST, 0.4)
    network = absorb(model)
    sums = []
    for module in network.operations.modules():
        if isinstance(module, Sum):
            module.register_forward_hook(lambda _m, _i, o: sums.append(o))
    assert_same_spikes(model, network, images(4, 3, 8, 8), 4)
    assert all(torch.equal(o, o.round()) for o in sums[:3]) and max(o.max() for o in sums[:3]) > 1
    for layer, sources in (("two.0.conv", STREAM[:2]), ("down.conv", STREAM), ("fc", LAST)):
        (edge,) = edges_of(network, layer)
        assert set(edge.sources) == set(sources) and "R6" in edge.rules and "equal V" in edge.how
    # main and down read one sum.
    assert sum(step.kind == "sum" for step in network.steps) == 4


def test_sew_partly_tied_has_a_copy_for_each_threshold(generic):
    model = tie(generic(SEW()), STREAM[1:3])
    network = absorb(model)
    assert_same_spikes(model, network, images(4, 3, 8, 8), 4)
    assert [edge.sources for edge in edges_of(network, "three.0.conv")] == [(STREAM[2], STREAM[1]), (STREAM[0],)]


def test_control_one_weight_for_different_thresholds_is_found(generic):
    model = generic(SEW())
    network = absorb(model)
    copies = [s.name for s in network.steps if s.name.startswith("three.0.conv") and s.kind == "conv"]
    first = network.operations.get_submodule(copies[0]).weight
    for name in copies[1:]:
        network.operations.get_submodule(name).weight.copy_(first)
    with pytest.raises(AssertionError, match="three"):
        assert_same_spikes(model, network, images(4, 3, 8, 8), 4)


@pytest.mark.parametrize(
    "pool", [nn.AvgPool2d(2), nn.AvgPool2d(3, 2, 1), nn.MaxPool2d(3, 2, 1), nn.AdaptiveAvgPool2d(3)]
)
def test_pools_between_units(generic, pool):
    model = generic(Chain(pool))
    network = absorb(model)
    assert_same_spikes(model, network, images(4, 3, 8, 8), 4)
    assert "R4" in edges_of(network, "one.conv")[0].rules


def test_average_of_a_sum_is_split_and_maximum_is_not(generic):
    model = generic(SEW(nn.AvgPool2d(2)))
    assert_same_spikes(model, absorb(model), images(4, 3, 8, 8), 4)
    with pytest.raises(AbsorptionError, match=r"pool: the maximum .*different thresholds .two.1.sn, one.1.sn, stem.sn"):
        absorb(generic(SEW(nn.MaxPool2d(2))))


@pytest.mark.advice("cannot be split by source; tie their thresholds")
def test_maximum_of_a_tied_sum(generic):
    model = tie(generic(SEW(nn.MaxPool2d(2))), STREAM)
    assert_same_spikes(model, absorb(model), images(4, 3, 8, 8), 4)


def pool_then_lif(model, x):
    return model.sn(per_step(model.pool, x))


def norm_on_identity(model, x):
    return model.sn(model.norm(x) + model.one(x))


def doubled(model, x):
    return model.one(x + x)


def conv_on_norm(model, x):
    return model.one(model.norm(x))


def pool_before_lif(model, x):
    return model.sn(per_step(model.pool, model.norm(per_step(model.conv, x))))


@pytest.mark.parametrize("function", [pool_then_lif, norm_on_identity, doubled, conv_on_norm, pool_before_lif])
def test_edges_that_the_models_do_not_have(generic, function):
    parts = {"sn": make_lif(), "pool": nn.MaxPool2d(2), "norm": norm(4), "one": Unit(4, 4)}
    model = generic(Free(function, conv=nn.Conv2d(4, 4, 3, 2, 1), **parts))
    assert_same_spikes(model, absorb(model), images(4, 3, 8, 8), 4)


def test_a_layer_used_twice(generic):
    model = generic(Free(lambda model, x: model.one(model.one(x)), one=Unit(4, 4))).eval()
    network, x = absorb(model), images(4, 3, 8, 8)
    assert [step.name for step in network.steps if step.kind == "spiking"] == ["stem.sn", "one.sn", "one.sn_2"]
    logits = model(x, 4).detach()
    torch.testing.assert_close(network(x, 4), logits, rtol=1e-9, atol=1e-9)
    assert logits.std() > 0


def test_norm_per_step_keeps_one_weight_and_says_so(generic):
    model = generic(Chain(nn.AvgPool2d(2), make_norm=StepNorm))
    network = absorb(model)
    assert_same_spikes(model, network, images(4, 3, 8, 8), 4)
    assert_same_spikes(model, network, images(2, 4, 3, 8, 8), None, alive=False)
    edges = [edge for edge in network.report if edge.consumer.endswith("sn")]
    assert len(edges) == 3 and all("scale and shift per step" in edge.how for edge in edges)
    affine = [network.operations.get_submodule(s.name) for s in network.steps if s.kind == "affine"]
    assert [a.scale.shape for a in affine] == [(4, 4)] * 3
    with pytest.raises(ConfigError, match="4 steps only"):
        network(images(4, 3, 8, 8), 5)


def test_norm_per_step_at_one_step_only_is_in_the_weight(generic):
    model = generic(Chain(nn.AvgPool2d(2), make_norm=lambda channels: StepNorm(channels, steps=1)))
    network = absorb(model)
    assert_same_spikes(model, network, images(4, 3, 8, 8), 1, alive=False)
    assert not [step for step in network.steps if step.kind == "affine"]
