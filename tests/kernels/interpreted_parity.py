"""The Triton kernels against autograd of the reference in float64, with batch norm in front, inside guarded memory.

Run by ``test_interpreter.py``, like ``interpreted.py``.
"""

from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernels.guards import GuardedTorch, guarded
from kernels.oracle import (
    RELATIVE,
    assert_same_spikes,
    assert_statistics,
    distance,
    exact,
    last_rows,
    lif_errors_of,
    norm_case,
    normalise,
    reference,
    risky,
    scalars,
)

from snnrepro.neurons.dynamics import Dynamics
from snnrepro.neurons.kernels.triton import backend
from snnrepro.options import FAMILIES, RESETS, SURROGATES

# The interpreter computes with NumPy, which warns of the overflows that the extreme values are there for.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FEW = settings(
    max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
dynamics = st.builds(
    Dynamics,
    timesteps=st.integers(1, 16),
    family=st.sampled_from(FAMILIES),
    surrogate=st.sampled_from(SURROGATES),
    gamma=st.sampled_from([0.5, 1.0, 1.7]),
    reset=st.sampled_from(RESETS),
    detach_reset=st.booleans(),
)


@pytest.fixture(autouse=True)
def memory(monkeypatch):
    """The backend's allocations, poisoned and guarded; afterwards the guards are intact."""
    guards = GuardedTorch()
    monkeypatch.setattr(backend, "torch", guards)
    yield guards
    assert guards.damaged() == 0


lif_errors = partial(lif_errors_of, backend)


@FEW
@given(
    dyn=dynamics, n=st.integers(1, 700), dtype=st.sampled_from(DTYPES), static=st.booleans(), seed=st.integers(0, 99)
)
def test_lif(dyn, n, dtype, static, seed):
    of_x, of_scalars = lif_errors(dyn, n, dtype, static, seed)
    assert of_x < RELATIVE[dtype] and of_scalars < 1e-5


@pytest.mark.parametrize(
    "wrong", [{"family": "rs_sg"}, {"surrogate": "sigmoid"}, {"reset": "hard"}, {"detach_reset": True}, {"gamma": 1.01}]
)
def test_a_wrong_option_shows(wrong):
    dyn = Dynamics(4, "trsg", "triangular", 1.0, "soft", False)
    assert max(lif_errors(dyn, 200, torch.float32, False, 0)) < 1e-5
    assert max(lif_errors(dyn, 200, torch.float32, False, 0, dyn._replace(**wrong))) > 1e-3


def norm_lif_errors(dyn, shape, dtype, static, channels_last, shortcut, seed):
    """Runs both; returns the relative errors {name: error} and checks outputs on the way.

    shortcut: 0 none, 1 plain, 2 with a norm of its own.
    """
    y, side, go, affine = norm_case(dyn, shape, dtype, static, channels_last, seed)
    y64, side64, *rest = exact(y, side, *affine, *scalars())
    affine64, scalars64 = rest[:4], rest[4:]
    x64, *rows = normalise(y64, *affine64[:2], channels_last)
    more, *rows2 = normalise(side64, *affine64[2:], channels_last)
    x64 = x64 + (0, side64, more)[shortcut]
    unsure = risky(x64.detach(), *(s.detach() for s in scalars64), dyn)
    go = guarded((go * ~unsure).to(dtype))
    result = reference(x64, scalars64, dyn)
    table, table2 = (torch.stack(r).detach().float() for r in (rows, rows2))
    side = side if shortcut else None
    rest = (guarded(table), side, guarded(table2) if shortcut == 2 else None, *scalars(), dyn, channels_last)
    o, spikes, u_sum, count = backend.norm_lif_forward(y, *rest)
    assert_same_spikes(o, spikes, result.o, unsure)
    assert_statistics(u_sum, count, result, unsure)
    assert torch.equal(backend.norm_lif_infer(y, *rest), o)
    sums, gscalars = backend.norm_lif_reduce(go, y, spikes, *rest)
    per_channel = y.numel() // shape[1]
    table5 = guarded(last_rows(table, sums[0], sums[1], affine[0], per_channel))
    table25 = guarded(last_rows(table2, sums[0], sums[2], affine[2], per_channel)) if shortcut == 2 else None
    gy, gside = backend.norm_lif_backward(go, y, spikes, table5, side, table25, *scalars(), dyn, channels_last)
    g, gy64, gside64, gweight, gbias, gweight2, _, *gscalars64 = torch.autograd.grad(
        result.o, (x64, y64, side64, *affine64, *scalars64), go.double(), allow_unused=True, materialize_grads=True
    )
    size = 2 * g.norm().item() + 1e-2 * go.double().norm().item()
    errors = {
        "y": distance(gy, gy64, size),
        "weight": distance(sums[1] * table[1] / affine[0], gweight, size),
        "bias": distance(sums[0], gbias, size),
        "scalars": distance(gscalars, torch.stack(gscalars64), go.double().norm().item()),
    }
    assert (gside is None) == (shortcut == 0)
    if gside is not None:
        errors["shortcut"] = distance(gside, gside64, size)
    if shortcut == 2:
        errors["shortcut weight"] = distance(sums[2] * table2[1] / affine[2], gweight2, size)
    return errors


