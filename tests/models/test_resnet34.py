"""Spiking ResNet-34 and SEW-ResNet-34: published counts, a plain restatement, joins, tied thresholds, a real step."""

from functools import partial

import pytest
import torch
from lif_options import NEURON
from models.restatement import resnet34 as restated
from torch.utils.flop_counter import FlopCounterMode

from snnrepro.build import build_model
from snnrepro.compose import compose_run
from snnrepro.errors import ConfigError
from snnrepro.models.blocks import SEWBlock
from snnrepro.neurons import LIF, spiking_layers

SMALL = {"widths": (4, 6, 8, 8), "blocks": (2, 2, 1, 1)}
KINDS = {"resnet34": None, "sew_resnet34": "add"}


def images(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(("connect", "neurons"), [(None, 33), ("add", 36)])
def test_parameters_and_operations_are_the_published_ones(make_resnet34, connect, neurons):
    model = make_resnet34((3, 224, 224), 1000, connect=connect).eval()
    layers = dict(spiking_layers(model))
    assert len(layers) == neurons
    of_neurons = 2 * neurons
    assert sum(p.numel() for p in model.parameters()) == 21_797_672 + of_neurons
    counts = {}
    for steps in (1, 4):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.randn(1, 3, 224, 224), steps)
        counts[steps] = counter.get_total_flops() / 2e9
    # The first convolution runs once, everything else at every step; 4 steps: 14.30 G.
    per_step = (counts[4] - counts[1]) / 3
    assert per_step == pytest.approx(3.546, abs=5e-4)
    assert counts[1] - per_step == pytest.approx(0.118, abs=5e-4)
    assert counts[4] == pytest.approx(14.30, abs=5e-3)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("stem", ["imagenet", "small"])
@pytest.mark.parametrize("connect", [None, "add"])
def test_forward_equals_the_restatement(make_resnet34, generic, connect, stem, training):
    model = generic(make_resnet34((3, 32, 32), 5, connect=connect, stem=stem, **SMALL)).train(training)
    x = images(3, 2, 3, 32, 32)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    logits = model(x)
    expected = torch.stack(restated(weights, list(x), SMALL["blocks"], stem == "imagenet", connect, training))
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)
    # Control: the other kind of shortcut is another network.
    other = "add" if connect is None else None
    if connect is not None:
        wrong = torch.stack(restated(weights, list(x), SMALL["blocks"], stem == "imagenet", other, training))
        assert (wrong - logits).abs().max() > 1e-3


@pytest.mark.parametrize(("connect", "table"), [("add", [0, 1, 1, 2]), ("and", [0, 0, 0, 1]), ("iand", [0, 1, 0, 0])])
def test_truth_table_of_a_join(connect, table):
    """Columns: (block, shortcut) = (0, 0), (0, 1), (1, 0), (1, 1)."""
    block = SEWBlock(1, 1, 1, partial(LIF, **(NEURON | {"family": "rs_sg"})), lambda *_, **__: torch.nn.Identity(),
                     connect=connect)  # fmt: skip
    spikes = torch.tensor([0.0, 0.0, 1.0, 1.0]).view(1, 4, 1, 1, 1)
    block.sn2.register_forward_hook(lambda *_: spikes)
    x = torch.tensor([0.0, 1.0, 0.0, 1.0]).view(1, 4, 1, 1, 1)
    assert block(x).flatten().tolist() == table


@pytest.mark.parametrize("connect", ["and", "iand"])
def test_other_joins_equal_the_restatement(make_resnet34, generic, connect):
    neuron = partial(LIF, **(NEURON | {"family": "rs_sg"}))
    model = generic(make_resnet34((3, 16, 16), 5, connect=connect, stem="small", make_neuron=neuron, **SMALL)).eval()
    for _, layer in spiking_layers(model):
        layer.v_threshold_raw.data.fill_(0.5413248546129181)  # V = 1, where V*S is S
    x = images(3, 2, 3, 16, 16)
    expected = torch.stack(restated(model.state_dict(), list(x), SMALL["blocks"], False, connect, False))
    torch.testing.assert_close(model(x), expected, rtol=1e-10, atol=1e-10)


