"""TEBN, TAB and BNTT against batch norms applied one by one, in float64, and against each other."""

import pytest
import torch
from test_norms import make, randomise, sequence, train_step
from torch import nn
from torch.nn import functional as F

from snnrepro.build import build_model
from snnrepro.compose import compose_run
from snnrepro.errors import ConfigError
from snnrepro.models.resnet19 import ResNet19
from snnrepro.temporal_norms import BNTT, TAB, TEBN, cumulative_statistics

KINDS = {"tebn": TEBN, "tab": TAB, "bntt": BNTT}


def norm_of(kind, channels=5, timesteps=4, **changed):
    keys = {"eps": 1e-5, "momentum": 0.1, **({"share_affine": False} if kind == "tab" else {}), **changed}
    return randomise(KINDS[kind](channels, timesteps, **keys))


def compare(left, right):
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def prefixes(norm, x):
    """TAB by its definition: batch norm over every prefix, of which the last step is kept."""
    steps = []
    for t in range(len(x)):
        prefix = x[: t + 1].flatten(0, 1)
        row = 0 if len(norm.weight) == 1 else t
        y = F.batch_norm(prefix, None, None, norm.weight[row], norm.bias[row], True, eps=norm.eps)
        steps.append(norm.p[t] ** 2 * y.view_as(x[: t + 1])[-1])
    return torch.stack(steps)


@pytest.mark.parametrize("share_affine", [False, True])
def test_tab_is_batch_norm_over_every_prefix(share_affine):
    x, weight = sequence(4, 3, 5, 6, 7), sequence(4, 3, 5, 6, 7, seed=2)
    norm = norm_of("tab", share_affine=share_affine)
    y, grads = train_step(norm, x, weight)
    x2 = x.clone().requires_grad_()
    expected = prefixes(norm, x2)
    compare([y], [expected.detach()])
    compare(grads, torch.autograd.grad(expected, (x2, *norm.parameters()), weight))
    # Control: statistics cut off from the graph give another gradient.
    x3 = x.clone().requires_grad_()
    mean, var = (s.detach()[:, None, :, None, None] for s in cumulative_statistics(x3)[:2])
    w, b = (p[:, None, :, None, None] for p in (norm.weight, norm.bias))
    cut = norm.p.square().view(-1, 1, 1, 1, 1) * (w * (x3 - mean) / (var + norm.eps).sqrt() + b)
    (wrong,) = torch.autograd.grad(cut, x3, weight)
    assert (wrong - grads[0]).norm() > 0.01 * grads[0].norm()


def test_tab_is_causal():
    x = sequence(4, 3, 5, 6, 7)
    norm = norm_of("tab")
    changed = x.clone()
    changed[2] += 1 + x[2] ** 2
    before, after = norm(x), norm(changed)
    assert torch.equal(before[:2], after[:2]) and not torch.allclose(before[2], after[2])
    # Control: tdBN is not.
    tdbn = make(5).double()
    assert not torch.allclose(tdbn(x)[:2], tdbn(changed)[:2])


def test_tab_ends_as_tdbn_and_starts_as_bntt():
    x = sequence(4, 3, 5, 6, 7)
    tab, tdbn = TAB(5, 4, eps=1e-5, momentum=0.1, share_affine=False).double(), make(5).double()
    bntt = BNTT(5, 4, eps=1e-5, momentum=0.1).double()
    compare([tab(x)[-1], tab(x)[0]], [tdbn(x)[-1], bntt(x)[0]])
    assert not torch.allclose(tab(x)[0], tdbn(x)[0])


def test_tab_statistics_survive_a_large_mean():
    x = (1000 + torch.randn(6, 8, 3, 10, 10, generator=torch.Generator().manual_seed(0))).float()
    _, var, _ = cumulative_statistics(x)
    _, expected, _ = cumulative_statistics(x.double())
    torch.testing.assert_close(var, expected.float(), rtol=1e-3, atol=0)
    # Control: E[x^2] - E[x]^2 does not.
    first, second = x.mean((1, 3, 4)).cumsum(0), x.square().mean((1, 3, 4)).cumsum(0)
    count = torch.arange(1, 7)[:, None]
    assert not torch.allclose(second / count - (first / count) ** 2, expected.float(), rtol=1e-2)


def test_tab_does_not_see_the_sign_of_p():
    x, norm = sequence(4, 3, 5, 6, 7), norm_of("tab")
    y = norm(x)
    with torch.no_grad():
        norm.p.neg_()
    assert torch.equal(y, norm(x))


