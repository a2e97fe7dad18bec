"""The losses against their definitions."""

import math

import pytest
import torch
from torch.nn import functional as F

from snnrepro.build import build_loss
from snnrepro.compose import compose_run
from snnrepro.errors import ConfigError
from snnrepro.losses import mean_logit_cross_entropy, temporal_efficient_training


def logits(timesteps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(timesteps, 6, 5, dtype=torch.float64, generator=generator, requires_grad=True)


TARGET = torch.tensor([0, 1, 2, 3, 4, 0])


def tet(z, weight=0.0, target=1.0):
    return temporal_efficient_training(z, TARGET, mse_weight=weight, mse_target=target)


def test_the_configured_loss_is_built():
    z = logits(3)
    assert torch.equal(build_loss(compose_run([]))(z, TARGET), mean_logit_cross_entropy(z, TARGET))
    words = ["loss=tet", "loss.mse_weight=0.25", "loss.mse_target=-0.5"]
    assert torch.equal(build_loss(compose_run(words))(z, TARGET), tet(z, 0.25, -0.5))


def test_hand_computed():
    # the mean over time is (log 3, 0): probabilities 3/4 and 1/4
    z = torch.tensor([[[2 * math.log(3), -1.0]], [[0.0, 1.0]]])
    assert mean_logit_cross_entropy(z, torch.tensor([0])).item() == pytest.approx(-math.log(0.75), rel=1e-6)
    assert mean_logit_cross_entropy(z, torch.tensor([1])).item() == pytest.approx(-math.log(0.25), rel=1e-6)


def test_one_step_is_cross_entropy():
    z = logits(1)
    assert torch.equal(mean_logit_cross_entropy(z, TARGET), F.cross_entropy(z[0], TARGET))


def test_never_above_the_mean_of_the_per_step_losses():
    # convexity: equal where the logits do not change over time, below elsewhere
    z = logits(4)
    per_step = torch.stack([F.cross_entropy(step, TARGET) for step in z]).mean()
    assert mean_logit_cross_entropy(z, TARGET) < per_step
    constant = z[:1].expand(4, 6, 5)
    torch.testing.assert_close(mean_logit_cross_entropy(constant, TARGET), F.cross_entropy(z[0], TARGET))


def test_every_step_gets_the_same_gradient():
    z = logits(3)
    mean_logit_cross_entropy(z, TARGET).backward()
    expected = (z.mean(0).softmax(-1) - F.one_hot(TARGET, 5)) / 6 / 3
    torch.testing.assert_close(z.grad, expected.detach().expand_as(z), rtol=1e-12, atol=1e-15)
    assert torch.autograd.gradcheck(lambda values: mean_logit_cross_entropy(values, TARGET), z)


def test_tet_is_its_definition():
    z = logits(4)
    log_p = z - z.exp().sum(-1, keepdim=True).log()
    terms = [-log_p[t, b, label] for t in range(4) for b, label in enumerate(TARGET.tolist())]
    expected = 0.9 * torch.stack(terms).mean() + 0.1 * ((z - 2.0) ** 2).sum() / z.numel()
    torch.testing.assert_close(tet(z, 0.1, 2.0), expected, rtol=1e-12, atol=0)
    # Control: labels repeated per sample instead of per step pair every logit with the wrong label.
    wrong = F.cross_entropy(z.flatten(0, 1), TARGET.repeat_interleave(4))
    assert abs(wrong - tet(z)) > 0.01


def test_tet_of_one_step_is_cross_entropy():
    z = logits(1)
    torch.testing.assert_close(tet(z), F.cross_entropy(z[0], TARGET))


def test_tet_is_never_below_the_cross_entropy_of_the_mean():
    for seed in range(5):
        z = logits(4, seed)
        assert tet(z) > mean_logit_cross_entropy(z, TARGET)
    constant = logits(1).expand(4, 6, 5)
    torch.testing.assert_close(tet(constant), mean_logit_cross_entropy(constant, TARGET))


def test_tet_supervises_every_step_by_itself():
    z = logits(3)
    (grad,) = torch.autograd.grad(tet(z), z)
    expected = (z.softmax(-1) - F.one_hot(TARGET, 5)) / 6 / 3
    torch.testing.assert_close(grad, expected, rtol=1e-12, atol=1e-15)
    assert torch.autograd.gradcheck(lambda values: tet(values, 0.2), z)


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["loss.mse_weight=0.1"], "loss.mse_weight"),
        (["loss=tet", "loss.mse_weight=1.5"], "loss.mse_weight"),
        (["loss=tet", "loss.mse_target=null"], "loss.mse_target"),
        (["loss=tte"], "loss"),
    ],
)
def test_impossible_losses_are_refused(words, key):
    with pytest.raises(ConfigError, match=key):
        compose_run(words)
