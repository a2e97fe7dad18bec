"""The trainer: options change what they name, and numbers that go wrong stop it before the update."""

import math
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace

import pytest
import torch
from conftest import without

from snnrepro import registry
from snnrepro.compose import compose_run
from snnrepro.config import GROUPS, RunConfig
from snnrepro.errors import DataError, DivergedError, UserError
from snnrepro.execution import RuntimeConfig
from snnrepro.neurons.lif_options import MPInitConfig
from snnrepro.runs import read_record, run_path
from snnrepro.tasks.base import SparsityConfig
from snnrepro.train import guards, loop
from snnrepro.train.loop import MAX_SKIPPED_STEPS, Trainer, train


def trainer(words):
    run = compose_run(words)
    return Trainer(run, run_path(run))


def one_step(t):
    images, labels = t.data.train.images[:32], t.data.train.labels[:32]
    t.model.train()
    return t.train_step((images, labels))


@pytest.mark.parametrize(
    "words",
    [
        ["runtime.precision=bf16"],
        ["runtime.precision=fp16"],
        ["runtime.channels_last=true"],
        ["optimizer.clip_grad=0.1"],
        ["optimizer=adamw"],
        ["optimizer=lamb"],
        ["neuron=lif"],
        ["loss=tet"],
        ["norm=tebn"],
        ["norm=tab"],
        ["norm=bntt", "neuron=lif"],
        ["neuron.reset=hard", "surrogate=arctan"],
        ["model=cnn7_mini"],
        ["norm.alpha_v_threshold=true", "neuron.learn_threshold=false"],
        ["loss=rmp", "loss.sparsity.weight=0.1", "runtime.precision=fp16"],
        ["loss=rmp", "loss.sparsity.weight=0.1", "runtime.precision=bf16"],
    ],
    ids=" ".join,
)
def test_every_option_trains_to_a_finite_record(words, tiny):
    tiny = without(tiny, "model.blocks", "model.stem_width") if "model=cnn7_mini" in words else tiny
    record = train(compose_run([*tiny, "epochs=1", *words]))
    assert record["status"] == "done" and record["final"]["loss"] > 0


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_neurons_integrate_in_fp32_under_autocast(tiny, precision):
    t = trainer([*tiny, f"runtime.precision={precision}"])
    seen = {}
    t.model.layer1[0].sn1.register_forward_hook(lambda m, i, o: seen.update(i=i[0].dtype, o=o.dtype, u=m.u_init.dtype))
    one_step(t)
    low = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert seen["i"] == seen["o"] == low and seen["u"] == torch.float32
    assert all(p.dtype == torch.float32 for p in t.model.parameters())


def test_clipping_bounds_the_update(tiny):
    steps = {}
    for words in ([], ["optimizer.clip_grad=1e-3"]):
        t = trainer([*tiny, "optimizer.weight_decay=0", "optimizer.neuron_weight_decay=0", *words])
        before = [p.detach().clone() for p in t.model.parameters()]
        one_step(t)
        for group in t.optimizer.param_groups:
            assert group["lr"] == 0.1
        change = torch.cat([(a - b).flatten() for a, b in zip(t.model.parameters(), before, strict=True)]).norm()
        steps[bool(words)] = change.item()
    assert steps[True] == pytest.approx(0.1 * 1e-3, rel=1e-3)
    assert steps[False] > 10 * steps[True]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_loss_stops_before_the_update(tiny, bad):
    t = trainer(tiny)
    loss = t.task.of_logits
    t.task.of_logits = replace(loss, value=lambda logits, target: loss(logits, target) * bad)
    before = {name: p.detach().clone() for name, p in t.model.named_parameters()}
    with pytest.raises(UserError, match="loss is not finite"):
        one_step(t)
    assert all(torch.equal(before[name], p) for name, p in t.model.named_parameters())


def test_control_without_the_guard_the_weights_are_lost(tiny, monkeypatch):
    t = trainer(tiny)
    loss = t.task.of_logits
    t.task.of_logits = replace(loss, value=lambda logits, target: loss(logits, target) * float("nan"))
    monkeypatch.setattr(Trainer, "check_finite", lambda self, *args: None)
    one_step(t)
    assert not all(torch.isfinite(p).all() for p in t.model.parameters())