def test_tebn_is_tdbn_times_p():
    x, weight = sequence(4, 3, 5, 6, 7), sequence(4, 3, 5, 6, 7, seed=2)
    norm, tdbn = norm_of("tebn"), make(5).double()
    with torch.no_grad():
        tdbn.weight.copy_(norm.weight)
        tdbn.bias.copy_(norm.bias)
    y, (gx, gweight, gbias, gp) = train_step(norm, x, weight)
    plain, expected = train_step(tdbn, x, weight * norm.p.detach().view(-1, 1, 1, 1, 1))
    compare([y], [plain * norm.p.detach().view(-1, 1, 1, 1, 1)])
    compare([gx, gweight, gbias, gp], [*expected, (weight * plain).sum((1, 2, 3, 4))])
    compare([norm.running_mean, norm.running_var], [tdbn.running_mean, tdbn.running_var])
    with torch.no_grad():
        norm.p[2] *= 2
    compare([norm(x)], [y * torch.tensor([1.0, 1, 2, 1]).view(-1, 1, 1, 1, 1)])


def test_bntt_is_one_batch_norm_per_step():
    x, weight = sequence(4, 3, 5, 6, 7), sequence(4, 3, 5, 6, 7, seed=2)
    norm = norm_of("bntt")
    y, (gx, gweight) = train_step(norm, x, weight)
    for t in range(4):
        single = nn.BatchNorm2d(5, eps=1e-5, momentum=0.1).double()
        with torch.no_grad():
            single.weight.copy_(norm.weight[t])
        x_t = x[t].clone().requires_grad_()
        y_t = single(x_t)
        expected = torch.autograd.grad(y_t, (x_t, single.weight), weight[t])
        compare([y[t], gx[t], gweight[t]], [y_t.detach(), *expected])
        compare([norm.running_mean[t], norm.running_var[t]], [single.running_mean, single.running_var])
    assert y.mean((1, 3, 4)).abs().max() < 1e-12


def test_one_step_of_each_is_batch_norm():
    x = sequence(1, 4, 3, 5, 5)
    plain = nn.BatchNorm2d(3, affine=False).double()(x[0])
    for kind, factor in (("tebn", 0.5), ("tab", 0.25), ("bntt", 1)):
        norm = norm_of(kind, channels=3, timesteps=1)
        with torch.no_grad():
            norm.weight.fill_(1)
            for name, value in (("bias", 0.0), ("p", 0.5)):
                if hasattr(norm, name):
                    getattr(norm, name).fill_(value)
        compare([norm(x)[0]], [factor * plain])


@pytest.mark.parametrize("kind", KINDS)
def test_inference_uses_running_statistics_that_moved_once(kind):
    x, norm = sequence(4, 3, 5, 6, 7), norm_of(kind)
    norm(x)
    once = {name: value.clone() for name, value in norm.named_buffers()}
    y = norm.eval()(x)
    assert all(torch.equal(once[name], value) for name, value in norm.named_buffers())
    compare([norm.running_mean.reshape(-1, 5)[-1]], [0.1 * x[-4 if kind != "bntt" else -1 :].mean((0, 1, 3, 4))])
    scale, shift = (row[:, None, :, None, None] for row in norm.eval_affine())
    compare([y], [x * scale + shift])
    compare([norm(x[:2])], [y[:2]])
    copy = norm_of(kind)
    copy.load_state_dict(norm.state_dict())
    assert torch.equal(copy.eval()(x), y)


@pytest.mark.parametrize("kind", KINDS)
def test_more_steps_than_trained_are_refused(kind):
    with pytest.raises(ConfigError, match=f"timesteps=5: norm={kind} .* at most 4"):
        norm_of(kind)(sequence(5, 3, 5, 6, 7))


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_keeps_its_dtype_and_the_statistics_theirs(kind):
    x = sequence(4, 3, 5, 6, 7)
    norm = norm_of(kind).float()
    y = norm(x.bfloat16())
    assert y.dtype == torch.bfloat16 and norm.running_var.dtype == torch.float32
    torch.testing.assert_close(y.double(), norm_of(kind)(x.bfloat16().double()), rtol=0.02, atol=0.05)


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["norm=tebn"], 80),
        (["norm=tab"], 31_952),
        (["norm=tab", "norm.share_affine=true"], 80),
        (["norm=bntt"], 4 * 5_312 - 2 * 5_312),
    ],
)
def test_parameters_added_to_resnet19(words, extra):
    def count(*more):
        run = compose_run(["dataset=cifar10", "timesteps=4", *more])
        with torch.device("meta"):
            model = build_model(run, in_shape=(3, 32, 32), num_classes=10)
        assert isinstance(model, ResNet19)
        return sum(p.numel() for p in model.parameters())

    assert count(*words) - count() == extra


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["norm=tebn", "norm.alpha_v_threshold=true"], "norm.alpha_v_threshold"),
        (["norm.share_affine=true"], "norm.share_affine"),
        (["norm=tab", "norm.share_affine=null"], "norm.share_affine"),
    ],
)
def test_keys_of_another_norm_are_refused(words, key):
    with pytest.raises(ConfigError, match=key):
        compose_run(words)
