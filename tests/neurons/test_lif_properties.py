"""Properties of the LIF layer over shapes, memory layouts and number types."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snnrepro.neurons.functional import lif
from snnrepro.options import FAMILIES, RESETS, SURROGATES

examples = settings(deadline=None, derandomize=True, max_examples=50)

OPTIONS = st.fixed_dictionaries(
    {
        "family": st.sampled_from(FAMILIES),
        "surrogate": st.sampled_from(SURROGATES),
        "gamma": st.sampled_from((0.5, 1.0, 2.0)),
        "reset": st.sampled_from(RESETS),
        "detach_reset": st.booleans(),
        "backend": st.just("reference"),
    }
)
TIMESTEPS = st.integers(1, 16)
SHAPES = st.lists(st.integers(0, 5), min_size=0, max_size=4)
SEEDS = st.integers(0, 2**31)
DTYPES = st.sampled_from((torch.float32, torch.float64))


def current(seed, *shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.rand(*shape, dtype=torch.float64, generator=generator).to(dtype) - 0.5


def run(x, timesteps, options, weight=None):
    """(result, gradients w.r.t. x, u_init, v_threshold, tau) for a loss that weighs every output."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    scalars = [torch.tensor(value, dtype=dtype, requires_grad=True) for value in (0.2, 0.7, 1.8)]
    x = x.detach().requires_grad_()
    result = lif(x, *scalars, timesteps=timesteps, **options)
    weight = torch.ones_like(result.o) if weight is None else weight
    return result, torch.autograd.grad(result.o, (x, *scalars), weight)


@examples
@given(SEEDS, TIMESTEPS, SHAPES, DTYPES, OPTIONS)
def test_any_shape_gives_outputs_and_gradients(seed, timesteps, shape, dtype, options):
    x = current(seed, timesteps, *shape, dtype=dtype)
    result, grads = run(x, timesteps, options)
    v = 0.7 if options["family"] == "trsg" else 1.0
    assert result.o.shape == x.shape
    assert result.o.dtype == dtype
    assert set(result.o.unique().tolist()) <= {0.0, torch.tensor(v, dtype=dtype).item()}
    assert grads[0].shape == x.shape
    assert all(grad.shape == () for grad in grads[1:])
    assert all(grad.isfinite().all() for grad in grads)
    assert result.active_count == (result.o != 0).any(0).sum()
    assert not result.u_sum.requires_grad
    if x.numel() == 0:
        assert all(grad.sum() == 0 for grad in grads)
        assert result.u_sum == result.active_count == 0


@examples
@given(SEEDS, TIMESTEPS, SHAPES, DTYPES, OPTIONS)
def test_constant_current_may_come_once(seed, timesteps, shape, dtype, options):
    x = current(seed, 1, *shape, dtype=dtype)
    weight = current(seed + 1, timesteps, *shape, dtype=dtype)
    once, grads = run(x, timesteps, options, weight)
    repeated, full = run(x.repeat(timesteps, *[1] * len(shape)), timesteps, options, weight)
    assert all(torch.equal(a, b) for a, b in zip(once, repeated, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(grads[1:], full[1:], strict=True))
    rounding = 1e-4 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(grads[0], full[0].sum(0, keepdim=True), rtol=rounding, atol=rounding)


def layouts(seed):
    """Views of one sequence (4, 3, 2, 5, 6) that are not contiguous, by name."""
    base = current(seed, 4, 3, 2, 5, 6)
    wide = current(seed, 8, 3, 2, 5, 12)
    last = base.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    return {
        "permuted": current(seed, 6, 5, 2, 3, 4).permute(4, 3, 2, 1, 0),
        "sliced": wide[::2, ..., 1::2],
        "expanded": current(seed, 4, 1, 2, 5, 1).expand(4, 3, 2, 5, 6),
        "channels_last": last.unflatten(0, (4, 3)),
        "frames": current(seed, 3, 4, 2, 5, 6).transpose(0, 1),
    }


@examples
@given(SEEDS, st.sampled_from(sorted(layouts(0))), OPTIONS)
def test_memory_layout_does_not_matter(seed, layout, options):
    x = layouts(seed)[layout]
    assert not x.is_contiguous()
    weight = current(seed + 1, 6, 5, 2, 3, 4).permute(4, 3, 2, 1, 0)
    view, grads = run(x, 4, options, weight)
    clone, expected = run(x.clone(memory_format=torch.contiguous_format), 4, options, weight.contiguous())
    assert torch.equal(view.o, clone.o)
    assert torch.equal(view.active_count, clone.active_count)
    # exp and atan round differently in the vector and the scalar part of a loop; sums follow the layout's order
    torch.testing.assert_close(grads[0], expected[0], rtol=1e-5, atol=1e-5)
    for left, right in zip((view.u_sum, *grads[1:]), (clone.u_sum, *expected[1:]), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-3)


@examples
@given(SEEDS, TIMESTEPS, OPTIONS)
def test_float32_agrees_with_float64_away_from_the_threshold(seed, timesteps, options):
    # float32 inputs in both; a spike may differ only after a membrane came within rounding of the threshold
    x = current(seed, timesteps, 40)
    narrow, _ = run(x, timesteps, options)
    wide, _ = run(x.double(), timesteps, options)
    assert ((narrow.o > 0) != (wide.o > 0)).any(0).sum() <= 1


@examples
@given(SEEDS, TIMESTEPS, st.sampled_from((torch.bfloat16, torch.float16)), OPTIONS)
def test_half_input_gives_half_output_and_keeps_the_state_in_float32(seed, timesteps, dtype, options):
    x = current(seed, timesteps, 30).to(dtype)
    half, grads = run(x, timesteps, options)
    full, expected = run(x.float(), timesteps, options)
    assert half.o.dtype == grads[0].dtype == dtype
    assert half.u_sum.dtype == torch.float32
    # the state never rounds to half, so spikes and statistics are those of float32
    assert torch.equal(half.o > 0, full.o > 0)
    assert torch.equal(half.u_sum, full.u_sum)
    assert torch.equal(half.o, full.o.to(dtype))
    torch.testing.assert_close(grads[0].float(), expected[0], rtol=0.02, atol=0.02)
