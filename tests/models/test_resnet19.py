"""ResNet-19: size, structure, and the forward against an independent restatement."""

from functools import partial

import pytest
import torch
from models import restatement
from torch import nn

from snnrepro.layers import SequenceDropout
from snnrepro.models.blocks import conv
from snnrepro.neurons import LIF, spiking_layers
from snnrepro.options import HEADS

SMALL = {"stem_width": 4, "widths": (6, 8, 10), "blocks": (2, 2, 2), "hidden": 7}
NEURONS = ["sn1"] + [
    f"layer{stage}.{block}.sn{sn}" for stage, b in ((1, 3), (2, 3), (3, 2)) for block in range(b) for sn in (1, 2)
]


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("in_shape", "classes", "head", "scalars", "expected"),
    [
        ((3, 32, 32), 10, "official", 34, 12_502_090),
        ((3, 32, 32), 100, "official", 34, 12_548_260),
        ((2, 48, 48), 10, "official", 34, 12_501_514),
        ((3, 32, 32), 10, "tet", 36, 12_630_858),
    ],
)
def test_parameter_count(make_resnet19, in_shape, classes, head, scalars, expected):
    with torch.device("meta"):
        assert parameters(make_resnet19(in_shape, classes, head=head)) == expected + scalars


def test_spiking_layers_carry_the_released_names(make_resnet19):
    with torch.device("meta"):
        model = make_resnet19((3, 32, 32), 10)
        tet = make_resnet19((3, 32, 32), 10, head="tet")
    assert [name for name, _ in spiking_layers(model)] == NEURONS
    assert len(NEURONS) == 17
    assert [name for name, _ in spiking_layers(tet)] == [*NEURONS, "head.sn"]


def test_frozen_scalars_are_buffers(make_resnet19, make_neuron):
    def frozen():
        return make_neuron(learn_threshold=False, learn_tau=False)

    with torch.device("meta"):
        model = make_resnet19((3, 32, 32), 10, make_neuron=frozen)
    assert parameters(model) == 12_502_090
    assert "layer3.1.sn2.v_threshold_raw" in model.state_dict()


def test_every_position_has_a_neuron_of_its_own(make_resnet19, make_neuron):
    made, calls = [], {}

    def recorded():
        made.append(make_neuron())
        return made[-1]

    model = make_resnet19((3, 8, 8), 5, make_neuron=recorded, **SMALL)
    found = dict(spiking_layers(model))
    assert list(found.values()) == made
    assert len({id(layer.v_threshold_raw) for layer in made}) == len(made) == 13
    for name, layer in found.items():
        layer.register_forward_hook(lambda *_, name=name: calls.update({name: calls.get(name, 0) + 1}))
    model(torch.randn(2, 3, 8, 8))
    assert calls == dict.fromkeys(found, 1)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("head", HEADS)
def test_forward_equals_the_restatement(make_resnet19, generic, head, training):
    torch.manual_seed(0)
    model = generic(make_resnet19((3, 12, 12), 5, head=head, **SMALL)).train(training)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    frames = torch.randn(4, 5, 3, 12, 12, dtype=torch.float64)
    expected = restatement.resnet19(weights, list(frames), SMALL["blocks"], head, training)
    rates = {}
    for name, layer in spiking_layers(model):
        layer.register_forward_hook(lambda _, __, o, name=name: rates.update({name: (o > 0).double().mean().item()}))
    logits = model(frames)
    assert all(0.02 < rate < 0.98 for rate in rates.values()), rates
    torch.testing.assert_close(logits, torch.stack(expected), rtol=1e-10, atol=1e-11)
    assert logits.std() > 1e-3
    # a static image is the same frame at every step
    expected = restatement.resnet19(model.state_dict(), [frames[0]] * 3, SMALL["blocks"], head, training)
    torch.testing.assert_close(model(frames[0], 3), torch.stack(expected), rtol=1e-10, atol=1e-11)


