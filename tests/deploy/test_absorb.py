"""Absorbed networks fire the same spikes at every layer; wrong absorptions do not."""

from functools import partial

import pytest
import torch
from deploy.spikes import assert_same_spikes, spikes_of, weights_that_read
from lif_options import NEURON

from snnrepro.deploy import absorb
from snnrepro.deploy.report import table
from snnrepro.layers import SequenceDropout
from snnrepro.neurons import LIF, spiking_layers
from snnrepro.norms import make_tdbn
from snnrepro.options import FAMILIES, HEADS, RESETS

SMALL = {"stem_width": 4, "widths": (6, 8, 10), "blocks": (2, 2, 2), "hidden": 7}
SMALL_34 = {"widths": (6, 8, 12, 16), "blocks": (2, 2, 1, 1)}
SMALL_CNN = {"widths": (4, 5, 6), "hidden": 7}


def images(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def resnet(make_resnet19, generic):
    return generic(make_resnet19((3, 12, 12), 5, **SMALL))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("family", FAMILIES)
def test_resnet19_fires_the_same_spikes(make_resnet19, generic, family, reset, head):
    make_neuron = partial(LIF, **(NEURON | {"family": family, "reset": reset}))
    model = generic(make_resnet19((3, 12, 12), 5, head=head, make_neuron=make_neuron, **SMALL))
    assert_same_spikes(model, absorb(model), images(4, 3, 12, 12), 3)


@pytest.mark.parametrize("timesteps", [1, 2, 4, 6])
def test_any_window_static_or_frames(resnet, timesteps):
    network = absorb(resnet)
    assert_same_spikes(resnet, network, images(4, 3, 12, 12), timesteps, alive=timesteps > 1)
    assert_same_spikes(resnet, network, images(timesteps, 4, 3, 12, 12), None, alive=timesteps > 1)


@pytest.mark.parametrize("fc_spike", [False, True])
@pytest.mark.parametrize("family", ["rs_sg", "trsg"])
def test_cnn7_fires_the_same_spikes(make_cnn7, generic, family, fc_spike):
    make_neuron = partial(LIF, **(NEURON | {"family": family}))
    model = generic(make_cnn7((2, 16, 16), 5, fc_spike=fc_spike, make_neuron=make_neuron, **SMALL_CNN))
    network = absorb(model)
    assert_same_spikes(model, network, images(3, 4, 2, 16, 16), None)
    assert_same_spikes(model, network, images(4, 2, 16, 16), 5)


@pytest.mark.parametrize("stem", ["imagenet", "small"])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("connect", [None, "add"])
def test_resnet34_fires_the_same_spikes(make_resnet34, generic, connect, reset, stem):
    make_neuron = partial(LIF, **(NEURON | {"reset": reset}))
    options = {"connect": connect, "stem": stem, "make_neuron": make_neuron} | SMALL_34
    model = generic(make_resnet34((3, 32, 32), 5, **options))
    network, x = absorb(model), images(8, 3, 64, 64)
    assert_same_spikes(model, network, x, 3)
    # Control: one weight that keeps the threshold of another source.
    reader = "layer1.1.sn2" if connect is None else "layer2.1.conv1"
    tensors = {n: t for n, t in network.operations.named_buffers() if n.startswith(reader) and t.numel()}
    next(iter(tensors.values())).mul_(1.7)
    with pytest.raises(AssertionError):
        assert_same_spikes(model, network, x, 3)


def test_edges_of_sew_resnet34_with_own_and_tied_thresholds(make_resnet34, generic):
    own = absorb(generic(make_resnet34((3, 32, 32), 5, connect="add", **SMALL_34)))
    model = generic(make_resnet34((3, 32, 32), 5, connect="add", tie_thresholds=True, **SMALL_34))
    tied = absorb(model)
    assert_same_spikes(model, tied, images(8, 3, 64, 64), 3)

    def sources(network):
        edges = [edge for edge in network.report if "R6" in edge.rules]
        return sum(len(edge.sources) == 1 for edge in edges), sum(len(edge.sources) > 1 for edge in edges)

    # A copy of the weight for every source, or one weight over their sum.
    assert sources(own)[0] > 0 == sources(own)[1]
    assert sources(tied)[0] == 0 < sources(tied)[1]


def test_options_of_norm_head_and_mean(make_resnet19, make_cnn7, generic):
    genuine = partial(make_tdbn, eps=1e-5, momentum=0.1, v_threshold=0.7, fused=True)
    model = generic(
        make_resnet19(
            (3, 12, 12), 5, make_norm=genuine, mean_over_time=True, make_dropout=partial(SequenceDropout, 0.3), **SMALL
        )
    )
    network = absorb(model.train())
    assert model.training and network(images(4, 3, 12, 12)).shape == (4, 5)
    assert_same_spikes(model, network, images(4, 3, 12, 12), 3)
    headless = generic(make_cnn7((2, 16, 16), 0, **SMALL_CNN))
    assert_same_spikes(headless, absorb(headless), images(3, 4, 2, 16, 16), None)


def test_the_default_number_of_steps_is_the_models(resnet):
    x = images(2, 3, 12, 12)
    assert torch.equal(absorb(resnet)(x), absorb(resnet)(x, 3))


def test_the_model_stays_as_it_is_and_shares_nothing(resnet):
    before = {name: tensor.clone() for name, tensor in resnet.state_dict().items()}
    network = absorb(resnet.train())
    with torch.no_grad():
        for tensor in network.buffers():
            tensor.zero_()
    assert resnet.training and all(torch.equal(before[name], t) for name, t in resnet.state_dict().items())
    assert all("forward" not in module.__dict__ for module in resnet.modules())


def test_weights_read_zeros_and_ones(resnet):
    network = absorb(resnet)
    seen = []
    layers = {name for name, _ in spiking_layers(resnet)}
    for operation in weights_that_read(network, layers):
        operation.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0].unique().tolist()))
    network(images(4, 3, 12, 12))
    # Two convolutions in each of 6 blocks, and 3 projections; the head reads an average.
    assert seen == [[0.0, 1.0]] * 15


