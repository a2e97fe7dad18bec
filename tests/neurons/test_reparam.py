"""Softplus and 1/sigmoid with their inverses: exact where it matters, stable over the whole range."""

import math

import pytest
import torch

from snnrepro.neurons import reparam
from snnrepro.neurons.reparam import THRESHOLD_MAPS, inverse_sigmoid, inverse_softplus, raw_of_tau, softplus


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


RAW = [*torch.linspace(-20, 20, 400).tolist(), -math.inf, math.inf, math.nan, -1e4, -88.5, -100.0, 100.0, 1e4]


@pytest.mark.parametrize("threshold_map", THRESHOLD_MAPS)
def test_what_kernels_read_is_what_the_maps_give(threshold_map):
    to_v_threshold, u_init = THRESHOLD_MAPS[threshold_map].of_tensor, torch.tensor(0.3)
    for raw in map(torch.tensor, RAW):
        expected = torch.stack([u_init, to_v_threshold(raw), 1 / inverse_sigmoid(raw)])
        for compute in (reparam.kernel_scalars, reparam._scalars_on_device):
            found = compute(u_init, raw, raw, threshold_map)
            torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    given = torch.tensor([0.3, 0.7, 0.4])
    assert torch.equal(reparam.kernel_scalars(*given, None), given)


@pytest.mark.parametrize("threshold_map", THRESHOLD_MAPS)
@pytest.mark.parametrize("device", ["host", "device"])
def test_gradients_go_through_the_maps(threshold_map, device, monkeypatch):
    if device == "device":
        monkeypatch.setattr(reparam, "_slopes_on_host", reparam._slopes_on_device)
    gradients = torch.tensor([2.0, 3.0, 5.0])
    for value in (-8.0, -1.0, 0.0, 0.5, 4.0):
        raw = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.3, value, value / 2)]
        mapped = raw[0], THRESHOLD_MAPS[threshold_map].of_tensor(raw[1]), 1 / inverse_sigmoid(raw[2])
        expected = torch.autograd.grad(torch.stack(mapped), raw, gradients.double())
        scalars = reparam.kernel_scalars(*(x.detach().float() for x in raw), threshold_map)
        found = reparam.raw_gradients(gradients, scalars, threshold_map)
        torch.testing.assert_close(found.double(), torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert reparam.raw_gradients(gradients, scalars, None) is gradients
