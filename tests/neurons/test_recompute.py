"""Gradient checkpointing: the same gradients, and everything that a forward moves moves once."""

import gc

import pytest
import torch
from lif_options import make_lif
from torch import nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from snnrepro.build import build_model
from snnrepro.compose import compose_run
from snnrepro.errors import UserError
from snnrepro.neurons import one_update
from snnrepro.norms import TdBN

SMALL = ["model.stem_width=4", "model.widths=[4,4,4]", "model.blocks=[1,1,1]", "neuron.v_threshold=0.15"]


class Checkpointed(nn.Module):
    """Runs a module under ``checkpoint``."""

    def __init__(self, inner: nn.Module, reentrant: bool = False):
        super().__init__()
        self.inner, self.reentrant = inner, reentrant

    def forward(self, *inputs):
        return checkpoint(self.inner, *inputs, use_reentrant=self.reentrant)


def network(*words):
    torch.manual_seed(0)
    words = ["runtime.backend=reference", *SMALL, *words]
    return build_model(compose_run(words), in_shape=(1, 8, 8), num_classes=10)


def wrap(model, names, reentrant=False):
    """Returns ``model`` as a function in which the named parts, "" for the whole, run under ``checkpoint``."""
    for name in names:
        if name:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, Checkpointed(model.get_submodule(name), reentrant))
    return Checkpointed(model, reentrant) if "" in names else model


def moved(model, run, backward, batches=3):
    """Returns gradients and buffers after some batches, by their names outside of ``Checkpointed``."""
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(2)
    losses = []
    for _ in range(batches):
        losses.append(run(torch.randn(4, 1, 8, 8, generator=generator), 4).square().mean())
        if backward == "each":
            losses.pop().backward()
    for loss in losses if backward == "in order" else reversed(losses):
        loss.backward()
    plain = {name.replace("inner.", ""): value for name, value in model.named_parameters()}
    buffers = {name.replace("inner.", ""): value for name, value in model.named_buffers()}
    return {name: value.grad for name, value in plain.items()}, buffers


def assert_same(found, expected):
    for left, right in zip(found, expected, strict=True):
        assert left.keys() == right.keys()
        for name, value in right.items():
            torch.testing.assert_close(left[name], value, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("backward", ["each", "in order", "reversed"])
@pytest.mark.parametrize("parts", [[""], ["layer1", "layer2"], ["layer1.0.sn1"], ["stem", "head"]], ids=str)
def test_gradients_and_buffers_are_those_without_it(parts, backward):
    expected, found = (network("model.dropout=0.3") for _ in range(2))
    expected = moved(expected, expected, backward)
    assert expected[1]["layer1.0.sn1.u_init"] != 0 and expected[0]["layer1.0.sn1.tau_raw"] != 0
    assert_same(moved(found, wrap(found, parts), backward), expected)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("norm", ["tdbn", "tebn", "bntt", "tab", "mpbn"])
def test_statistics_of_norms_move_once(norm, reentrant):
    expected, found = (network(f"norm={norm}", "neuron=lif") for _ in range(2))
    expected = moved(expected, expected, "each")
    assert_same(moved(found, wrap(found, ["layer1", "layer2"], reentrant), "each"), expected)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["tdbn", "tebn"])
def test_the_kernels_run_again_too(norm):
    words = [f"norm={norm}", "runtime.backend=compiled"]
    expected, found = (network(*words) for _ in range(2))
    expected = moved(expected, expected, "in order")
    assert_same(moved(found, wrap(found, ["layer1"]), "in order"), expected)


def test_a_layer_that_runs_several_times_in_a_region():
    x = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(0)).mul(3)
    found = []
    for checkpointed in (False, True):
        layer = make_lif(v_threshold=0.7)

        def twice(y, layer=layer):
            return layer(2 * layer(y)) + y

        for part in x:
            part = part.clone().requires_grad_()
            y = checkpoint(twice, part, use_reentrant=False) if checkpointed else twice(part)
            loss = (layer(y) * torch.arange(6)).sum()
            loss.backward(retain_graph=True)
            loss.backward()
        found.append((part.grad, layer.tau_raw.grad, layer.v_threshold_raw.grad, layer.u_init))
    torch.testing.assert_close(*found, rtol=0, atol=0)


