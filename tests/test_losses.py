"""Mean-logit cross-entropy."""

import math

import pytest
import torch
from torch.nn import functional as F

from snnrepro.losses import LOSSES, mean_logit_cross_entropy
from snnrepro.options import LOSSES as NAMES


def logits(timesteps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(timesteps, 6, 5, dtype=torch.float64, generator=generator, requires_grad=True)


TARGET = torch.tensor([0, 1, 2, 3, 4, 0])


def test_every_named_loss_exists():
    assert tuple(LOSSES) == NAMES


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
