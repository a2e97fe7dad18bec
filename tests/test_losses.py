"""The losses over logits, against formulae written out by hand in float64, and which logits predict."""

import math

import pytest
import torch
from torch.nn import functional as F

from snnrepro.compose import compose_run
from snnrepro.errors import ConfigError
from snnrepro.tasks.losses import (
    guided_cross_entropy,
    last_step,
    last_step_cross_entropy,
    mean_logit_cross_entropy,
    running_mean,
    temporal_consistency,
    temporal_efficient_training,
)


def logits(timesteps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(timesteps, 6, 5, dtype=torch.float64, generator=generator, requires_grad=True)


TARGET = torch.tensor([0, 1, 2, 3, 4, 0])


def log_softmax(row):
    """The definition, in plain Python floats."""
    total = math.log(sum(math.exp(value) for value in row))
    return [value - total for value in row]


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


def tet_by_hand(z, target, weight, phi):
    steps, batch, classes = z.shape
    rows = [(z[t, b].tolist(), target[b]) for t in range(steps) for b in range(batch)]
    entropy = -sum(log_softmax(row)[label] for row, label in rows) / (steps * batch)
    square = sum((value - phi) ** 2 for row, _ in rows for value in row) / (steps * batch * classes)
    return (1 - weight) * entropy + weight * square


@pytest.mark.parametrize("weight, phi", [(0.0, 1.0), (1e-3, 1.0), (0.3, 0.5)])
def test_tet_is_the_formula(weight, phi):
    z = logits(3)
    ours = temporal_efficient_training(z, TARGET, weight=weight, phi=phi).item()
    assert ours == pytest.approx(tet_by_hand(z, TARGET.tolist(), weight, phi), rel=1e-12)
    # Control: the cross-entropy of the mean is another loss, and so is another level.
    assert ours != pytest.approx(mean_logit_cross_entropy(z, TARGET).item(), rel=1e-3)
    if weight:
        assert ours != pytest.approx(tet_by_hand(z, TARGET.tolist(), weight, phi + 1), rel=1e-4)


def test_tet_bounds_the_mean_loss_and_equals_it_for_constant_logits():
    z = logits(4)
    assert temporal_efficient_training(z, TARGET, weight=0, phi=1) > mean_logit_cross_entropy(z, TARGET)
    constant = z[:1].expand(4, 6, 5)
    torch.testing.assert_close(
        temporal_efficient_training(constant, TARGET, weight=0, phi=1), mean_logit_cross_entropy(constant, TARGET)
    )
    one = logits(1)
    torch.testing.assert_close(
        temporal_efficient_training(one, TARGET, weight=0, phi=1), F.cross_entropy(one[0], TARGET)
    )


def test_tet_gives_every_step_its_own_gradient():
    z = logits(3)
    temporal_efficient_training(z, TARGET, weight=0, phi=1).backward()
    expected = (z.softmax(-1) - F.one_hot(TARGET, 5)) / 6 / 3
    torch.testing.assert_close(z.grad, expected.detach(), rtol=1e-12, atol=1e-15)
    assert not torch.allclose(z.grad[0], z.grad[1]), "control: the mean's gradient is the same at every step"


def test_lts_knows_the_last_step_only():
    z = logits(3)
    loss = last_step_cross_entropy(z, TARGET)
    by_hand = -sum(log_softmax(z[-1, b].tolist())[TARGET[b]] for b in range(6)) / 6
    assert loss.item() == pytest.approx(by_hand, rel=1e-12)
    loss.backward()
    assert torch.all(z.grad[:-1] == 0) and torch.all(z.grad[-1] != 0)
    control = logits(3)
    mean_logit_cross_entropy(control, TARGET).backward()
    assert torch.all(control.grad[:-1] != 0)
    one = logits(1)
    assert torch.equal(last_step_cross_entropy(one, TARGET), mean_logit_cross_entropy(one, TARGET))


def guidance_by_hand(z, temperature):
    total = 0.0
    for t in range(1, z.shape[0]):
        for b in range(z.shape[1]):
            p, q = (log_softmax((z[s, b] / temperature).tolist()) for s in (t - 1, t))
            total += sum(math.exp(a) * (a - c) for a, c in zip(p, q, strict=True)) / z.shape[1]
    return total


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_guidance_is_the_sum_of_divergences_of_adjacent_steps(temperature):
    z = logits(4)
    ours = temporal_consistency(z, temperature=temperature).item()
    assert ours == pytest.approx(guidance_by_hand(z, temperature), rel=1e-12)
    # Control: the divergence is not symmetric, so the order of the steps shows.
    assert ours != pytest.approx(guidance_by_hand(z.flip(0), temperature), rel=1e-3)
    total = guided_cross_entropy(z, TARGET, weight=0.7, temperature=temperature)
    assert total.item() == pytest.approx(mean_logit_cross_entropy(z, TARGET).item() + 0.7 * ours, rel=1e-12)
    assert torch.autograd.gradcheck(lambda values: temporal_consistency(values, temperature=temperature), z)


def test_guidance_vanishes_for_constant_logits_and_for_one_step():
    z = logits(1)
    assert temporal_consistency(z.expand(4, 6, 5), temperature=2.0).item() == pytest.approx(0, abs=1e-15)
    assert temporal_consistency(z, temperature=2.0).item() == 0
    loss = guided_cross_entropy(z, TARGET, weight=1.0, temperature=2.0)
    assert torch.equal(loss, mean_logit_cross_entropy(z, TARGET))


def test_readouts_after_every_step():
    z = logits(4).detach()
    for t in range(4):
        torch.testing.assert_close(running_mean(z)[t] / (t + 1), z[: t + 1].mean(0))
        assert torch.equal(last_step(z)[t], z[t])
    assert not torch.equal(running_mean(z).argmax(-1), last_step(z).argmax(-1)), "control: the two predict differently"


@pytest.mark.parametrize(
    "words, value, readout",
    [
        (["loss=ce"], lambda z, y: mean_logit_cross_entropy(z, y).item(), running_mean),
        (["loss=rmp"], lambda z, y: mean_logit_cross_entropy(z, y).item(), running_mean),
        (["loss=lts"], lambda z, y: last_step_cross_entropy(z, y).item(), last_step),
        (["loss=tet"], lambda z, y: tet_by_hand(z, y.tolist(), 1e-3, 1.0), running_mean),
        (["loss=tet", "loss.tet_weight=0.05"], lambda z, y: tet_by_hand(z, y.tolist(), 0.05, 1.0), running_mean),
        (
            ["loss=mps", "loss.mps_weight=0.3", "loss.mps_temperature=3"],
            lambda z, y: mean_logit_cross_entropy(z, y).item() + 0.3 * guidance_by_hand(z, 3.0),
            running_mean,
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_configuration_builds_its_loss(words, value, readout):
    loss, z = compose_run(words).loss.build(), logits(3)
    assert loss(z, TARGET).item() == pytest.approx(value(z, TARGET), rel=1e-12)
    assert loss.readout is readout


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["loss.tet_weight=0.1"], "loss.tet_weight"),
        (["loss=tet", "loss.tet_weight=1.5"], "loss.tet_weight"),
        (["loss=tet", "loss.tet_target=null"], "loss.tet_target"),
        (["loss=mps", "loss.mps_temperature=0"], "loss.mps_temperature"),
        (["loss=tte"], "loss"),
    ],
)
def test_impossible_losses_are_refused(words, key):
    with pytest.raises(ConfigError, match=key):
        compose_run(words)
