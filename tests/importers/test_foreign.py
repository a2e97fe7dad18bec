"""Files that are no checkpoints, or hold what no network can: one line that names file and key, whatever it is."""

import os
import random
import zipfile

import pytest
import torch
from importers.released import Released

from snnrepro.build import build_model
from snnrepro.cli import main
from snnrepro.compose import compose_run
from snnrepro.errors import ConfigError, StorageError
from snnrepro.importers import foreign
from snnrepro.importers.command import main as command
from snnrepro.importers.foreign import read_state, tensors_of
from snnrepro.importers.official import load_official
from snnrepro.state import unusable

SMALL = ["model=resnet19_mini", "model.stem_width=4", "model.widths=[4,4,4]", "model.blocks=[1,1,1]", "timesteps=2"]
SMALL += ["runtime.backend=reference", "runtime.threads=1"]


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return Released(4, (4, 4, 4), (1, 1, 1), 5).state_dict()


@pytest.fixture(scope="module")
def model():
    return build_model(compose_run(SMALL), in_shape=(3, 8, 8), num_classes=5)


def as_fifo(file):
    os.mkfifo(file)


def as_bomb(file):
    torch.save({"fc1.weight": torch.zeros(1 << 22)}, file)
    parts = zipfile.ZipFile(file)
    content = {name: parts.read(name) for name in parts.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bomb:
        for name, data in content.items():
            bomb.writestr(name, data)


def as_truncated(file):
    torch.save({"fc1.weight": torch.zeros(1000)}, file)
    file.write_bytes(file.read_bytes()[:-100])


def as_pickle(file):
    torch.save({"state_dict": {"conv1.weight": print}}, file)


FILES = {
    "missing": (lambda file: None, "No such file"),
    "empty": (lambda file: file.touch(), "empty"),
    "device": (lambda file: file.symlink_to("/dev/null"), "not a file that holds data"),
    "endless device": (lambda file: file.symlink_to("/dev/zero"), "not a file that holds data"),
    "fifo": (as_fifo, "not a file that holds data"),
    "folder": (lambda file: file.mkdir(), "not a file that holds data"),
    "text": (lambda file: file.write_text("no checkpoint"), "refused: "),
    "half a zip": (as_truncated, "refused: "),
    "zip": (lambda file: zipfile.ZipFile(file, "w").writestr("a", "b"), "refused: "),
    "bomb": (as_bomb, "larger than the file"),
    "code": (as_pickle, "refused: "),
    "list": (lambda file: torch.save([1], file), "holds a list"),
    "tensor": (lambda file: torch.save(torch.ones(2), file), "holds a Tensor"),
    "none": (lambda file: torch.save(None, file), "holds a NoneType"),
    "state of none": (lambda file: torch.save({"state_dict": None}, file), "holds a NoneType"),
    "link to itself": (lambda file: file.symlink_to(file), "cannot read"),
}


@pytest.mark.parametrize(("make", "says"), FILES.values(), ids=FILES)
def test_a_file_that_is_no_checkpoint_is_one_line(make, says, tmp_path):
    file = tmp_path / "some.pth"
    make(file)
    with pytest.raises(StorageError) as error:
        read_state(file)
    text = str(error.value)
    assert text.startswith(f"{file}: ") and says in text and "\n" not in text and error.value.exit_code == 5


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        (3, torch.ones(2), "3: a key of type int"),
        (None, torch.ones(2), "None: a key of type NoneType"),
        ("fc1.module.bias", None, "fc1.module.bias: a NoneType, not a tensor"),
        ("fc1.module.bias", [1.0], "fc1.module.bias: a list"),
        ("fc1.module.bias", {"fc1.module.bias": {"fc1.module.bias": torch.ones(5)}}, "fc1.module.bias: a dict"),
        ("fc1.module.bias", torch.empty(5, device="meta"), "without values"),
        ("fc1.module.bias", torch.ones(5).to_sparse(), "sparse"),
        ("fc1.module.bias", torch.ones(5, dtype=torch.complex64), "complex64"),
        ("fc1.module.bias", torch.ones(5, dtype=torch.int64), "int64"),
        ("fc1.module.bias", torch.ones(5, dtype=torch.bool), "bool"),
        ("fc1.module.bias", torch.quantize_per_tensor(torch.ones(5), 0.1, 0, torch.qint8), "qint8"),
        (
            "fc1.module.weight",
            torch.ones(1).expand(400_000_000, 4),
            r"a tensor \(400000000, 4\) of fewer values",
        ),
        ("conv1.weight", torch.ones(1).expand(4, 3, 3, 3), r"conv1\.weight: .* of fewer values"),
        ("fc1.module.bias", torch.full((5,), float("nan")), r"head\.fc\.bias: .*not finite"),
        ("fc1.module.bias", torch.full((5,), 1e300, dtype=torch.float64), r"head\.fc\.bias: .*not finite"),
        ("fc1.module.bias", torch.ones(6), r"head\.fc\.bias: \(6,\) in the checkpoint"),
        ("fc1.module.weight", torch.ones(5), r"head\.fc\.weight: \(5,\)"),
        ("fc1.module.weight", torch.ones(0, 4), r"head\.fc\.weight: \(0, 4\)"),
        ("conv1.weight", torch.ones(4), r"stem\.conv\.weight: \(4,\)"),
        ("conv1.weight", torch.ones(()), r"stem\.conv\.weight: \(\)"),
        ("bn1.running_var", torch.tensor([1.0, 1, -1, 1]), "a variance of -1 is negative"),
        ("bn1.running_mean", torch.full((4,), float("inf")), "not finite"),
        ("sn1.thr", torch.tensor(-1e30), r"sn1\.v_threshold_raw: -1e\+30 is a threshold of 0"),
        ("sn1.thr", torch.ones(2), r"sn1\.v_threshold_raw"),
        ("sn1.w", torch.tensor(-1e3), r"sn1\.tau_raw: -1000 is a time constant of inf"),
        ("sn1.w", torch.tensor(1e5), r"sn1\.tau_raw: 100000 is a time constant of 1, not above 1"),
        ("module.fc1.module.bias", torch.ones(5), r"module\.fc1\.module\.bias: a second head\.fc\.bias"),
        ("nonsense", torch.ones(5), "nonsense: not a parameter"),
    ],
)
def test_content_that_no_network_can_hold_is_named(key, value, says, state, tmp_path, monkeypatch):
    file = tmp_path / "some.pth"
    file.write_bytes(b"x")
    # Not all of these survive torch.save and torch.load; whoever writes files by hand is not held to that.
    monkeypatch.setattr(torch, "load", lambda *_, **__: {"state_dict": dict(state) | {key: value}})
    with pytest.raises(StorageError, match=rf"{file.name}: .*{says}") as error:
        command([str(file), *SMALL, f"runtime.output_dir={tmp_path}"])
    assert "\n" not in str(error.value) and not list(tmp_path.rglob("config.yaml"))


