"""Weights of torchvision's ResNet-34: same numbers in the same places; what does not fit is named."""

import pytest
import torch
from torchvision.models import resnet34

from snnrepro.build import build_model
from snnrepro.cli import main
from snnrepro.compose import compose_run
from snnrepro.errors import StorageError
from snnrepro.importers import load_torchvision


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return resnet34(num_classes=7).state_dict()


def make(name, *words):
    return build_model(compose_run([f"model={name}", *words]), in_shape=(3, 64, 64), num_classes=7)


class Plain(torch.nn.Module):
    """Stands where a spiking layer was, and rectifies."""

    def forward(self, x, timesteps=None):
        return torch.relu(torch.as_tensor(x) if isinstance(x, torch.Tensor) else x.tensor())


def test_with_relu_in_place_of_the_neurons_it_is_torchvisions_network(state):
    """Convolutions, strides, norms, shortcuts, pool and classifier in the same places with the same numbers."""
    model = make("resnet34", "runtime.backend=reference")
    load_torchvision(model, state)
    for name, module in list(model.named_modules()):
        if hasattr(module, "u_init"):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, Plain())
    original = resnet34(num_classes=7).eval()
    original.load_state_dict(state)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x[None])[0], original(x), rtol=1e-4, atol=1e-5)
        # Control: one convolution of another network shows.
        model.layer3[2].conv1.weight.mul_(1.5)
        assert not torch.allclose(model(x[None])[0], original(x), rtol=1e-4, atol=1e-5)


def test_sew_takes_them_too_and_neurons_stay(state):
    model = make("sew_resnet34", "neuron.v_threshold=0.7")
    load_torchvision(model, state)
    assert torch.equal(model.layer2[0].shortcut_conv.weight, state["layer2.0.downsample.0.weight"])
    assert model.layer2[0].shortcut_sn.v_threshold.item() == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("layer4.2.bn2.bias"), "layer4.2.norm2.bias: missing"),
        (
            lambda s: s.update({"fc.weight": torch.zeros(3, 512)}),
            r"head.fc.weight: \(3, 512\) in the checkpoint, \(7, 512",
        ),
        (lambda s: s.update({"layer1.0.conv3.weight2": torch.zeros(1)}), "layer1.0.conv3.weight2: not a parameter"),
    ],
)
def test_what_does_not_fit_is_named(state, change, says):
    changed = dict(state)
    change(changed)
    with pytest.raises(StorageError, match=says):
        load_torchvision(make("resnet34"), changed)


def test_from_the_command_line(state, tmp_path, capsys):
    torch.save(state, tmp_path / "resnet34.pth")
    words = [f"runtime.output_dir={tmp_path}", "model=resnet34", "model.widths=[64,128,256,512]"]
    assert main(["import-checkpoint", str(tmp_path / "resnet34.pth"), *words]) == 0
    assert "imported from" in capsys.readouterr().out
    assert main(["import-checkpoint", str(tmp_path / "resnet34.pth"), *words, "model.stem=small"]) == 5
    assert "stem.conv.weight: (64, 3, 7, 7) in the checkpoint, (64, 3, 3, 3) in the network" in capsys.readouterr().err
