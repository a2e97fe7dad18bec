"""Softplus and 1/sigmoid with their inverses: exact where it matters, stable over the whole range."""

import math

import pytest
import torch

from snnrepro.neurons.reparam import inverse_sigmoid, inverse_softplus, raw_of_tau, softplus


@pytest.mark.parametrize("exponent", range(-8, 5))
@pytest.mark.parametrize("mantissa", [1.0, 1.7, 3.3, 9.1])
def test_threshold_comes_back(exponent, mantissa):
    value = min(mantissa * 10.0**exponent, 1e4)
    raw = torch.tensor(inverse_softplus(value))
    assert raw.dtype == torch.float32
    assert softplus(raw).item() == pytest.approx(value, rel=1e-6)
    assert softplus(torch.tensor(inverse_softplus(value), dtype=torch.float64)).item() == pytest.approx(
        value, rel=1e-12
    )


@pytest.mark.parametrize("exponent", range(-8, 5))
@pytest.mark.parametrize("mantissa", [1.0, 1.7, 3.3, 9.1])
def test_tau_comes_back(exponent, mantissa):
    value = 1 + min(mantissa * 10.0**exponent, 1e4)
    assert inverse_sigmoid(torch.tensor(raw_of_tau(value))).item() == pytest.approx(value, rel=1e-6)


def test_the_naive_inverse_overflows_where_this_one_does_not():
    with pytest.raises(OverflowError):
        math.log(math.exp(710) - 1)
    assert inverse_softplus(710.0) == 710
    assert softplus(torch.tensor(inverse_softplus(1e30))).item() == pytest.approx(1e30, rel=1e-6)


def test_the_papers_initial_values_are_exact():
    assert inverse_softplus(1.0) == pytest.approx(0.541325, abs=1e-6)
    assert softplus(torch.tensor(inverse_softplus(1.0))).item() == 1
    assert inverse_sigmoid(torch.tensor(raw_of_tau(2.0))).item() == 2
    assert raw_of_tau(1.33) == pytest.approx(1.1087, abs=1e-4)


def test_weight_decay_pulls_to_log_two_and_two():
    zero = torch.tensor(0.0)
    assert softplus(zero).item() == pytest.approx(math.log(2), rel=1e-7)
    assert inverse_sigmoid(zero).item() == 2


def test_derivatives():
    raw = torch.tensor(inverse_softplus(1.0), dtype=torch.float64, requires_grad=True)
    softplus(raw).backward()
    assert raw.grad.item() == pytest.approx(1 - math.exp(-1), rel=1e-12)
    raw = torch.tensor(raw_of_tau(2.0), dtype=torch.float64, requires_grad=True)
    (1 / inverse_sigmoid(raw)).backward()
    assert raw.grad.item() == pytest.approx(0.25, rel=1e-12)
    for scale in (-50.0, 50.0):
        raw = torch.tensor(scale, requires_grad=True)
        (softplus(raw) + inverse_sigmoid(raw)).backward()
        assert raw.grad.isfinite()
