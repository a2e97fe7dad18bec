"""neuron=plif is SpikingJelly's ParametricLIFNode with ATan(2)."""

import pytest
import torch

from snnrepro.compose import compose_run


def test_plif_is_the_published_neuron():
    pytest.importorskip("spikingjelly")
    from spikingjelly.activation_based import functional, neuron, surrogate

    run = compose_run(["neuron=plif", "runtime.backend=reference"])
    ours = run.neuron.factory(run)().double()
    theirs = neuron.ParametricLIFNode(
        init_tau=2.0, v_threshold=1.0, v_reset=0.0, detach_reset=True, decay_input=True,
        surrogate_function=surrogate.ATan(2.0), step_mode="m",
    ).double()  # fmt: skip
    x = torch.randn(5, 4, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 + 1
    weight = torch.randn(5, 4, 30, dtype=torch.float64)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [ours(inputs[0]), theirs(inputs[1])]
    functional.reset_net(theirs)
    assert torch.equal(*outputs) and 0 < outputs[0].mean() < 1
    for o in outputs:
        (o * weight).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(ours.tau_raw.grad, theirs.w.grad, rtol=1e-6, atol=1e-9)
    assert "v_threshold_raw" not in dict(ours.named_parameters())
