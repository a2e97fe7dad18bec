"""The three gradient families against one another: equal at V = 1, and trsg as rs_sg in other coordinates."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from snnrepro.layers import SequenceDropout, per_step
from snnrepro.models.resnet19 import ResNet19
from snnrepro.neurons import LIF, spiking_layers
from snnrepro.neurons.functional import lif
from snnrepro.norms import TdBN, make_tdbn
from snnrepro.options import FAMILIES, RESETS, SURROGATES


def make_neuron(family, v_threshold, *, surrogate="rectangular", gamma=1.0, reset="soft"):
    return LIF(
        family=family,
        surrogate=surrogate,
        gamma=gamma,
        reset=reset,
        detach_reset=False,
        v_threshold=v_threshold,
        tau=2.0,
        learn_threshold=False,
        learn_tau=False,
        mp_init=True,
        beta=0.9,
        backend="reference",
    )


def layer_run(family, v_threshold, surrogate, reset):
    """Output, weight gradient and u_init of linear -> LIF -> linear, float32, frozen scalars."""
    generator = torch.Generator().manual_seed(11)
    x, grad = torch.rand(4, 16, 12, generator=generator), torch.randn(4, 16, 5, generator=generator)
    weights = [torch.randn(shape, generator=generator) for shape in ((20, 12), (5, 20))]
    for weight in weights:
        weight.requires_grad_()
    neuron = make_neuron(family, v_threshold, surrogate=surrogate, reset=reset)
    output = F.linear(neuron(F.linear(x, weights[0])), weights[1])
    output.backward(grad)
    return output.detach(), weights[0].grad, weights[1].grad, neuron.u_init


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_one_layer_is_bitwise_equal_at_frozen_threshold_one(surrogate, reset):
    base, *others = (layer_run(family, 1.0, surrogate, reset) for family in FAMILIES)
    assert base[1].abs().max() > 0
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(base, other, strict=True))
    different = [layer_run(family, 0.9, surrogate, reset)[1] for family in FAMILIES]
    assert not torch.equal(different[0], different[1])
    assert not torch.equal(different[1], different[2])


def network_run(family, v_threshold):
    """Logits and all weight gradients of a small ResNet-19 in two training steps, float32."""
    torch.manual_seed(0)
    model = ResNet19(
        in_shape=(3, 8, 8),
        num_classes=4,
        stem_width=4,
        widths=(4, 8, 8),
        blocks=(2, 1, 1),
        head="official",
        hidden=4,
        make_dropout=partial(SequenceDropout, 0.0),
        timesteps=3,
        mean_over_time=True,
        make_neuron=partial(make_neuron, family, v_threshold),
        make_norm=partial(
            make_tdbn,
            eps=1e-5,
            momentum=0.1,
        ),
    )
    found = []
    for step in range(2):
        image = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        model.zero_grad()
        logits = model(image)
        F.cross_entropy(logits, torch.arange(6) % 4).backward()
        found += [logits.detach(), *(p.grad for p in model.parameters())]
    return found + [layer.u_init for _, layer in spiking_layers(model)]


def test_resnet19_is_bitwise_equal_at_frozen_threshold_one():
    base, *others = (network_run(family, 1.0) for family in FAMILIES)
    assert all(tensor.abs().max() > 0 for tensor in base)
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(base, other, strict=True))
    different = [network_run(family, 0.8)[0] for family in FAMILIES]
    assert torch.equal(different[0], different[1])  # as_sg and rs_sg differ in the gradient only
    assert not torch.equal(different[1], different[2])


THRESHOLDS = (0.22, 1.6, 0.7, 1.1)


def chain(family, weights, readout, thresholds, *, norm, skip, omit_skip=False):
    """Currents, outputs and loss of four conv-norm-LIF layers; every second layer adds the identity.

    Under rs_sg the caller's weights already carry the threshold of the layer before; the identity edges, which have
    no weight, get it here.
    """
    generator = torch.Generator().manual_seed(2)
    o = torch.rand(3, 4, 2, 6, 6, dtype=torch.float64, generator=generator)
    options = {"timesteps": 3, "surrogate": "rectangular", "gamma": 1.0, "reset": "soft", "detach_reset": False}
    currents, outputs = [], []
    for index, (weight, threshold) in enumerate(zip(weights, thresholds, strict=True)):
        current = per_step(partial(F.conv2d, weight=weight, padding=1), o)
        if norm != "none":
            layer = TdBN(weight.shape[0], eps=1e-12, momentum=0.1, scale=1.0).double()
            with torch.no_grad():
                layer.weight.fill_(2.0)
                layer.bias.fill_(1.0)
            current = layer.train(norm == "train")(current)
        if skip and index in (1, 3):
            edge = thresholds[index - 1] if family == "rs_sg" and not omit_skip else 1
            current = current + edge * o
        current.retain_grad()
        scalars = (torch.tensor(0.1, dtype=torch.float64), threshold, torch.tensor(2.0, dtype=torch.float64))
        o = lif(current, *scalars, family=family, backend="reference", **options).o
        currents.append(current)
        outputs.append(o)
    loss = (F.linear(o.mean((0, 3, 4)), readout) ** 2).sum()
    return currents, outputs, loss


def chain_leaves():
    generator = torch.Generator().manual_seed(1)
    shapes = [(5, 2, 3, 3), *[(5, 5, 3, 3)] * 3, (3, 5)]
    # a positive mean keeps every layer firing without a norm
    weights = [torch.randn(shape, dtype=torch.float64, generator=generator) + 0.2 for shape in shapes]
    for weight in weights:
        weight.requires_grad_()
    thresholds = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in THRESHOLDS]
    return weights, thresholds


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("norm", ["none", "train", "eval"])
def test_trsg_is_rs_sg_with_the_threshold_in_the_next_weight(norm, skip):
    weights, thresholds = chain_leaves()
    currents, outputs, loss = chain("trsg", weights[:4], weights[4], thresholds, norm=norm, skip=skip)
    loss.backward()

    plain, free = chain_leaves()
    # the first layer reads the input, which no threshold scales
    scaled = [plain[0], *(threshold * weight for threshold, weight in zip(free, plain[1:], strict=True))]
    for tensor in scaled:
        tensor.retain_grad()
    rs_currents, rs_outputs, rs_loss = chain("rs_sg", scaled[:4], scaled[4], free, norm=norm, skip=skip)
    rs_loss.backward()

    close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-13)
    close(loss, rs_loss)
    for output, rs_output in zip(outputs, rs_outputs, strict=True):
        assert 0.02 < rs_output.mean() < 0.98
        assert torch.equal(output > 0, rs_output > 0)
    for current, rs_current in zip(currents, rs_currents, strict=True):
        close(current.grad, rs_current.grad)
    close(weights[0].grad, scaled[0].grad)
    for weight, threshold, tensor in zip(weights[1:], thresholds, scaled[1:], strict=True):
        assert weight.grad.abs().max() > 1e-9
        close(weight.grad, threshold * tensor.grad)
    for threshold, other in zip(thresholds, free, strict=True):
        close(threshold.grad, other.grad)


def test_identity_edge_needs_the_threshold_too():
    weights, thresholds = chain_leaves()
    _, outputs, _ = chain("trsg", weights[:4], weights[4], thresholds, norm="eval", skip=True)
    plain, free = chain_leaves()
    scaled = [plain[0], *(threshold * weight for threshold, weight in zip(free, plain[1:], strict=True))]
    _, wrong, _ = chain("rs_sg", scaled[:4], scaled[4], free, norm="eval", skip=True, omit_skip=True)
    assert not torch.equal(outputs[1] > 0, wrong[1] > 0)
