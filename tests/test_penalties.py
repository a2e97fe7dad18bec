"""Terms of the loss that look into the spiking layers, against loops written out in float64."""

import pytest
import torch
from lif_options import make_lif
from torch import nn

from snnrepro.build import build_dataset, build_model, build_penalties
from snnrepro.compose import compose_run
from snnrepro.neurons import spiking_layers
from snnrepro.norms import TdBN
from snnrepro.tasks.penalties import FiringRate, MembraneDistance, Penalties, spike_count


def loop(layer, x, u_init):
    """Membranes before firing and spikes of a layer in float64, (T, ...) each, without any of the package's maths."""
    v, tau = layer.v_threshold.item(), layer.tau.item()
    u = torch.full_like(x[0], u_init, dtype=torch.float64)
    ms, spikes = [], []
    for current in x.double():
        m = (1 - 1 / tau) * u + current / tau
        s = (m >= v).double()
        u = m - v * s if layer.reset == "soft" else m * (1 - s)
        ms.append(m)
        spikes.append(s)
    return torch.stack(ms), torch.stack(spikes)


def current(*shape, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, dtype=torch.float64, generator=generator)


def double_lif(**options):
    return make_lif(**options).double()


def observed(term, model, x):
    """The value of one term over a forward of ``model``."""
    penalties = Penalties([term])
    with penalties.observing(model) as measured:
        model(x)
    return term.value(measured[0])


class Pair(nn.Module):
    """Two layers of different sizes."""

    def __init__(self, **options):
        super().__init__()
        self.sn1, self.sn2 = double_lif(**options), double_lif(**options)

    def forward(self, x):
        return self.sn2(3 * self.sn1(x)[..., :2])


@pytest.mark.parametrize("family", ["as_sg", "rs_sg", "trsg"])
def test_the_rate_counts_every_neuron_alike(family):
    model, x = Pair(family=family, v_threshold=0.6, mp_init=False), current(4, 5, 10)
    rate = observed(FiringRate(1.0, None), model, x).item()
    _, first = loop(model.sn1, x, 0.0)
    scale = 0.6 if family == "trsg" else 1.0
    _, second = loop(model.sn2, 3 * scale * first[..., :2], 0.0)
    assert rate == pytest.approx((first.sum() + second.sum()).item() / (first.numel() + second.numel()), rel=1e-6)
    by_layer = (first.mean() + second.mean()).item() / 2
    assert rate != pytest.approx(by_layer, rel=1e-2), "control: the mean over layers is another number"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_rate_of_spikes_everywhere_is_exactly_1(dtype):
    layer = make_lif(v_threshold=0.7, mp_init=False)
    if dtype == torch.float64:
        layer = layer.double()
    x = torch.full((3, 4, 8), 50.0, dtype=dtype)
    # Sums of V in float32 round a little; half precision of V itself must not show.
    assert observed(FiringRate(1.0, None), layer, x).item() == pytest.approx(1.0, rel=1e-6)
    if dtype == torch.bfloat16:
        o = layer(x)
        assert (o.float().sum() / layer.v_threshold / o.numel()).item() != pytest.approx(1.0, rel=1e-6), "control"


def test_the_rate_does_not_depend_on_the_batch_size():
    layer, x = double_lif(mp_init=False), current(4, 6, 9)
    rate = observed(FiringRate(1.0, None), layer, x)
    doubled = observed(FiringRate(1.0, None), layer, torch.cat([x, x], 1))
    torch.testing.assert_close(doubled, rate, rtol=1e-12, atol=0)
    assert rate > 0


