"""tdBN against torch's BatchNorm in other arrangements, and the genuine alpha * V variant."""

import math

import pytest
import torch
from torch import nn

from snnrepro.norms import TdBN, make_tdbn

MAKE = {"eps": 1e-5, "momentum": 0.1}


def sequence(*shape, seed=0):
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 1


def randomise(norm, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return norm.double()


def make(channels, residual=False, alpha_v_threshold=False, v_threshold=1.0):
    return make_tdbn(channels, residual, v_threshold=v_threshold if alpha_v_threshold else None, **MAKE)


def train_step(norm, x, weight):
    x = x.clone().requires_grad_()
    y = norm(x)
    grads = torch.autograd.grad(y, (x, *norm.parameters()), weight)
    return y.detach(), grads


def test_equals_batchnorm3d_in_training_and_evaluation():
    x, weight = sequence(4, 3, 5, 6, 7), sequence(4, 3, 5, 6, 7, seed=2)
    ours, theirs = randomise(make(5)), randomise(nn.BatchNorm3d(5, **MAKE))

    def in_volume(volume_norm, tensor):
        return volume_norm(tensor.permute(1, 2, 0, 3, 4)).permute(2, 0, 1, 3, 4)

    y, grads = train_step(ours, x, weight)
    x3 = x.clone().requires_grad_()
    y3 = in_volume(theirs, x3)
    torch.testing.assert_close(y, y3.detach(), rtol=1e-12, atol=1e-12)
    expected = torch.autograd.grad(y3, (x3, *theirs.parameters()), weight)
    for left, right in zip(grads, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-11)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-12, atol=1e-12)
    y, y3 = ours.eval()(x), in_volume(theirs.eval(), x)
    torch.testing.assert_close(y, y3, rtol=1e-12, atol=1e-12)


def test_one_step_is_batchnorm2d():
    x = sequence(1, 4, 3, 5, 5)
    ours, theirs = randomise(make(3)), randomise(nn.BatchNorm2d(3, **MAKE))
    assert torch.equal(ours(x)[0], theirs(x[0]))
    assert torch.equal(ours.running_var, theirs.running_var)


def test_running_statistics_move_once_per_batch_with_the_unbiased_variance():
    x = sequence(4, 3, 2, 5, 5)
    norm = make(2).double()
    norm(x)
    pooled = x.transpose(0, 2).flatten(1)
    torch.testing.assert_close(norm.running_mean, 0.1 * pooled.mean(1))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * pooled.var(1, unbiased=True))
    assert norm.num_batches_tracked == 1
    before = norm.running_mean.clone()
    norm.eval()(x)
    assert torch.equal(norm.running_mean, before)


def test_permuting_time_permutes_the_output():
    x, order = sequence(4, 3, 2, 5, 5), torch.tensor([2, 0, 3, 1])
    norm = randomise(make(2))
    torch.testing.assert_close(norm(x)[order], norm(x[order]), rtol=1e-12, atol=1e-12)
    drifting = x * torch.arange(1, 5).view(-1, 1, 1, 1, 1)
    per_step = torch.stack([make(2).double()(step[None])[0] for step in drifting])
    assert not torch.allclose(make(2).double()(drifting), per_step)


@pytest.mark.parametrize(("residual", "alpha"), [(False, 1.0), (True, 1 / math.sqrt(2))])
@pytest.mark.parametrize("v_threshold", [0.5, 1.0, 2.0])
def test_genuine_variant_has_standard_deviation_alpha_v_per_channel(v_threshold, residual, alpha):
    x = sequence(4, 8, 3, 6, 6) * torch.tensor([0.5, 2.0, 7.0]).view(-1, 1, 1)
    norm = make(3, residual, alpha_v_threshold=True, v_threshold=v_threshold).double()
    spread = norm(x).transpose(0, 2).flatten(1).std(1, unbiased=False)
    torch.testing.assert_close(spread, torch.full((3,), alpha * v_threshold, dtype=torch.float64), rtol=1e-4, atol=0)
    plain = make(3, residual, v_threshold=v_threshold).double()
    spread = plain(x).transpose(0, 2).flatten(1).std(1, unbiased=False)
    torch.testing.assert_close(spread, torch.ones(3, dtype=torch.float64), rtol=1e-4, atol=0)


def test_genuine_variant_scales_the_weight_but_not_the_bias():
    # y = weight * (scale * x_hat) + bias: a plain norm whose weight carries the scale, gradients included
    x, upstream = sequence(3, 4, 2, 5, 5), sequence(3, 4, 2, 5, 5, seed=3)
    norm = randomise(make(2, residual=True, alpha_v_threshold=True, v_threshold=1.7))
    plain = randomise(make(2))
    scale = 1.7 / math.sqrt(2)
    with torch.no_grad():
        plain.weight.mul_(scale)
    y, (grad_x, grad_weight, grad_bias) = train_step(norm, x, upstream)
    expected, (expected_x, expected_weight, expected_bias) = train_step(plain, x, upstream)
    close = {"rtol": 1e-11, "atol": 1e-11}
    torch.testing.assert_close(y, expected, **close)
    torch.testing.assert_close(grad_x, expected_x, **close)
    torch.testing.assert_close(grad_weight, scale * expected_weight, **close)
    torch.testing.assert_close(grad_bias, expected_bias, **close)
    assert torch.autograd.gradcheck(norm.eval(), x[:1, :1, :, :2, :2].clone().requires_grad_())


def test_gradient_of_the_genuine_variant_against_finite_differences():
    norm = randomise(make(2, alpha_v_threshold=True, v_threshold=0.6))
    x = sequence(2, 2, 2, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(norm, x)


def test_repr_and_time_sharing():
    assert TdBN.time_shared
    assert "scale=0.7071" in repr(make(2, True, alpha_v_threshold=True))


@pytest.mark.parametrize("genuine", [False, True])
def test_eval_affine_is_the_map_of_evaluation_mode(genuine):
    norm = randomise(make(3, True, alpha_v_threshold=genuine, v_threshold=0.6))
    norm(sequence(4, 5, 3, 6, 6))
    scale, shift = norm.eval().eval_affine()
    assert scale.shape == shift.shape == (1, 3) and not scale.requires_grad and not shift.requires_grad
    x = sequence(2, 3, 3, 4, 4, seed=5)
    mapped = x * scale.view(1, 1, 3, 1, 1) + shift.view(1, 1, 3, 1, 1)
    torch.testing.assert_close(mapped, norm(x).detach(), rtol=1e-11, atol=1e-11)
