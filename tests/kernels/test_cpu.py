"""The C++ kernels against autograd of the reference in float64, alone and behind batch norm, inside guarded memory."""

from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernels.guards import GuardedTorch
from kernels.oracle import (
    RELATIVE,
    RULES,
    layer_errors_of,
    lif_errors_of,
    reference,
    scalars,
)

from snnrepro.neurons.dynamics import Dynamics
from snnrepro.neurons.kernels.cpu import backend as compiled

pytestmark = pytest.mark.slow
TRSG = Dynamics(3, "trsg", "triangular", 1.0, "soft", False)
WINDOWS = [TRSG._replace(timesteps=timesteps) for timesteps in (1, 8, 9, 16, 17, 32)]
FEW = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(autouse=True)
def memory(monkeypatch):
    """The backend's allocations, poisoned and guarded; afterwards the guards are intact."""
    guards = GuardedTorch()
    monkeypatch.setattr(compiled, "torch", guards)
    yield guards
    assert guards.damaged() == 0


def name_of(dyn):
    return "-".join(map(str, dyn))


lif_errors = partial(lif_errors_of, compiled)


@pytest.mark.parametrize("dyn", RULES + WINDOWS, ids=name_of)
def test_lif_of_all_rules(dyn):
    for n, static in ((1, False), (333, False), (333, True)):
        assert max(lif_errors(dyn, n, static=static)) < 1e-5


@pytest.mark.parametrize("threads", [1, 2])
@FEW
@given(n=st.integers(1, 100), static=st.booleans(), dtype=st.sampled_from(list(RELATIVE)), seed=st.integers(0, 99))
def test_lif_of_all_sizes_and_precisions(threads, n, static, dtype, seed):
    torch.set_num_threads(threads)
    of_x, of_scalars = lif_errors(TRSG, n, dtype, static, seed)
    assert of_x < RELATIVE[dtype] and of_scalars < 1e-5


@pytest.mark.parametrize(
    "wrong", [{"family": "rs_sg"}, {"surrogate": "arctan"}, {"detach_reset": True}, {"gamma": 1.5}], ids=str
)
def test_other_rules_are_noticed(wrong):
    assert max(lif_errors(TRSG, 300)) < 1e-5
    assert max(lif_errors(TRSG, 300, kernel_dyn=TRSG._replace(**wrong))) > 1e-3


norm_lif_errors = partial(layer_errors_of, "compiled")


@FEW
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 20), st.integers(1, 40)),
    dtype=st.sampled_from(list(RELATIVE)),
    static=st.booleans(),
    channels_last=st.booleans(),
    shortcut=st.integers(0, 2),
    threads=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_norm_lif(shape, dtype, static, channels_last, shortcut, threads, seed):
    torch.set_num_threads(threads)
    for name, error in norm_lif_errors(TRSG, shape, dtype, static, channels_last, shortcut, seed).items():
        # Mean and variance are rounded before the kernel sees them, and the inputs are far from their mean.
        assert error < (max(RELATIVE[dtype], 3e-5) if name in ("y", "shortcut") else 3e-5), (name, error)


@pytest.mark.parametrize("channels_last", [False, True])
def test_many_positions_on_two_threads(channels_last):
    torch.set_num_threads(2)
    errors = norm_lif_errors(TRSG, (40, 24, 300), torch.float32, False, channels_last, 2, 0)
    assert max(errors.values()) < 3e-5, errors


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_half_precision_number_is_read_and_written_as_torch_does(dtype):
    """With a window of one step, a constant derivative of 1 and no reset, gx = leak * go."""
    dyn = Dynamics(1, "as_sg", "linear", 1.0, "soft", True)
    go = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)[None]
    x = torch.zeros_like(go)
    for leak in (1.0, 0.337, 3.7):
        given = (torch.tensor(0.0), torch.tensor(1e-30), torch.tensor(leak))
        _, spikes, *_ = compiled.lif_forward(x, *given, dyn)
        gx, _ = compiled.lif_backward(go, x, spikes, *given, dyn)
        # Sums with the zeros of an empty window make +0 of -0.
        expected = ((go.float() + 0) * leak).to(dtype)
        assert torch.equal(gx.isnan(), expected.isnan())
        assert torch.equal(gx[~gx.isnan()].view(torch.int16), expected[~gx.isnan()].view(torch.int16))


@pytest.mark.parametrize("v", [1e-45, 1e-38, 1e-4, 1e4, 3e38])
@pytest.mark.parametrize("family", ["as_sg", "rs_sg", "trsg"])
def test_extreme_thresholds_and_values_stay_in_their_neuron(v, family):
    dyn = TRSG._replace(family=family)
    x = torch.tensor([0.0, 1e-40, 1e38, torch.inf, -torch.inf, torch.nan, 1.0]).expand(3, 7).contiguous()
    given = [torch.tensor(0.1), torch.tensor(v), torch.tensor(0.5)]
    o, spikes, *_ = compiled.lif_forward(x, *given, dyn)
    expected = reference(x, given, dyn).o
    assert torch.equal(o, expected) and spikes[5] == 0
    gx, _ = compiled.lif_backward(torch.ones(3, 7), x, spikes, *given, dyn)
    assert gx[:, [0, 1, 6]].isfinite().all(), "a NaN left its neuron"


def test_sums_of_many_neurons_are_exact_enough():
    """A float32 sum of 2**22 equal values would be off by far more."""
    x = torch.full((3, 2**22), 1.3)
    _, _, u_sum, count = compiled.lif_forward(x, *scalars(), TRSG)
    one = compiled.lif_forward(x[:, :1].contiguous(), *scalars(), TRSG)
    assert count == 2**22 * one[3]
    assert u_sum.item() == pytest.approx(2**22 * one[2].item(), rel=1e-6)
