"""The 7-layer CNN: size, structure, and the forward against an independent restatement."""

from functools import partial

import pytest
import torch
from models import restatement

from snnrepro.layers import SequenceDropout
from snnrepro.neurons import spiking_layers

SMALL = {"widths": (4, 6, 8), "hidden": 7}
NEURONS = ["sn1", "conv2.sn", "conv3.sn", "conv4.sn", "conv5.sn"]


@pytest.mark.parametrize(("fc_spike", "names"), [(False, NEURONS), (True, [*NEURONS, "sn6"])])
def test_parameter_count_and_spiking_layers(make_cnn7, fc_spike, names):
    with torch.device("meta"):
        model = make_cnn7((2, 48, 48), 10, fc_spike=fc_spike)
    assert sum(parameter.numel() for parameter in model.parameters()) == 10_557_194 + 2 * len(names)
    assert [name for name, _ in spiking_layers(model)] == names


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fc_spike", [True, False])
def test_forward_equals_the_restatement(make_cnn7, generic, fc_spike, training):
    torch.manual_seed(0)
    model = generic(make_cnn7((2, 17, 9), 5, fc_spike=fc_spike, **SMALL)).train(training)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    frames = torch.randn(4, 5, 2, 17, 9, dtype=torch.float64)
    rates = {}
    for name, layer in spiking_layers(model):
        layer.register_forward_hook(lambda _, __, o, name=name: rates.update({name: (o > 0).double().mean().item()}))
    logits = model(frames)
    assert all(0.02 < rate < 0.98 for rate in rates.values()), rates
    expected = restatement.cnn7(weights, list(frames), fc_spike, training)
    torch.testing.assert_close(logits, torch.stack(expected), rtol=1e-10, atol=1e-11)
    wrong = restatement.cnn7(weights, list(frames.flip(0)), fc_spike, training)
    assert not torch.allclose(logits, torch.stack(wrong))


def test_frames_pass_the_stem_at_every_step_and_a_static_image_once(make_cnn7, generic):
    model = generic(make_cnn7((2, 8, 8), 5, **SMALL)).eval()
    seen = []
    model.stem.conv.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    image = torch.randn(6, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    once, repeated = model(image, 4), model(image.expand(4, 6, 2, 8, 8))
    assert seen == [6, 24]
    torch.testing.assert_close(once, repeated, rtol=1e-12, atol=1e-12)


def test_the_window_of_frames_sets_the_timesteps(make_cnn7, generic):
    model = generic(make_cnn7((2, 8, 8), 5, **SMALL)).eval()
    frames = torch.randn(6, 3, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    longest = model(frames)
    assert longest.shape == (6, 3, 5)
    for timesteps in (1, 2, 5):
        torch.testing.assert_close(model(frames[:timesteps]), longest[:timesteps], rtol=1e-12, atol=1e-12)


def test_state_dict_round_trip(make_cnn7, generic):
    torch.manual_seed(0)
    trained, fresh = (make_cnn7((2, 8, 8), 5, **SMALL) for _ in range(2))
    generic(trained)
    frames = torch.randn(4, 3, 2, 8, 8, dtype=torch.float64)
    trained(frames).sum().backward()
    fresh.double().load_state_dict(trained.state_dict())
    assert torch.equal(fresh.eval()(frames), trained.eval()(frames))


def test_dropout_is_before_both_linear_layers(make_cnn7):
    model = make_cnn7((2, 8, 8), 5, make_dropout=partial(SequenceDropout, 0.25), **SMALL)
    assert [module.p for module in model.modules() if hasattr(module, "p")] == [0.25, 0.25]


def test_convolutions_start_from_kaiming_fan_out(make_cnn7):
    torch.manual_seed(0)
    model = make_cnn7((2, 8, 8), 5)
    for conv, fan_out in ((model.conv2.conv, 9 * 128), (model.conv5.conv, 9 * 256)):
        assert conv.bias is None
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)


def test_frames_too_small_for_three_pools_are_refused(make_cnn7):
    assert make_cnn7((2, 8, 8), 5, **SMALL).fc1.in_features == 8
    with pytest.raises(ValueError, match="at least 8 x 8"):
        make_cnn7((2, 8, 7), 5, **SMALL)
