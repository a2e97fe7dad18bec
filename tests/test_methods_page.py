"""docs/methods.md: every choice has an entry, every entry every point, every number and command is true."""

import re
from pathlib import Path

import pytest

from snnrepro.build import build_model
from snnrepro.compose import compose_run, groups

PAGE = (Path(__file__).parent.parent / "docs" / "methods.md").read_text()
POINTS = ["Equation", "Shapes", "Training and inference", "Added", "Source", "Deviations", "With MP-Init and TrSG",
          "Command"]  # fmt: skip
ENTRIES = [
    (names.strip().split(", "), dict(re.findall(r"^- ([\w -]+?): (.+)$", text, re.M)))
    for names, text in re.findall(r"^### (.+)\n((?:- .+\n)+)", PAGE, re.M)
]


def test_every_choice_has_an_entry():
    named = {name for names, _ in ENTRIES for name in names}
    choices = {option for group in ("neuron", "norm", "loss", "surrogate") for option in groups()[group]}
    assert choices <= named and named - choices == {"sparsity"}


@pytest.mark.parametrize(("names", "points"), ENTRIES, ids=lambda value: value[0] if isinstance(value, list) else "")
def test_entry_is_complete_and_its_command_composes(names, points):
    assert list(points) == POINTS
    program, *words = points["Command"].strip("`").split()[1:]
    assert program == "train.py" and any(name in word for name in names for word in words)
    compose_run([word for word in words if word != "-m"])


def parameters(*words):
    model = build_model(compose_run([*words, "model=resnet19", "timesteps=4"]), in_shape=(3, 32, 32), num_classes=10)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.slow
def test_added_parameters_are_those_of_the_network():
    plain = parameters("neuron=lif")
    for names, points in ENTRIES:
        words = [word for word in points["Command"].strip("`").split() if word.startswith(("neuron=", "norm="))]
        base = words if any(word.startswith("neuron=") for word in words) else ["neuron=lif", *words]
        if "original" in names[0]:
            base = ["norm=tdbn", f"neuron={names[0]}"]
        assert parameters(*base) - plain == int(points["Added"]), names
