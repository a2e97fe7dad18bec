"""Checkpoints of the released ResNet-19: the same logits here as in a restatement of that network."""

from pathlib import Path

import pytest
import torch
from faults.messages import changed, settings_in
from importers.released import NewParts, Parts, Released

from snnrepro.build import build_model
from snnrepro.cli import main
from snnrepro.compose import compose_run
from snnrepro.errors import ConfigError, StorageError
from snnrepro.importers import convert_official, load_official, recalibrate
from snnrepro.importers.command import main as command
from snnrepro.importers.foreign import read_state
from snnrepro.neurons import spiking_layers
from snnrepro.train.checkpoint import load_file

SMALL = ["model=resnet19_mini", "model.stem_width=4", "model.widths=[4,6,8]", "model.blocks=[2,1,1]", "timesteps=3"]
SMALL += ["runtime.backend=reference", "runtime.threads=1"]


def released(classes=5, **options):
    torch.manual_seed(0)
    return Released(4, (4, 6, 8), (2, 1, 1), classes, **options).double().eval()


def ours(*words, classes=5, channels=3):
    model = build_model(compose_run([*SMALL, *words]), in_shape=(channels, 8, 8), num_classes=classes)
    return model.double().eval()


def images(count=6, channels=3):
    return torch.randn(count, channels, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("parts", [Parts, NewParts], ids=["module.0", "0"])
@pytest.mark.parametrize("key, neuron", [("thr", "trsg"), ("z", "rs_sg")])
def test_logits_are_those_of_the_released_network(key, neuron, parts, capsys):
    theirs = released(key=key, parts=parts)
    model = ours(f"neuron={neuron}")
    with torch.no_grad():
        expected = theirs(images(), 3)
        assert not torch.allclose(model(images(), 3), expected), "control: before loading"
        load_official(model, theirs.state_dict())
        torch.testing.assert_close(model(images(), 3), expected, rtol=1e-9, atol=1e-9)
        # Control: the threshold of one layer forgotten.
        model.layer2[0].sn1.v_threshold_raw += 0.5
        assert not torch.allclose(model(images(), 3), expected)
    warning = capsys.readouterr().out
    assert "holds no running means" in warning and warning.count("\n") == 1
    assert all(layer.u_init == 0 for _, layer in spiking_layers(model))


def test_frozen_scalars_and_both_file_formats_are_taken():
    theirs = released().state_dict()
    model = ours("neuron=trsg", "neuron.learn_tau=false", "neuron.learn_threshold=false")
    load_official(model, {"epoch": 3, "state_dict": theirs, "best_acc1": 70.0})
    for layer in ("sn1", "layer1.0.sn2"):
        loaded = model.get_submodule(layer)
        assert loaded.tau.item() == pytest.approx(1 / theirs[f"{layer}.w"].sigmoid().item())
        assert loaded.v_threshold.item() == pytest.approx(torch.nn.functional.softplus(theirs[f"{layer}.thr"]).item())
    # A process group's prefix and scalars of one element change nothing.
    wrapped = {f"module.{name}": t.reshape(1) if name.endswith(".w") else t for name, t in theirs.items()}
    assert all(torch.equal(a, b) for a, b in zip(convert_official(wrapped).values(),
                                                 convert_official(theirs).values(), strict=True))  # fmt: skip


def test_what_does_not_fit_is_refused_by_name():
    state = released().state_dict()
    with pytest.raises(ConfigError, match=r"family=as_sg.*neuron=trsg"):
        load_official(ours("neuron=as_sg"), state)
    with pytest.raises(ConfigError, match=r"neuron.reset=soft"):
        load_official(ours("neuron=trsg", "neuron.reset=hard"), state)
    with pytest.raises(StorageError, match=r"head.fc.weight: \(5, 8\) in the checkpoint, \(7, 8\)"):
        load_official(ours("neuron=trsg", classes=7), state)
    with pytest.raises(StorageError, match=r"layer1.1.conv1.weight: .*, none in the network"):
        load_official(ours("neuron=trsg", "model.blocks=[1,1,1]"), state)
    with pytest.raises(StorageError, match=r"layer1.1.sn2.v_threshold_raw: missing"):
        load_official(ours("neuron=trsg"), {k: v for k, v in state.items() if k != "layer1.1.sn2.thr"})
    with pytest.raises(StorageError, match=r"layer4\.0\.conv3.*: not a parameter"):
        convert_official({"layer4.0.conv3.bias": torch.zeros(1)})


@pytest.mark.advice("the checkpoint's neurons are {}: neuron={}", "neurons reset softly: neuron.reset=soft")
@pytest.mark.parametrize("wrong", ["neuron=as_sg", "neuron=rs_sg", "neuron.reset=hard"])
def test_neurons_that_the_message_names_fit(wrong):
    state = released().state_dict()
    with pytest.raises(ConfigError) as caught:
        load_official(ours(wrong), state)
    load_official(ours(*changed([wrong], *settings_in(str(caught.value)))), state)


def test_recalibration_moves_the_running_means_and_nothing_else():
    model = ours("neuron=trsg", "model.dropout=0.5")
    load_official(model, released().state_dict())
    model.layer1.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    assert recalibrate(model, [images(), images()], 3) == 2
    after = model.state_dict()
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved == {f"{name}.u_init" for name, _ in spiking_layers(model)}
    assert [module.training for module in model.modules()] == modes
    # The first layer by hand: its mean over active neurons after each window, from where the last one ended.
    u_init = torch.zeros((), dtype=torch.float64)
    with torch.no_grad():
        x = model.stem.eval()(images(), 3)[0][0]
        v, tau = model.sn1.v_threshold, model.sn1.tau
        for _ in range(2):
            u, active = u_init.expand_as(x), torch.zeros_like(x, dtype=torch.bool)
            for _ in range(3):
                m = u + (x - u) / tau
                u, active = m - v * (m >= v), active | (m >= v)
            u_init = 0.9 * u_init + 0.1 * u[active].mean()
    torch.testing.assert_close(model.sn1.u_init, u_init)


def test_recalibration_needs_mp_init():
    with pytest.raises(ValueError, match=r"neuron.mp_init.enabled=true"):
        recalibrate(ours("neuron=lif"), [images()], 3)


@pytest.fixture
def digits_file(tmp_path):
    """A released checkpoint for the embedded digits: one channel, ten classes."""
    network = released(classes=10)
    network.conv1 = torch.nn.Conv2d(1, 4, 3, 1, 1, bias=False)
    file = tmp_path / "best.pth.tar"
    torch.save(network.float().state_dict(), file)
    return file


def words(file, tmp_path, *more):
    return [str(file), *SMALL, f"runtime.output_dir={tmp_path}", *more]


@pytest.mark.advice("fill them from training data: recalibrate=BATCHES", "write a whole number of batches, at least 1")
def test_the_command_writes_what_evaluate_takes(digits_file, tmp_path, capsys):
    assert main(["import-checkpoint", *words(digits_file, tmp_path)]) == 0
    plain = capsys.readouterr().out
    assert "every u_init is 0; fill them from training data: recalibrate=BATCHES" in plain
    line = next(line for line in plain.splitlines() if line.startswith("python evaluate.py"))
    assert main(["evaluate", *line.split()[2:], "timesteps=1,3"]) == 0
    assert "timesteps=3: top-1" in capsys.readouterr().out
    assert main(["import-checkpoint", *words(digits_file, tmp_path, "recalibrate=3")]) == 0
    out = capsys.readouterr().out
    assert "filled from 3 batches" in out
    file = next(line for line in out.splitlines() if line.startswith("python evaluate.py")).split("checkpoint=")[1]
    assert load_file(Path(file))["model"]["sn1.u_init"] != 0
    assert load_file(Path(line.split("checkpoint=")[1]))["model"]["sn1.u_init"] == 0


def test_the_command_refuses_in_one_line(digits_file, tmp_path):
    with pytest.raises(ConfigError, match="recalibrate=0: write a whole number"):
        command(words(digits_file, tmp_path, "recalibrate=0"))
    with pytest.raises(ConfigError, match=r"model\.head=official"):
        command(words(digits_file, tmp_path, "model.head=tet"))
    with pytest.raises(StorageError, match="No such file"):
        command(words(tmp_path / "none.pth", tmp_path))
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(StorageError, match=r"text.pth: refused: ."):
        read_state(tmp_path / "text.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(StorageError, match="holds a list"):
        read_state(tmp_path / "list.pth")
    colour = tmp_path / "colour.pth"
    torch.save(released(classes=10).float().state_dict(), colour)
    with pytest.raises(ConfigError, match=r"1 channels and 10 classes, the checkpoint has 3 and 10"):
        command(words(colour, tmp_path, "recalibrate=1"))