def assert_small(errors, dtype):
    for name, error in errors.items():
        # Mean, scale and shift are rounded before the kernel sees them, and the inputs are far from their mean.
        assert error < (max(RELATIVE[dtype], 3e-5) if name in ("y", "shortcut") else 3e-5), (name, error)


@FEW
@given(
    dyn=dynamics,
    shape=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 40)),
    dtype=st.sampled_from(DTYPES),
    static=st.booleans(),
    channels_last=st.booleans(),
    shortcut=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_norm_lif(dyn, shape, dtype, static, channels_last, shortcut, seed):
    assert_small(norm_lif_errors(dyn, shape, dtype, static, channels_last, shortcut, seed), dtype)


TRSG = Dynamics(3, "trsg", "triangular", 1.0, "soft", False)


@pytest.mark.parametrize(
    ("shape", "channels_last"),
    [((2, 3, 600), False), ((2, 70, 9), True), ((3, 64, 16), True), ((2, 2, 512), False), ((600, 2, 1), False)],
    ids=["long run", "more channels than a tile", "no mask, last", "no mask, first", "many rows"],
)
@pytest.mark.parametrize("programs", [1, 4096])
def test_norm_lif_over_several_tiles(shape, channels_last, programs, monkeypatch):
    monkeypatch.setattr(backend, "REDUCE_PROGRAMS", programs)
    monkeypatch.setattr(backend, "ROW_BLOCKS_PER_SUM", 1)
    assert_small(norm_lif_errors(TRSG, shape, torch.float32, False, channels_last, 2, 0), torch.float32)


def test_wide_offsets_give_the_same(monkeypatch):
    narrow = norm_lif_errors(TRSG, (3, 5, 70), torch.float32, False, True, 2, 1)
    tiles = backend.tiles

    def wide(*arguments):
        lay, row_blocks = tiles(*arguments)
        assert not lay.wide
        return lay._replace(wide=True), row_blocks

    monkeypatch.setattr(backend, "tiles", wide)
    assert norm_lif_errors(TRSG, (3, 5, 70), torch.float32, False, True, 2, 1) == narrow


def test_offsets_are_wide_from_two_to_the_31st():
    for neurons, wide in ((2**29 - 512, False), (2**29, True)):
        lay, _ = backend.tiles(torch.empty((), device="meta").expand(4, neurons), 4, False, 4)
        assert lay.wide == wide