def test_what_is_saved_expanded_is_refused_before_a_network_is_made(state, tmp_path, monkeypatch, capsys):
    file = tmp_path / "some.pth"
    torch.save(dict(state) | {"fc1.module.weight": torch.ones(1).expand(400_000_000, 4)}, file)
    assert file.stat().st_size < 1 << 20
    monkeypatch.setattr("snnrepro.build.build_model", lambda *_, **__: pytest.fail("made"))
    assert main(["import-checkpoint", str(file), *SMALL, f"runtime.output_dir={tmp_path}"]) == 5
    assert "fc1.module.weight: a tensor (400000000, 4) of fewer values" in capsys.readouterr().err


VALUES = [
    lambda r, t: t.double().fill_(r.choice([0.0, -0.0, 1e-40, 1e4, -1e4, float("nan"), float("inf")])),
    lambda r, t: t.to(r.choice([torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.complex64])),
    lambda r, t: t.reshape(-1),
    lambda r, t: t[None],
    lambda r, t: t.new_ones(()).expand([r.choice([0, 1, 7, 10**6]) for _ in range(r.randrange(4))]),
    lambda r, t: t.to("meta"),
    lambda r, t: -t.abs() * r.choice([1, 1e4, 1e30]),
    lambda r, t: r.choice([None, 3, "text", [t], {"a": t}, b"\0"]),
]


def damaged(state, r):
    """Returns a state of which some entries are changed, gone, or under another name."""
    state = dict(state)
    for _ in range(r.choice([0, 1, 1, 2])):
        key = r.choice(list(state))
        action = r.randrange(4)
        if action == 0:
            state[r.choice([key + "x", key[1:], "module." + str(key), 7, None, ("a",)])] = state.pop(key)
        elif action == 1:
            del state[key]
        elif isinstance(state[key], torch.Tensor):
            state[key] = r.choice(VALUES)(r, state[key])
        if not all(isinstance(key, str) for key in state):
            break
    return r.choice([state, {"state_dict": state}, {"state_dict": state, "epoch": 3}])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_damage_passes_unseen_or_ends_in_a_traceback(state, model):
    """Structure-aware fuzzing, seeded: refused in one line, or the network that results can compute."""
    x, outcomes = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), {"taken": 0, "refused": 0}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for seed in range(200):
        model.load_state_dict(before)
        try:
            load_official(model, damaged(state, random.Random(seed)))
        except (StorageError, ConfigError) as error:
            assert "\n" not in str(error), seed
            outcomes["refused"] += 1
            continue
        assert unusable(model.state_dict(), model) is None and not model.eval()(x, 2).isnan().any(), seed
        outcomes["taken"] += 1
    assert min(outcomes.values()) > 10


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("stem.norm.running_var", -1.0, "a variance of -1 is negative"),
        ("stem.norm.running_mean", float("nan"), "not finite"),
        ("sn1.u_init", float("inf"), "not finite"),
        ("sn1.v_threshold_raw", -200.0, "a threshold of 0"),
        ("sn1.tau_raw", -100.0, "a time constant of inf"),
        ("sn1.tau_raw", 800.0, "not above 1"),
    ],
)
@pytest.mark.parametrize("threshold_map", ["softplus", "tanh"])
def test_what_no_training_leaves_behind_is_named(name, value, says, threshold_map):
    model = build_model(compose_run(SMALL), in_shape=(1, 8, 8), num_classes=10)
    assert unusable(model.state_dict(), model) is None
    if name.endswith("v_threshold_raw") and threshold_map == "tanh":
        value, model.sn1.threshold_map = 0.0, "tanh"
    model.state_dict()[name].fill_(value)
    assert name in unusable(model.state_dict(), model) and says in unusable(model.state_dict(), model)


def test_tensors_that_are_dense_are_taken_as_they_are():
    shared = torch.randn(4, 6)
    state = {"a": shared, "b": shared[:, 1:3], "c": shared.t(), "d": torch.ones(1).expand(1, 1), "e": torch.ones(())}
    state |= {"n.num_batches_tracked": torch.tensor(3), "half": torch.ones(2, dtype=torch.bfloat16)}
    found = tensors_of({"state_dict": state})
    assert all(found[name] is value for name, value in state.items())
    assert foreign.tensors_of({}) == {}