def test_tied_thresholds_are_one_parameter_per_stream(make_resnet34):
    model = make_resnet34((3, 32, 32), 5, connect="add", tie_thresholds=True, **SMALL)
    assert len({id(layer.v_threshold_raw) for _, layer in spiking_layers(model)}) == 6 + 4
    assert model.sn1.v_threshold_raw is model.layer1[1].sn2.v_threshold_raw
    assert model.layer2[0].shortcut_sn.v_threshold_raw is model.layer2[1].sn2.v_threshold_raw
    assert model.layer1[0].sn1.v_threshold_raw is not model.sn1.v_threshold_raw
    free = make_resnet34((3, 32, 32), 5, connect="add", **SMALL)
    assert len({id(layer.v_threshold_raw) for _, layer in spiking_layers(free)}) == len(list(spiking_layers(free)))


@pytest.mark.parametrize("name", ["resnet34_mini", "sew_resnet34_mini"])
def test_fused_kernels_compute_the_reference(name):
    torch.manual_seed(0)
    reference = build_model(
        compose_run([f"model={name}", "runtime.backend=reference"]), in_shape=(1, 8, 8), num_classes=10
    )
    fused = build_model(compose_run([f"model={name}", "runtime.backend=compiled"]), in_shape=(1, 8, 8), num_classes=10)
    fused.load_state_dict(reference.state_dict())
    x = torch.randn(8, 1, 8, 8)
    logits = [model(x, 4) for model in (reference, fused)]
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)
    for value in logits:
        value.square().sum().backward()
    pairs = zip(reference.named_parameters(), fused.parameters(), strict=True)
    assert all(torch.allclose(a.grad, b.grad, rtol=1e-2, atol=1e-4 * a.grad.abs().max().item()) for (_, a), b in pairs)


def test_every_parameter_gets_a_gradient(make_resnet34, generic):
    for connect in (None, "add"):
        model = generic(make_resnet34((3, 32, 32), 5, connect=connect, **SMALL))
        model(images(2, 3, 32, 32)).square().sum().backward()
        assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.slow
@pytest.mark.parametrize("connect", [None, "add"])
def test_a_training_step_at_224_pixels(make_resnet34, connect):
    model = make_resnet34((3, 224, 224), 1000, connect=connect)
    before = model.stem.conv.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loss = torch.nn.functional.cross_entropy(model(torch.randn(2, 3, 224, 224), 4).mean(0), torch.tensor([3, 7]))
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss) and not torch.equal(before, model.stem.conv.weight)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert model.sn1.u_init != 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["model=sew_resnet34_mini", "model.connect=and"], "model.connect=and: needs spikes of 0 and 1"),
        (["model=resnet34_mini", "model.connect=add"], "model.connect=add: model.arch=resnet34 does not use it"),
        (["model=resnet34_mini", "model.stem=large"], "model.stem=large: must be one of imagenet, small"),
        (["model=resnet34_mini", "model.widths=[4,4,4]"], "needs 4 widths"),
        (["model=sew_resnet34_mini", "model.tie_thresholds=null"], "model.tie_thresholds"),
        (["model=resnet19_mini", "model.stem=small"], "model.stem=small: model.arch=resnet19 does not use it"),
    ],
)
def test_impossible_networks_are_refused(words, says):
    with pytest.raises(ConfigError, match=says.replace("[", r"\[").replace(".", r"\.")):
        compose_run(words)


def test_the_classifier_starts_as_its_authors_start_it(make_resnet34):
    torch.manual_seed(0)
    small = {"widths": (8, 8, 8, 64), "blocks": (1, 1, 1, 1)}
    bound = 64**-0.5
    released, sew = (make_resnet34((3, 16, 16), 500, connect=c, **small).head.fc for c in (None, "add"))
    assert released.weight.std().item() == pytest.approx(0.01, rel=0.05) and not released.bias.any()
    # torch's own: uniform up to 1 / sqrt(features), biases too.
    assert sew.weight.abs().max().item() == pytest.approx(bound, rel=0.01) and sew.bias.abs().max() > 0.9 * bound