@pytest.mark.parametrize("reset", ["soft", "hard"])
@pytest.mark.parametrize("v_threshold", [0.4, 1.0, 2.0])
def test_the_gradient_is_that_of_the_spikes_whatever_scales_the_output(v_threshold, reset):
    """trsg and rs_sg fire alike and differ in the output's scale only: every gradient of the rate must be equal."""

    def gradients(family, count=spike_count):
        layer = double_lif(family=family, v_threshold=v_threshold, reset=reset, mp_init=False)
        x = current(4, 5, 10).requires_grad_()
        o = layer(x)
        rate = count(layer, o) / o.numel()
        return torch.autograd.grad(rate, [x, layer.v_threshold_raw, layer.tau_raw])

    ours, spikes = gradients("trsg"), gradients("rs_sg")
    for a, b in zip(ours, spikes, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert all(grad.abs().sum() > 0 for grad in ours)
    # Controls: the output's own gradient, and division by a detached V, which would pay for lowering V.
    outputs = gradients("trsg", lambda layer, o: o.sum())
    detached = gradients("trsg", lambda layer, o: o.sum() / layer.v_threshold.detach())
    assert v_threshold == 1.0 or not torch.allclose(outputs[0], spikes[0], rtol=1e-3)
    assert not torch.allclose(detached[1], spikes[1], rtol=1e-3)


def test_one_step_has_the_gradient_of_the_formula_and_none_outside_the_window():
    layer = double_lif(v_threshold=2.0, tau=2.0, mp_init=False)
    x = torch.tensor([[0.5, 1.9, 2.5, 3.9, 4.1, 5.5, 6.1, 9.0]], dtype=torch.float64, requires_grad=True)
    observed(FiringRate(1.0, None), layer, x).backward()
    z = x.detach() / 2 / 2 - 1
    expected = (z.abs() < 0.5).double() / 2 / 2 / 8
    torch.testing.assert_close(x.grad, expected, rtol=1e-6, atol=0)
    assert x.grad.flatten().tolist().count(0) == 4


def test_costs_of_the_rate():
    rate = torch.tensor(0.3, dtype=torch.float64)
    assert FiringRate(0.5, None).cost(rate, 0.1).item() == pytest.approx(0.15)
    assert FiringRate(0.5, 0.1).cost(rate, 0.1).item() == pytest.approx(0.5 * 0.04)
    assert FiringRate(0.5, 0.3).cost(rate, 0.1).item() == 0


@pytest.mark.parametrize("reset", ["soft", "hard"])
@pytest.mark.parametrize("family", ["as_sg", "rs_sg", "trsg"])
def test_membrane_distance_is_the_formula_from_the_u_init_of_the_forward(family, reset):
    layer, x = double_lif(family=family, reset=reset, v_threshold=0.6, tau=3.0), current(4, 5, 10)
    layer.u_init.fill_(0.25)
    value = observed(MembraneDistance(1.0), layer, x).item()
    assert layer.u_init.item() != 0.25, "training moves it afterwards"
    m, s = loop(layer, x, 0.25)
    assert value == pytest.approx((m / layer.v_threshold.item() - s).square().mean().item(), rel=1e-9)
    m, s = loop(layer, x, layer.u_init.item())
    moved = (m / layer.v_threshold.item() - s).square().mean().item()
    assert value != pytest.approx(moved, rel=1e-4), "control: with the moved u_init"


def test_membrane_distance_does_not_depend_on_the_threshold_scale():
    x = current(4, 5, 10)
    values = [
        observed(MembraneDistance(1.0), double_lif(v_threshold=v, mp_init=False), v * x).item() for v in (0.3, 1.0, 4.0)
    ]
    assert values == pytest.approx([values[1]] * 3, rel=1e-6)
    m, s = loop(double_lif(v_threshold=4.0), 4 * x, 0.0)
    assert (m - s).square().mean().item() != pytest.approx(values[1], rel=1e-2), "control: without the division"


def test_membrane_distance_is_zero_only_where_every_potential_is_its_spike():
    layer = double_lif(v_threshold=1.0, tau=2.0, mp_init=False)
    exact = torch.tensor([[0.0, 2.0, 0.0, 2.0]], dtype=torch.float64)
    assert observed(MembraneDistance(1.0), layer, exact).item() == pytest.approx(0, abs=1e-12)
    assert observed(MembraneDistance(1.0), layer, exact + 0.1).item() == pytest.approx(0.05**2)


def test_gradient_of_the_membrane_distance_with_constant_spikes():
    """A detached reset leaves a linear recursion: dM[t]/dx[k] = leak (1 - leak)^(t-k), written out."""
    layer, x = double_lif(detach_reset=True, v_threshold=0.6, tau=3.0), current(4, 3, 5).requires_grad_()
    observed(MembraneDistance(1.0), layer, x).backward()
    m, s = loop(layer, x.detach(), 0.0)
    v, leak = layer.v_threshold.item(), 1 / layer.tau.item()
    pull = 2 * (m / v - s) / v / m.numel()
    expected = torch.stack([sum(pull[t] * leak * (1 - leak) ** (t - k) for t in range(k, 4)) for k in range(4)])
    torch.testing.assert_close(x.grad, expected, rtol=1e-9, atol=1e-12)
    wrong = 2 * m / v**2 / m.numel() * leak
    assert not torch.allclose(x.grad[-1], wrong[-1]), "control: without the spikes"


def test_a_current_that_a_norm_left_uncomputed_gives_the_same_term_and_gradients():
    def run(fused):
        torch.manual_seed(0)
        norm = TdBN(4, eps=1e-5, momentum=0.1, scale=1.0, fused=fused)
        model = nn.Sequential(norm, make_lif(v_threshold=0.6))
        x = current(3, 2, 4, 5, 5).float().requires_grad_()
        value = observed(MembraneDistance(1.0), model, x)
        return [value, *torch.autograd.grad(value, [x, norm.weight, norm.bias])]

    for ours, plain in zip(run(True), run(False), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-7)


def test_a_whole_network_is_measured_layer_by_layer(tiny):
    """Also the first layer, whose constant current comes once with the number of steps."""
    run = compose_run([*tiny, "timesteps=3", "neuron.v_threshold=0.5", "loss=rmp", "loss.sparsity.weight=1"])
    torch.manual_seed(0)
    data, penalties = build_dataset(run), build_penalties(run)
    model = build_model(run, in_shape=data.in_shape, num_classes=data.num_classes)
    seen = {}

    def keep(name):
        def hook(layer, inputs, output):
            x = inputs[0].detach()
            seen[name] = (layer, x.expand(3, *x.shape[1:]), output.detach())

        return hook

    for name, layer in spiking_layers(model):
        layer.register_forward_hook(keep(name))
    with penalties.observing(model) as measured:
        model(data.train.normalise(data.train.images[:16]))
    _, values = penalties.added_to(torch.tensor(0.0), measured, 1.0)
    distances, spikes, count = [], 0.0, 0
    for layer, x, o in seen.values():
        m, s = loop(layer, x, 0.0)
        assert torch.equal(s, (o > 0).double())
        distances.append((m / layer.v_threshold.item() - s).square().mean().item())
        spikes, count = spikes + s.sum().item(), count + s.numel()
    assert len(distances) == len(list(spiking_layers(model)))
    assert values["rmp"].item() == pytest.approx(sum(distances) / len(distances), rel=1e-4)
    assert values["firing_rate"].item() == pytest.approx(spikes / count, rel=1e-5) and spikes > 0


def test_hooks_end_with_the_observation_also_after_an_error():
    layer = make_lif()
    penalties = Penalties([FiringRate(1.0, None), MembraneDistance(1.0)])
    with pytest.raises(RuntimeError), penalties.observing(layer):
        assert layer._forward_hooks and layer._forward_pre_hooks
        raise RuntimeError
    assert not layer._forward_hooks and not layer._forward_pre_hooks


def test_without_terms_nothing_is_hooked_and_the_loss_is_the_same_object():
    layer, loss = make_lif(), torch.tensor(1.0)
    penalties = build_penalties(compose_run(["loss=ce"]))
    with penalties.observing(layer) as measured:
        assert not layer._forward_hooks and not layer._forward_pre_hooks
    assert penalties.added_to(loss, measured, 1.0) == (loss, {})
    assert penalties.added_to(loss, measured, 1.0)[0] is loss
