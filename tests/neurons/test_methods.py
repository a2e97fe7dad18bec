"""The neurons of other papers: written out in their own form, in float64, with gradients."""

import math

import pytest
import torch
from lif_options import make_lif

from snnrepro.build import build_model
from snnrepro.compose import compose_run
from snnrepro.neurons import spiking_layers
from snnrepro.neurons.reference import lif_reference
from snnrepro.neurons.surrogates import SURROGATES
from snnrepro.train.optim import parameter_groups


def current(timesteps=6, *shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(timesteps, *(shape or (3, 4, 5)), dtype=torch.float64, generator=generator) + 0.6


def neuron_of(*words):
    run = compose_run([*words, "runtime.backend=reference"])
    return run.neuron.factory(run)().double()


class Fire(torch.autograd.Function):
    """A step with a derivative of its own."""

    @staticmethod
    def forward(ctx, z, derivative):
        ctx.save_for_backward(derivative(z))
        return (z >= 0).to(z.dtype)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0], None


def form_n(x, leak, v, *, relative, derivative, reset, detach):
    """M = leak * U + I, as TET, TEBN, TAB, LTMD and DIET-SNN write their neuron; returns spikes (T, ...)."""
    u, spikes = torch.zeros_like(x[0]), []
    for x_t in x:
        m = leak * u + x_t
        s = Fire.apply(m / v - 1 if relative else m - v, derivative)
        kept, dropped = (1 - s, v * s) if not detach else (1 - s.detach(), (v * s).detach())
        u = m * kept if reset == "hard" else m - dropped
        spikes.append(s)
    return torch.stack(spikes)


def rectangle(z):
    return (z.abs() < 0.5).to(z.dtype)


def triangle(z):
    return (1 - z.abs()).clamp(min=0)