def test_a_write_over_the_edge_damages_guards(memory, monkeypatch):
    tiles = backend.tiles
    monkeypatch.setattr(backend, "tiles", lambda *a: (tiles(*a)[0]._replace(masked=False), tiles(*a)[1]))
    # 12 neurons less than a tile: the kernel ends 12 behind outputs and spikes.
    backend.lif_forward(guarded(torch.ones(2, 500)), *scalars(), TRSG._replace(timesteps=2))
    assert memory.damaged() == 2
    memory.buffers.clear()


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_nothing_to_do(shape, channels_last):
    y, channels = torch.zeros(3, *shape), shape[2 if channels_last else 1]
    rest = (None, None, *scalars(), TRSG, channels_last)
    o, spikes, u_sum, count = backend.norm_lif_forward(y, torch.ones(3, channels), *rest)
    assert o.shape == y.shape and spikes.shape == y.shape[1:] and u_sum == 0 and count == 0
    assert backend.norm_lif_infer(y, torch.ones(3, channels), *rest).shape == y.shape
    sums, gscalars = backend.norm_lif_reduce(y, y, spikes, torch.ones(3, channels), *rest)
    assert torch.equal(sums, torch.zeros(2, channels)) and torch.equal(gscalars, torch.zeros(3))
    gy, gside = backend.norm_lif_backward(y, y, spikes, torch.ones(5, channels), *rest)
    assert gy.shape == y.shape and gside is None


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("surrogate", ["rectangular", "triangular"])
def test_threshold_and_window_edges(family, surrogate):
    dyn = Dynamics(1, family, surrogate, 1.0, "soft", False)
    ends = torch.tensor([0.0, -0.0, 0.5, 1.0, 1.5, 2.0])
    below, above = ends.nextafter(torch.tensor(-9.0)), ends.nextafter(torch.tensor(9.0))
    # With tau = 2 and u_init = 0 the membrane is half of the current, exactly.
    x = guarded(2 * torch.cat([below, ends, above])[None])
    s = [torch.tensor(0.0), torch.tensor(1.0), torch.tensor(0.5)]
    leaf = x.clone().requires_grad_()
    expected = reference(leaf, s, dyn).o
    o, spikes, *_ = backend.lif_forward(x, *s, dyn)
    assert torch.equal(o, expected) and o[0, 9] == 1 and o[0, 3] == 0
    gx, _ = backend.lif_backward(torch.ones_like(o), x, spikes, *s, dyn)
    assert torch.equal(gx, torch.autograd.grad(expected.sum(), leaf)[0])


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("tau", [1 + 1e-6, 1e6])
@pytest.mark.parametrize("v", [1e-45, 1e-38, 1e-4, 1e4, 3e38])
def test_nothing_spreads_from_extreme_values(v, tau, reset):
    values = torch.tensor([0.0, 1e-40, 1.0, 1e38, -1e38, torch.inf, -torch.inf, torch.nan])
    # Every pair of them in the first two steps.
    x = torch.cartesian_prod(values, values, values[:3]).T.contiguous()
    good, small = x.isfinite().all(0), (x.abs() <= 1).all(0)
    s = [torch.tensor(value) for value in (0.0, v, 1 / tau)]
    for dyn in (Dynamics(3, family, surrogate, 1.0, reset, False) for family in FAMILIES for surrogate in SURROGATES):
        o, spikes, *_ = backend.lif_forward(guarded(x), *s, dyn)
        assert torch.equal(o > 0, reference(x, s, dyn).o > 0)
        gx, _ = backend.lif_backward(torch.ones_like(o), guarded(x), spikes, *s, dyn)
        # Without the bad neurons, all is the same for the others.
        tame = guarded(torch.where(good, x, 0.0))
        _, tame_spikes, *_ = backend.lif_forward(tame, *s, dyn)
        tame_gx, _ = backend.lif_backward(torch.ones_like(o), tame, tame_spikes, *s, dyn)
        assert torch.equal(spikes[good], tame_spikes[good])
        assert torch.equal(gx[:, good].nan_to_num(), tame_gx[:, good].nan_to_num())
        if dyn.family != "rs_sg":  # whose true gradient, 1 / v_threshold, is no float32
            assert gx[:, small].isfinite().all()


def test_two_runs_are_bitwise_equal(monkeypatch):
    monkeypatch.setattr(backend, "REDUCE_PROGRAMS", 8)
    y, _, go, affine = norm_case(TRSG, (40, 3, 20), torch.float32, False, False, 5)
    table = torch.stack([affine[0], affine[1], -2 * affine[2]])
    tail = (table, None, None, *scalars(), TRSG, False)
    _, spikes, *_ = first = backend.norm_lif_forward(y, *tail)
    reduced = backend.norm_lif_reduce(go, y, spikes, *tail)
    assert all(map(torch.equal, first, backend.norm_lif_forward(y, *tail)))
    assert all(map(torch.equal, reduced, backend.norm_lif_reduce(go, y, spikes, *tail)))


def test_sums_over_many_neurons_keep_six_digits():
    dyn = Dynamics(1, "as_sg", "rectangular", 4.0, "soft", True)
    x, go = torch.rand(2, 1, 2**17, generator=torch.Generator().manual_seed(0))
    _, spikes, *_ = backend.lif_forward(x, *scalars(), dyn)
    _, found = backend.lif_backward(go, x, spikes, *scalars(), dyn)
    x64, *s64 = exact(x, *scalars())
    expected = torch.stack(torch.autograd.grad((reference(x64, s64, dyn).o * go.double()).sum(), s64))
    assert distance(found, expected, 0) < 1e-6


def test_more_than_sixteen_steps_are_refused():
    with pytest.raises(ValueError, match="timesteps=17"):
        backend.lif_forward(torch.zeros(17, 4), *scalars(), TRSG._replace(timesteps=17))
