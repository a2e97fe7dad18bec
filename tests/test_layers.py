"""Folding of time into the batch, time-shared dropout, the classifier."""

import pytest
import torch
from torch import nn

from snnrepro.layers import SequenceDropout, per_step


def sequence(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_folding_and_unfolding_is_the_identity():
    for x in (sequence(4, 3, 2, 5, 5), sequence(3, 4, 2).transpose(0, 1), sequence(1, 3, 2).expand(4, 3, 2)):
        assert torch.equal(per_step(lambda merged: merged, x), x)


@pytest.mark.parametrize("shape", [(4, 3, 2, 5, 5), (1, 3, 2, 5, 5), (4, 0, 2, 5, 5)])
def test_per_step_equals_a_loop_over_time(shape):
    torch.manual_seed(0)
    conv, x = nn.Conv2d(2, 6, 3, padding=1).double(), sequence(*shape).double()
    together = per_step(conv, x)
    assert together.shape == (*shape[:2], 6, 5, 5)
    torch.testing.assert_close(together, torch.stack([conv(step) for step in x]), rtol=1e-12, atol=1e-12)


def test_per_step_calls_the_module_once():
    calls = []
    per_step(lambda merged: calls.append(merged.shape) or merged, sequence(4, 3, 2))
    assert calls == [(12, 2)]


def test_dropout_mask_is_shared_over_time_and_drawn_per_sample():
    torch.manual_seed(0)
    x = torch.ones(5, 64, 40)
    y = SequenceDropout(0.25)(x)
    assert torch.equal(y, y[:1].expand_as(y))
    assert not torch.equal(y[0, 0], y[0, 1])
    assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert (y == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
    free = nn.Dropout(0.25)(x)
    assert not torch.equal(free, free[:1].expand_as(free))


def test_dropout_draws_a_mask_for_every_step_where_asked():
    torch.manual_seed(0)
    y = SequenceDropout(0.25, per_step=True)(torch.ones(5, 64, 40))
    assert not any(torch.equal(y[0], step) for step in y[1:])
    assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert (y == 0).float().mean((1, 2)).tolist() == pytest.approx([0.25] * 5, abs=0.04)


def test_dropout_is_the_identity_in_evaluation_and_at_zero():
    x = sequence(3, 4, 5)
    state = torch.get_rng_state()
    assert SequenceDropout(0.5).eval()(x) is x
    assert SequenceDropout(0.0, per_step=True)(x) is x
    assert torch.equal(torch.get_rng_state(), state)