PUBLISHED = {
    "ltmd": {"leak": 0.25, "v": math.tanh(0.5), "relative": False, "derivative": rectangle},
    "diet_snn": {"leak": 0.99, "v": 1.0, "relative": True, "derivative": lambda z: 0.3 * triangle(z)},
    "tdbn_original": {"leak": 0.25, "v": 0.5, "relative": False, "derivative": rectangle},
    "tet_original": {"leak": 0.5, "v": 1.0, "relative": False, "derivative": triangle},
    "tebn_original": {"leak": 0.25, "v": 1.0, "relative": False, "derivative": triangle},
    "tab_original": {"leak": 0.9, "v": 1.0, "relative": False, "derivative": triangle},
    "bntt_original": {"leak": 0.95, "v": 1.0, "relative": True, "derivative": lambda z: 0.3 * triangle(z)},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_preset_is_the_published_neuron(name):
    layer, published = neuron_of(f"neuron={name}"), dict(PUBLISHED[name])
    soft = name in ("diet_snn", "bntt_original")
    leak, v = published.pop("leak"), torch.tensor(published.pop("v"), dtype=torch.float64, requires_grad=True)
    options = {"reset": "soft" if soft else "hard", "detach": soft}
    weight = current(seed=1)
    x, x2 = (current().requires_grad_() for _ in range(2))
    ours, theirs = layer(x), form_n(x2, leak, v, **options, **published)
    assert torch.equal(ours, theirs) and 0.05 < ours.mean() < 0.95
    ours.backward(weight)
    theirs.backward(weight)
    torch.testing.assert_close(x.grad, x2.grad, rtol=1e-5, atol=1e-7)
    if layer.v_threshold_raw.requires_grad:
        slope = 1 - torch.tanh(layer.v_threshold_raw) ** 2 if name == "ltmd" else -torch.expm1(-layer.v_threshold)
        torch.testing.assert_close(layer.v_threshold_raw.grad, v.grad * slope.detach(), rtol=1e-5, atol=1e-7)
    # Control: the same constants with the input inside of the leak are another neuron.
    assert not torch.equal(neuron_of(f"neuron={name}", "neuron.input_scale=decay")(current()), theirs)


def test_published_constants():
    assert neuron_of("neuron=ltmd").v_threshold.item() == pytest.approx(0.4621, abs=1e-4)
    assert SURROGATES["linear"].derivative(torch.zeros(1), 0.3).item() == pytest.approx(0.3)
    assert 1 - 1 / neuron_of("neuron=diet_snn").tau.item() == pytest.approx(0.99)


def test_diet_snn_keeps_its_spikes_when_weights_and_threshold_grow_together():
    x = current().requires_grad_()
    small, large = neuron_of("neuron=diet_snn"), neuron_of("neuron=diet_snn", "neuron.v_threshold=4.0")
    o = small(x)
    (gradient,) = torch.autograd.grad(o.sum(), x)
    x4 = (4 * x).detach().requires_grad_()
    o4 = large(x4)
    assert torch.equal(o, o4)
    torch.testing.assert_close(torch.autograd.grad(o4.sum(), x4)[0], gradient / 4, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("backend", ["reference", "compiled"])
@pytest.mark.parametrize("constant", [False, True])
def test_imp_is_a_lif_that_starts_at_a_learned_membrane(backend, constant):
    dtype = torch.float64 if backend == "reference" else torch.float32
    layer = make_lif(mp_init=False, learn_u_init=True, backend=backend)
    x = current(1 if constant else 4, 32, 3, 4, 4).to(dtype).requires_grad_()
    layer.settle(x)
    layer.to(dtype)
    assert layer.u_init.shape == (3, 4, 4) and 0.1 < layer.u_init.abs().max() <= 0.2
    o, weight = layer(x, 4), current(4, 32, 3, 4, 4, seed=1).to(dtype)
    grads = torch.autograd.grad(o, (x, layer.u_init, layer.tau_raw), weight)
    dyn = layer.dynamics(4)._asdict()
    expected = lif_reference(x, layer.u_init, layer.v_threshold, layer.tau, **dyn).o
    torch.testing.assert_close(o, expected)
    torch.testing.assert_close(grads, torch.autograd.grad(expected, (x, layer.u_init, layer.tau_raw), weight))
    # Control: the learned values matter.
    assert not torch.equal(lif_reference(x, torch.zeros(()), layer.v_threshold, layer.tau, **dyn).o, expected)


def test_imp_at_a_running_mean_is_mp_init_and_at_zero_the_plain_neuron():
    x = current(4, 2, 3)
    for start in (0.0, 0.37):
        imp, plain = make_lif(mp_init=False, learn_u_init=True), make_lif().double().eval()
        imp.settle(x)
        with torch.no_grad():
            imp.double().u_init.fill_(start)
            plain.u_init.fill_(start)
        torch.testing.assert_close(imp(x), plain(x))


def test_imp_has_one_parameter_per_neuron_that_is_never_decayed():
    run = compose_run(["neuron=imp", "model=resnet19", "timesteps=4", "optimizer.neuron_weight_decay=0.1"])
    model = build_model(run, in_shape=(3, 32, 32), num_classes=10)
    learned = [layer.u_init for _, layer in spiking_layers(model)]
    assert sum(u.numel() for u in learned) == 1_376_256
    groups = {group["name"]: group for group in parameter_groups(model, run.optimizer)}
    assert groups["u_init"]["weight_decay"] == 0 and len(groups["u_init"]["params"]) == 17
    assert not {id(u) for u in learned} & {id(p) for p in groups["weight"]["params"]}


def smoothed(x, alpha, u_init, v, tau):
    """MPS written out: the carried membrane is averaged over time before it charges; soft reset, spikes V*S."""
    u = h = u_init.expand(x.shape[1:])
    outputs = []
    for x_t in x:
        h = alpha * h + (1 - alpha) * u
        m = h + (x_t - h) / tau
        s = Fire.apply(m / v - 1, rectangle)
        u = m - v * s
        outputs.append(v * s)
    return torch.stack(outputs)


def test_mps_charges_from_the_smoothed_membrane():
    layer = make_lif(smoothing=0.3).double()
    layer.u_init.fill_(0.2)
    assert layer.smoothing_raw.sigmoid().item() == pytest.approx(0.3)
    x, weight, alpha = current().requires_grad_(), current(seed=1), layer.smoothing_raw.sigmoid()
    before = layer.u_init.clone()
    o = layer(x)
    expected = smoothed(x, alpha, before, layer.v_threshold, layer.tau)
    torch.testing.assert_close(o, expected)
    leaves = (x, layer.smoothing_raw, layer.tau_raw, layer.v_threshold_raw)
    grads = torch.autograd.grad(o, leaves, weight)
    torch.testing.assert_close(grads, torch.autograd.grad(expected, leaves, weight))
    assert layer.u_init != before
    # Without smoothing it is the plain neuron; with it, another one.
    rules = (layer.v_threshold, layer.tau)
    plain = lif_reference(x, before, *rules, **layer.dynamics(6)._asdict()).o
    zero = torch.zeros((), dtype=torch.float64)
    assert torch.equal(lif_reference(x, before, *rules, **layer.dynamics(6)._asdict(), smoothing=zero).o, plain)
    assert not torch.equal(o, plain)
