"""The networks as timm models."""

import subprocess
import sys

import pytest
import timm
import torch

import snnrepro.timm_models
from snnrepro.build import build_model
from snnrepro.compose import compose_run
from snnrepro.errors import ConfigError, UserError
from snnrepro.neurons import spiking_layers

IN_SHAPE = {
    "snn_cnn7": (2, 48, 48),
    "snn_cnn7_mini": (2, 8, 8),
    "snn_resnet19": (3, 32, 32),
    "snn_resnet19_mini": (1, 8, 8),
    "snn_resnet34": (3, 224, 224),
    "snn_resnet34_mini": (1, 8, 8),
    "snn_sew_resnet34": (3, 224, 224),
    "snn_sew_resnet34_mini": (1, 8, 8),
}
NAMES = sorted(IN_SHAPE)
SMALL = {"stem_width": 4, "widths": [4, 6, 8], "blocks": [1, 1, 1]}


def narrow(**options):
    return timm.create_model("snn_resnet19", **(SMALL | options))


def test_importing_the_module_registers_the_models():
    assert timm.list_models("snn_*") == NAMES
    assert all(callable(getattr(snnrepro.timm_models, name)) for name in NAMES)
    code = "import sys, snnrepro; assert 'timm' not in sys.modules and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("_mini")])
def test_default_shapes_and_the_mean_over_time(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=7).eval()
    image = torch.randn(3, *IN_SHAPE[name])
    logits = model(image)
    assert logits.shape == (3, 7)
    assert model(torch.randn(5, 3, *IN_SHAPE[name])).shape == (3, 7)
    model.mean_over_time = False
    torch.testing.assert_close(model(image).mean(0), logits)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_those_of_the_same_command_line(name):
    with torch.device("meta"):
        model = timm.create_model(name)
        run = compose_run([f"model={name.removeprefix('snn_')}"])
        expected = build_model(run, in_shape=IN_SHAPE[name], num_classes=10)
    shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
    assert shapes == {key: tensor.shape for key, tensor in expected.state_dict().items()}
    assert model.timesteps == run.timesteps
    families = {layer.family for _, layer in spiking_layers(model)}
    assert families == {run.neuron.family}
    assert timm.data.resolve_model_data_config(model)["input_size"] == IN_SHAPE[name]


def test_options_reach_the_network():
    model = narrow(
        num_classes=4,
        in_chans=1,
        img_size=(12, 16),
        timesteps=2,
        neuron="as_sg",
        surrogate="arctan",
        norm="tdbn",
        head="tebn",
        hidden=9,
        drop_rate=0.25,
        overrides=["neuron.v_threshold=0.5", "surrogate.gamma=3"],
    )
    layer = model.sn1
    assert (layer.family, layer.surrogate, layer.gamma) == ("as_sg", "arctan", 3)
    assert layer.v_threshold.item() == pytest.approx(0.5)
    assert (model.timesteps, model.head.fc1.in_features, model.head.dropout1.p) == (2, 8 * 1 * 2, 0.25)
    assert model(torch.randn(3, 1, 12, 16)).shape == (3, 4)


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("_mini")])
def test_classifier_methods(name):
    model = timm.create_model(name, num_classes=7)
    image = torch.randn(3, *IN_SHAPE[name])
    features = model.forward_features(image)
    assert features.shape[:3] == (4, 3, model.num_features)
    assert model.get_classifier().out_features == model.num_classes == 7
    model.reset_classifier(5)
    assert model(image).shape == (3, 5)
    assert model.num_classes == 5
    model.reset_classifier(0)
    assert model(image).shape == (3, model.head_hidden_size)
    model.double().reset_classifier(6)
    assert model(image.double()).shape == (3, 6)
    bare = timm.create_model(name, num_classes=0)
    assert bare(image).shape == (3, bare.head_hidden_size)


@pytest.mark.parametrize("head", ["official", "tet", "tebn"])
def test_classifier_of_every_head(head):
    model = narrow(head=head, hidden=9, img_size=8)
    model.reset_classifier(3)
    assert model.get_classifier().in_features == model.head_hidden_size == (8 if head == "official" else 9)
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 3)


@pytest.mark.advice("use pretrained=False or checkpoint_path=FILE")
def test_checkpoint_path_restores_weights_and_u_init(tmp_path):
    torch.manual_seed(0)
    trained = narrow(img_size=8)
    for _, layer in spiking_layers(trained):
        layer.u_init.fill_(0.3)
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    restored = narrow(img_size=8, checkpoint_path=str(tmp_path / "weights.pt"))
    image = torch.randn(2, 3, 8, 8)
    assert torch.equal(restored.eval()(image), trained.eval()(image))
    assert not torch.equal(narrow(img_size=8).eval()(image), trained(image))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pretrained": True}, UserError, "snn_resnet19: no pretrained weights are published"),
        ({"neuron": "lff"}, ConfigError, "neuron=lff: must be one of .*; did you mean 'lif'"),
        ({"width": [4, 4, 4]}, ConfigError, "model.width: no such key; did you mean 'model.widths'"),
        ({"widths": [4, 4]}, ConfigError, "model.widths=.*model.arch=resnet19 needs 3 widths"),
        ({"fc_spike": True}, ConfigError, "model.fc_spike=true: model.arch=resnet19 does not use it"),
        ({"timesteps": 0}, ConfigError, "timesteps=0: must be"),
        ({"overrides": ["neuron.v_threshold=-1"]}, ConfigError, "neuron.v_threshold=-1"),
    ],
)
def test_wrong_options_are_refused_in_one_line(options, error, message):
    with pytest.raises(error, match=message) as caught:
        timm.create_model("snn_resnet19", **options)
    assert "\n" not in str(caught.value)