def test_r3_neurons_hold_decay_and_start_only(resnet):
    network = absorb(resnet)
    for name, layer in spiking_layers(resnet):
        absorbed = network.operations.get_submodule(name)
        assert set(absorbed.state_dict()) == {"decay", "u_init"}
        assert absorbed.decay.item() == pytest.approx(1 - 1 / layer.tau.item(), rel=1e-14)
        assert absorbed.u_init.item() == pytest.approx(layer.u_init.item() / layer.v_threshold.item(), rel=1e-14)


def test_folded_numbers_by_hand(resnet):
    network = absorb(resnet)
    block, before = resnet.layer1[1], resnet.layer1[0].sn2
    unit = 1 / (block.sn2.tau * block.sn2.v_threshold)
    norm = block.norm2
    sigma = (norm.running_var + norm.eps).sqrt()
    got = network.operations.get_submodule("layer1.1.conv2")
    expected = block.conv2.weight * (norm.weight / sigma)[:, None, None, None] * block.sn1.v_threshold * unit
    torch.testing.assert_close(got.weight, expected.detach(), rtol=1e-12, atol=0)
    bias = (norm.bias - norm.running_mean * norm.weight / sigma) * unit
    torch.testing.assert_close(got.bias, bias.detach(), rtol=1e-12, atol=1e-15)
    edge = network.operations.get_submodule("layer1.1.sn2_from_layer1_0_sn2")
    assert edge.scale.item() == pytest.approx((before.v_threshold * unit).item(), rel=1e-12)
    fc, absorbed = resnet.head.fc, network.operations.get_submodule("head.fc")
    torch.testing.assert_close(absorbed.weight, (fc.weight * resnet.layer3[1].sn2.v_threshold).detach())
    assert torch.equal(absorbed.bias, fc.bias)


def forget(tensor, factor):
    """Returns a fault: one tensor of the absorbed network without the factor, or with one too many."""

    def apply(model, network):
        operation, _, name = tensor.rpartition(".")
        network.operations.get_submodule(operation).get_buffer(name).mul_(factor(model).item())

    return apply


FAULTS = {
    "bias scaled too": forget("head.fc1.bias", lambda m: m.layer3[1].sn2.v_threshold),
    "norm shift scaled too": forget("layer2.0.conv1.bias", lambda m: m.layer1[1].sn2.v_threshold),
    "identity unscaled": forget("layer1.1.sn2_from_layer1_0_sn2.scale", lambda m: 1 / m.layer1[0].sn2.v_threshold),
    "downsample forgotten": forget("layer2.0.shortcut_conv.weight", lambda m: 1 / m.layer1[1].sn2.v_threshold),
    "start in the old unit": forget("layer1.0.sn1.u_init", lambda m: m.layer1[0].sn1.v_threshold),
    "head forgotten": forget("head.fc1.weight", lambda m: 1 / m.layer3[1].sn2.v_threshold),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_control_a_wrong_absorption_is_found(make_resnet19, generic, fault):
    model = generic(make_resnet19((3, 12, 12), 5, head="tet", **SMALL))
    network, x = absorb(model), images(8, 3, 12, 12)
    assert_same_spikes(model, network, x, 4)
    FAULTS[fault](model, network)
    with pytest.raises(AssertionError):
        assert_same_spikes(model, network, x, 4)


def test_report_names_every_edge_with_its_rules(make_resnet19):
    model = make_resnet19((3, 12, 12), 5, **SMALL)
    edges = absorb(model).report
    found = {(edge.sources, edge.consumer, edge.via[:1]): edge.rules for edge in edges}
    assert found[("input",), "sn1", ("stem.conv",)] == ("R2", "R3")
    assert found[("sn1",), "layer1.0.sn1", ("layer1.0.conv1",)] == ("R1", "R2", "R3", "R5")
    assert found[("layer1.0.sn2",), "layer1.1.sn2", ()] == ("R3", "R5", "R7")
    assert found[("layer2.0.sn1",), "layer2.0.sn2", ("layer2.0.conv2",)] == ("R1", "R2", "R3")
    assert found[("layer3.1.sn2",), "output", ("head.mean",)] == ("R1", "R4")
    # Per block conv1, conv2 and a shortcut; stem and head.
    assert len(edges) == 3 * 6 + 2
    text = table(edges)
    assert "20 edges, all exact" in text and "R7 3" in text and "factor on the edge" in text
    assert len({line.index("R") for line in text.splitlines()[2:-1]}) == 1, "columns are aligned"


def test_float32_agrees_within_rounding(make_resnet19, generic):
    model = generic(make_resnet19((3, 12, 12), 5, **SMALL)).float().eval()
    x = images(16, 3, 12, 12).float()
    network = absorb(model)
    assert {tensor.dtype for tensor in network.buffers()} == {torch.float32}
    with torch.no_grad():
        assert torch.equal(network(x).mean(0).argmax(-1), model(x).mean(0).argmax(-1))


@pytest.mark.slow
def test_the_published_resnet19(make_resnet19, generic):
    model = generic(make_resnet19((3, 32, 32), 10))
    network = absorb(model)
    assert_same_spikes(model, network, images(2, 3, 32, 32), 2, alive=False)
    _, spikes = spikes_of(network, images(2, 3, 32, 32), 2)
    assert len(spikes) == 17 and all(s.any() for s in spikes.values())
    identities = [edge for edge in network.report if "R7" in edge.rules]
    assert len(identities) == 5