@pytest.mark.parametrize("neuron", ["trsg", "lif"])
def test_bad_gradient_names_where_it_began(neuron, tiny):
    """Also where the neurons are frozen (lif) and own no parameters."""
    t = trainer([*tiny, f"neuron={neuron}"])

    def poison(module, inputs, output):
        output.register_hook(lambda grad: grad * float("inf"))

    t.model.layer2[0].norm2.register_forward_hook(poison)
    with pytest.raises(UserError, match=r"gradient of layer2\.0\.norm2.*nearest spiking layer layer2\.0\.sn1: v_thr"):
        one_step(t)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_training_data_that_is_not_finite_is_named_and_is_no_divergence(tiny, bad):
    t = trainer(tiny)
    t.data.train.images = t.data.train.images.float()
    t.data.train.images[77, 0, 3, 3] = bad
    with pytest.raises(DataError, match=r"dataset=synthetic: training set, sample 77: pixels that are not finite"):
        t.fit()
    assert read_record(t.path) is None


def test_a_bad_buffer_ends_the_run_as_diverged_with_every_file_readable(tiny, monkeypatch):
    original = Trainer.train_epoch

    def spoil(self, stop):
        original(self, stop)
        if self.epoch == 1:
            self.model.layer1[0].sn2.u_init.fill_(float("nan"))

    monkeypatch.setattr(Trainer, "train_epoch", spoil)
    run = compose_run(tiny)
    record = train(run)
    assert record["status"] == "diverged" and "layer1.0.sn2.u_init" in record["diverged"]["message"]
    assert record["learned"]["layer1.0.sn2"]["u_init"] is None
    assert read_record(run_path(run)) == record
    assert len((run_path(run) / "metrics.jsonl").read_text().splitlines()) == 1


def test_fp16_skips_a_few_overflows_then_gives_up(tiny):
    t = trainer([*tiny, "runtime.precision=fp16"])
    loss = t.task.of_logits

    def overflowing(logits, target):
        return loss(logits, target) + 0 * logits.sum() + _InfiniteGradient.apply(logits)

    t.task.of_logits = replace(loss, value=overflowing)
    weight = t.model.stem.conv.weight.detach().clone()
    for _ in range(MAX_SKIPPED_STEPS - 1):
        one_step(t)
    assert torch.equal(weight, t.model.stem.conv.weight)
    with pytest.raises(UserError, match="not finite"):
        one_step(t)


class _InfiniteGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits):
        ctx.shape = logits.shape
        return logits.new_zeros(())

    @staticmethod
    def backward(ctx, grad):
        return torch.full(ctx.shape, float("inf"))


def test_the_static_image_passes_the_stem_once(tiny):
    t = trainer([*tiny, "timesteps=4"])
    shapes = []
    t.model.stem.conv.register_forward_hook(lambda m, i, o: shapes.append(tuple(o.shape)))
    one_step(t)
    assert shapes == [(32, 4, 8, 8)]


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tiny, tmp_path):
    losses = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run = compose_run([*tiny, f"seed={seed}", f"runtime.output_dir={tmp_path}/{name}"])
        train(run)
        losses[name] = (run_path(run) / "metrics.jsonl").read_text()
    assert losses["a"] == losses["b"] != losses["c"]


