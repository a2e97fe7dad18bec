"""What torch offers around a network: devices without values, counters, tracers, transforms. Right, or one line."""

import itertools

import pytest
import torch
from lif_options import make_lif
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from snnrepro.build import build_model
from snnrepro.compose import compose_run
from snnrepro.errors import UserError
from snnrepro.norms import TdBN

SMALL = ["model.stem_width=4", "model.widths=[4,4,4]", "model.blocks=[1,1,1]", "neuron.v_threshold=0.15"]
BACKENDS = ["reference", "compiled"]


def network(backend="reference", *words):
    torch.manual_seed(0)
    run = compose_run([f"runtime.backend={backend}", *SMALL, *words])
    return build_model(run, in_shape=(1, 8, 8), num_classes=10, mean_over_time=True)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("backend", "word"),
    [
        *itertools.product(BACKENDS, ["norm=tdbn", "norm=tebn", "norm=bntt", "norm=tab", "neuron=imp", "neuron=lif"]),
        *(("reference", word) for word in ("norm=mpbn", "neuron=mps")),
    ],
)
def test_meta_tensors_have_shapes_and_gradients(backend, word, training):
    model = network(backend, word).train(training).to("meta")
    x = torch.empty(4, 1, 8, 8, device="meta", requires_grad=True)
    logits = model(x)
    logits.sum().backward()
    assert logits.shape == (4, 10) and logits.is_meta and x.grad.shape == x.shape
    assert all(parameter.grad.is_meta for parameter in model.parameters())
    with torch.no_grad():
        assert model(x).shape == (4, 10)
    assert "v_threshold=meta" in str(model)


@pytest.mark.parametrize("backend", BACKENDS)
def test_fake_tensors_have_shapes(backend):
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert network(backend).eval()(torch.empty(4, 1, 8, 8)).shape == (4, 10)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_counters_count_the_same_with_and_without_values(backend):
    found = []
    for device in ("cpu", "meta"):
        model, x = network(backend).to(device), torch.zeros(4, 1, 8, 8, device=device)
        with FlopCounterMode(display=False) as counter:
            model(x).sum().backward()
        found.append(counter.get_total_flops())
    assert found[0] == found[1] > 0


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tracer_sees_the_kernels(backend):
    # It once recorded the empty memory that a kernel had written into unseen.
    model, x = network(backend).eval(), torch.randn(4, 1, 8, 8)
    expected = model(x)
    torch.testing.assert_close(make_fx(model)(x)(x), expected)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), expected)
    torch.testing.assert_close(model(torch._neg_view(-x)), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("make", [lambda m, x: torch.jit.trace(m, x), lambda m, x: torch.jit.script(m)])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_torchscript_is_refused_with_what_works(make, whole, backend):
    model, x = (network(backend), torch.zeros(4, 1, 8, 8)) if whole else (make_lif(backend=backend), torch.ones(4, 3))
    with pytest.raises(UserError, match=r"^[^\n]*TorchScript[^\n]*use torch\.export\.export\(model, \(x,\)\)$"):
        make(model.eval(), x)


def dual(layer, x):
    with forward_ad.dual_level():
        return layer(forward_ad.make_dual(x, x))


TRANSFORMS = {
    "vmap": lambda layer, x: torch.vmap(layer)(x[None]),
    "jvp": lambda layer, x: torch.func.jvp(layer, (x,), (x,)),
    "func.grad": lambda layer, x: torch.func.grad(lambda y: layer(y).sum())(x),
    "jacrev": lambda layer, x: torch.func.jacrev(layer)(x),
    "forward_ad": dual,
}


@pytest.mark.advice("know reverse-mode gradients alone: use backward()")
@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("smoothing", [None, 0.5])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_transforms_are_refused_in_one_line(transform, backend, smoothing, gradients):
    # Without gradients forward_ad once lost the tangent, in silence.
    layer = make_lif(backend=backend, smoothing=smoothing).eval()
    with (
        torch.set_grad_enabled(gradients),
        pytest.raises(UserError, match=r"^[^\n]*torch\.autograd\.grad, not [^\n]*$"),
    ):
        transform(layer, torch.ones(4, 3))
    x = torch.ones(4, 3, requires_grad=True)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(layer(x).sum(), x)
        layer(x).sum().backward()
    torch.testing.assert_close(x.grad, gradient)


@pytest.mark.slow
def test_a_gradient_of_a_gradient_is_refused_by_the_kernels():
    model, x = network("compiled"), torch.randn(4, 1, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.square().sum().backward()


@pytest.mark.slow
@pytest.mark.advice("move network and input together, or use")
@pytest.mark.parametrize("where", ["norm", "layer", "shortcut"])
def test_kernels_read_no_memory_of_another_device(where):
    norm = TdBN(3, eps=1e-5, momentum=0.1, scale=1.0, fused=True).eval()
    net = nn.ModuleDict({"norm": norm, "layer": make_lif(backend="compiled").eval()})
    x = shortcut = torch.randn(4, 2, 3, 5, 5)
    if where == "shortcut":
        shortcut = x.to("meta")
    else:
        net[where].to("meta")
    with torch.no_grad(), pytest.raises(UserError, match=r"runtime\.backend=compiled runs on CPUs, \w+ is on meta"):
        net["layer"](net["norm"](x) + shortcut)
    with torch.no_grad():
        together = net.to_empty(device="cpu")
        assert together["layer"](together["norm"](x) + torch.zeros_like(x)).shape == x.shape
        elsewhere = nn.ModuleDict({"norm": norm, "layer": make_lif(backend="reference").eval()}).to("meta")
        assert elsewhere["layer"](elsewhere["norm"](x.to("meta")) + x.to("meta")).shape == x.shape