def test_restatement_notices_a_missing_shortcut(make_resnet19, generic):
    model = generic(make_resnet19((3, 12, 12), 5, **SMALL)).eval()
    frames = torch.randn(2, 5, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = dict(model.state_dict())
    weights["layer2.0.shortcut_conv.weight"] = torch.zeros_like(weights["layer2.0.shortcut_conv.weight"])
    expected = restatement.resnet19(weights, list(frames), SMALL["blocks"], "official", False)
    assert not torch.allclose(model(frames), torch.stack(expected))


def test_static_image_passes_the_stem_once(make_resnet19, generic):
    model = generic(make_resnet19((3, 8, 8), 5, **SMALL)).eval()
    seen = []
    for module in (model.stem.conv, model.stem.norm):
        module.register_forward_hook(lambda module, inputs, _: seen.append((type(module), inputs[0].shape)))
    image = torch.randn(6, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    once = model(image, 4)
    assert [shape for kind, shape in seen if kind is nn.Conv2d] == [(6, 3, 8, 8)]
    assert [shape for kind, shape in seen if kind is not nn.Conv2d] == [(1, 6, 4, 8, 8)]
    seen.clear()
    repeated = model(image.expand(4, 6, 3, 8, 8))
    assert [shape for kind, shape in seen if kind is nn.Conv2d] == [(24, 3, 8, 8)]
    torch.testing.assert_close(once, repeated, rtol=1e-12, atol=1e-12)


def test_a_norm_per_step_sees_the_repeated_image(make_resnet19):
    model = make_resnet19((3, 8, 8), 5, **SMALL)
    model.stem.norm.time_shared = False
    seen = []
    model.stem.norm.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    model.stem.conv.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    assert model(torch.randn(2, 3, 8, 8), 4).shape == (4, 2, 5)
    assert seen == [(2, 3, 8, 8), (4, 2, 4, 8, 8)]


def test_other_timesteps_at_inference(make_resnet19, generic):
    model = generic(make_resnet19((3, 8, 8), 5, **SMALL)).eval()
    image = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    longest = model(image, 6)
    assert model(image).shape == (3, 2, 5)
    for timesteps in (1, 2, 3, 6):
        # the past does not know how long the window will be
        torch.testing.assert_close(model(image, timesteps), longest[:timesteps], rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="timesteps=0"):
        model(image, 0)


def test_mean_over_time(make_resnet19, generic):
    model = generic(make_resnet19((3, 8, 8), 5, **SMALL)).eval()
    image = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sequence = model(image)
    model.mean_over_time = True
    torch.testing.assert_close(model(image), sequence.mean(0))


def test_state_dict_round_trip(make_resnet19, generic):
    torch.manual_seed(0)
    trained, fresh = (make_resnet19((3, 8, 8), 5, head="tet", **SMALL) for _ in range(2))
    generic(trained)
    image = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    trained(image).sum().backward()
    fresh.double().load_state_dict(trained.state_dict())
    assert torch.equal(fresh.eval()(image), trained.eval()(image))
    for (name, layer), (_, other) in zip(spiking_layers(fresh), spiking_layers(trained), strict=True):
        assert torch.equal(layer.u_init, other.u_init), name
    assert any(layer.u_init != 0 for _, layer in spiking_layers(fresh))


def test_dropout_is_before_every_linear_layer(make_resnet19, generic):
    torch.manual_seed(0)
    for head, layers in (("official", 1), ("tet", 2), ("tebn", 2)):
        model = generic(make_resnet19((3, 8, 8), 5, head=head, make_dropout=partial(SequenceDropout, 0.5), **SMALL))
        dropouts = [module for module in model.modules() if hasattr(module, "p")]
        assert [module.p for module in dropouts] == [0.5] * layers
        image = torch.randn(4, 3, 8, 8, dtype=torch.float64)
        assert not torch.equal(model(image), model(image))
        assert torch.equal(model.eval()(image), model(image))


def test_unknown_head_is_refused(make_resnet19):
    with pytest.raises(ValueError, match="head='linear' is not one of official, tet, tebn"):
        make_resnet19((3, 8, 8), 5, head="linear")


def test_gradients_reach_every_parameter(make_resnet19, generic):
    torch.manual_seed(0)
    model = generic(make_resnet19((3, 8, 8), 5, head="tet", **SMALL))
    model(torch.randn(16, 3, 8, 8, dtype=torch.float64)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    assert all(isinstance(layer, LIF) for _, layer in spiking_layers(model))


def test_norms_before_a_residual_sum_are_told_so(make_resnet19):
    asked = []

    def make_norm(channels, residual):
        asked.append((channels, residual))
        return nn.Identity()

    make_resnet19((3, 8, 8), 5, make_norm=make_norm, **(SMALL | {"blocks": (2, 1, 1)}))
    # stem; then per block the first norm, the second, and the projection's where there is one
    assert asked == [
        (4, False),
        *[(6, False), (6, True), (6, True)],
        *[(6, False), (6, True)],
        *[(8, False), (8, True), (8, True)],
        *[(10, False), (10, True), (10, True)],
    ]


@pytest.mark.parametrize("channels", [4, 24])
def test_a_strided_projection_is_the_convolution_it_stands_for(channels):
    """On CPUs the gradient of few channels takes a way of its own, around memory that oneDNN would overwrite."""
    made = conv(channels, 4, 1, 2).to(memory_format=torch.channels_last)
    plain = nn.Conv2d(channels, 4, 1, 2, bias=False).double()
    plain.load_state_dict(made.state_dict())
    x = torch.randn(64, channels, 9, 8, generator=torch.Generator().manual_seed(0))
    found = made(x.contiguous(memory_format=torch.channels_last))
    expected = plain(x.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    found.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(made.weight.grad.double(), plain.weight.grad, rtol=1e-4, atol=1e-4)