def test_every_key_of_the_schema_is_read_by_a_run(tiny, monkeypatch, tmp_path):
    """A key that no code reads would be a dead option.

    The logger's are read by the W&B mirror, and those of several processes by what starts them: see their tests.
    """
    every = [option for group in GROUPS for option in registry.options(group).values()]
    schemas = {schema for option in every for schema in option.__mro__ if is_dataclass(schema)}
    schemas |= {RunConfig, RuntimeConfig, SparsityConfig, MPInitConfig}
    bare = without(tiny, "model.blocks", "model.stem_width", "model.widths")
    sparse = ["loss.sparsity.weight=0.1", "loss.sparsity.kind=target", "loss.sparsity.target=0.1"]
    sew = ["model=sew_resnet34_mini", "model.widths=[4,4,4,4]", "model.blocks=[1,1,1,1]"]
    runs = [compose_run([*tiny, *words]) for words in ([], ["neuron=mps"], ["loss=tet"], ["loss=rmp"], ["loss=mps"])]
    runs.append(compose_run([*bare, "model=cnn7_mini", "optimizer=adamw", "norm=tab", *sparse]))
    runs.append(compose_run([*bare, *sew]))
    torch.save({"stem.conv.weight": torch.zeros(4, 1, 3, 3)}, tmp_path / "weights.pt")
    runs.append(compose_run([*tiny, "augment=timm", f"init_from={tmp_path}/weights.pt"]))
    datasets = [compose_run([f"dataset={name}", f"dataset.root={tmp_path}"]) for name in ("cifar10", "imagenet")]
    datasets.append(compose_run(["dataset=dvs_cifar10", f"dataset.root={tmp_path}"]))
    datasets += [compose_run([f"dataset={name}"]) for name in ("digits_dvs", "cifar10_simdvs")]
    # These read every key to store it: not the reading that is meant.
    monkeypatch.setattr(loop, "to_plain", lambda run: {})
    monkeypatch.setattr(loop, "write_config", lambda path, run: None)
    monkeypatch.setattr(loop, "run_id", lambda run: "x")
    monkeypatch.setattr("snnrepro.data.events.dataset.find", lambda *_, **__: [])
    monkeypatch.setattr("snnrepro.data.events.dataset.simulated", lambda *_, **__: None)
    read: set[str] = set()

    def spy(self, name):
        # By the class that declares the key.
        owner = next((each for each in type(self).__mro__ if name in vars(each).get("__annotations__", ())), None)
        read.add(f"{owner.__name__}.{name}" if owner else name)
        return object.__getattribute__(self, name)

    for schema in schemas:
        monkeypatch.setattr(schema, "__getattribute__", spy)
    for number, run in enumerate(runs):
        Trainer(run, tmp_path / str(number)).fit()
    for run in datasets:
        # No files are here: what is missing is found out with all keys read.
        with suppress(Exception):
            run.dataset.load(seed=0, timesteps=1)
    unread = {f"{schema.__name__}.{field}" for schema in schemas for field in _own_keys(schema)} - read
    selectors = {f"{base.__name__}.{base.selector}" for base in GROUPS.values()} | {"ModelOption.name"}
    assert {name for name in unread - selectors if not name.startswith("WandbOption.")} == {
        "RuntimeConfig.processes",
        "RuntimeConfig.rank_timeout",
    }


def _own_keys(schema):
    inherited = {field.name for base in schema.__mro__[1:] if is_dataclass(base) for field in fields(base)}
    return {field.name for field in fields(schema)} - inherited


def test_where_not_finite_on_a_healthy_model_blames_the_norm_alone(tiny):
    t = trainer(tiny)
    one_step(t)
    assert guards.where_not_finite(t.model, torch.tensor(1.0)) == ("gradient norm", "sn1")


def test_a_number_of_an_epoch_that_is_not_finite_is_named():
    line = {"epoch": 3, "loss": 0.5, "learned": {"sn1": {"tau": 2.0}}, "firing_rate": {"sn1": [0.1, 0.2]}}
    guards.require_finite(line)
    for name, change in (
        ("loss", {"loss": math.nan}),
        ("learned.sn1.tau", {"learned": {"sn1": {"tau": math.inf}}}),
        ("firing_rate.sn1.2", {"firing_rate": {"sn1": [0.1, math.nan]}}),
    ):
        with pytest.raises(DivergedError, match=f"epoch 3: {name} is not finite"):
            guards.require_finite(line | change)


def test_a_threshold_that_underflows_ends_the_run_as_diverged(tiny):
    t = trainer(tiny)
    with torch.no_grad():
        t.model.sn1.v_threshold_raw.fill_(-1000.0)
        t.model.sn1.tau_raw.fill_(-1000.0)
    assert t.fit()["status"] == "diverged"