@pytest.mark.parametrize("parts", [["layer1", "layer1.0.sn1"], ["layer1.0.sn2", "layer1"]], ids=str)
def test_nested_ones_inside_of_one_update(parts):
    found = []
    for names in ([], sorted(parts, key=len, reverse=True)):
        model = network()
        with one_update():
            found.append(moved(model, wrap(model, names), "in order"))
    assert found[0][1]["sn1.u_init"] != 0
    assert_same(*found)


@pytest.mark.advice("use use_reentrant=False, and where checkpoints are nested")
@pytest.mark.parametrize(
    ("names", "reentrant", "around"),
    [
        (["layer1"], True, False),
        (["layer1"], True, True),
        ([""], True, False),
        (["layer1.0.sn1", "layer1"], False, False),
    ],
    ids=["reentrant", "reentrant in one update", "reentrant whole", "nested"],
)
def test_where_a_window_started_is_never_guessed(names, reentrant, around):
    model = network()
    run = wrap(model, names, reentrant)
    x = torch.randn(4, 1, 8, 8).requires_grad_()

    def step():
        run(x, 4).sum().backward()

    with pytest.raises(UserError, match=r"use_reentrant=False.*neurons\.one_update\(\)") as error:
        if around:
            with one_update():
                step()
        step()
    assert "\n" not in str(error.value)
    run = wrap(network(), names, reentrant=False)
    with one_update():
        run(x, 4).sum().backward()


def test_hooks_of_users_hide_a_region_and_are_refused():
    layer = make_lif()

    def run(x):
        with save_on_cpu():
            o = layer(x)
        return o.square()

    o = checkpoint(run, torch.ones(4, 3, requires_grad=True), use_reentrant=False)
    with pytest.raises(UserError, match="gradient checkpointing"):
        o.sum().backward()


@pytest.mark.advice("use checkpoint with use_reentrant=False, or under")
@pytest.mark.parametrize("training", [True, False])
def test_a_fused_norm_is_not_handed_over_without_its_gradients(training):
    norm = TdBN(3, eps=1e-5, momentum=0.1, scale=1.0, fused=True).train(training)
    layer = make_lif(mp_init=False)
    x = torch.randn(4, 2, 3, 5, 5, requires_grad=True)
    for shortcut in (0, norm(x)):
        y = checkpoint(norm, x, use_reentrant=True)
        with pytest.raises(UserError, match="use_reentrant=False"):
            layer(shortcut + y)
    layer(checkpoint(norm, x, use_reentrant=False)).sum().backward()
    assert norm.bias.grad.abs().sum() > 0
    with torch.no_grad():
        constant = norm(x).tensor()
        assert layer(norm(x)).shape == x.shape
    assert layer(constant).requires_grad


def test_regions_leave_nothing_behind():
    from snnrepro import recompute

    model = network()
    moved(model, wrap(model, ["layer1"]), "each")
    # Regions of steps that ended in an error are held by its traceback, in circles.
    gc.collect()
    assert not recompute._seen and not recompute._given


@pytest.mark.slow
@pytest.mark.advice("does not work together with torch.compile; leave one")
@pytest.mark.parametrize("outside", [True, False], ids=["of a compiled layer", "inside a compiled function"])
@pytest.mark.parametrize("backend", ["reference", "compiled"])
def test_a_compiler_and_a_checkpoint_together_are_refused(backend, outside):
    # A graph is traced once: it cannot tell a second run from a first, and gradients were silently wrong.
    layer = make_lif(backend=backend, v_threshold=0.7)

    def inside(x, run=layer):
        return checkpoint(run, x, use_reentrant=False)

    if outside:
        compiled = torch.compile(layer, backend="aot_eager")
        o = inside(torch.ones(4, 3, requires_grad=True), compiled)
    else:
        o = torch.compile(inside, backend="aot_eager")(torch.ones(4, 3, requires_grad=True))
    with pytest.raises(UserError, match=r"torch\.compile"):
        o.sum().backward()
    x = torch.ones(4, 3, requires_grad=True)
    for alone in (inside, torch.compile(layer, backend="aot_eager")):
        alone(x).sum().backward()
