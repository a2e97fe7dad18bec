"""Events to frames: against a loop over events, against tonic where the rules agree, and the last frame's remainder."""

import numpy as np
import pytest
import tonic
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2

from snnrepro.data.events.reader import in_order
from snnrepro.data.events.slicing import boundaries, resize, to_frames, too_large
from snnrepro.errors import DataError


def events(count, seed=0, sensor=16, latest=100_000):
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, latest, count))
    x, y, p = (rng.integers(0, high, count) for high in (sensor, sensor, 2))
    return in_order(t, x, y, p.astype(bool))


def for_tonic(stream):
    structured = np.empty(len(stream), [("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "<i2")])
    for name in "txyp":
        structured[name] = getattr(stream, name)
    return structured


def slow(stream, timesteps, by, sensor):
    """One event at a time, by the definition of SpikingJelly's slices."""
    frames = np.zeros((timesteps, 2, sensor, sensor), int)
    first, last = int(stream.t[0]), int(stream.t[-1])
    each, step = len(stream) // timesteps, (last - first) // timesteps
    for number, (t, x, y, p) in enumerate(zip(stream.t, stream.x, stream.y, stream.p, strict=True)):
        if by == "number":
            k = min(number // each, timesteps - 1) if each else timesteps - 1
        else:
            k = min((int(t) - first) // step, timesteps - 1) if step else timesteps - 1
        frames[k, int(p), y, x] += 1
    return frames


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 12), st.sampled_from(["number", "time"]), st.integers(0, 2**32 - 1),
       st.sampled_from([3, 50, 100_000]))  # fmt: skip
def test_frames_are_those_of_the_loop(count, timesteps, by, seed, latest):
    stream = events(count, seed, latest=latest)
    frames = to_frames(stream, timesteps, by, 16)
    np.testing.assert_array_equal(frames, slow(stream, timesteps, by, 16))
    assert frames.sum() == count, "no event is lost"


@pytest.mark.parametrize("by", ["number", "time"])
def test_tonic_where_the_rules_agree_and_what_it_drops(by):
    stream = events(1003)
    legacy = for_tonic(stream)
    axis = {"number": "n_event_bins", "time": "n_time_bins"}[by]
    theirs = tonic.transforms.ToFrame(sensor_size=(16, 16, 2), **{axis: 4})(legacy)
    ours = to_frames(stream, 4, by, 16)
    np.testing.assert_array_equal(ours[:3], theirs[:3])
    assert ours.sum() == 1003 > theirs.sum()
    assert (ours[3] >= theirs[3]).all()
    if by == "number":
        even = events(1000)
        theirs = tonic.transforms.ToFrame(sensor_size=(16, 16, 2), n_event_bins=4)(for_tonic(even))
        np.testing.assert_array_equal(to_frames(even, 4, by, 16), theirs)


def test_boundaries_by_hand():
    t = np.array([0, 1, 2, 50, 60, 61, 99, 100, 100, 103])
    assert boundaries(t, 4, "number").tolist() == [0, 2, 4, 6, 10]
    assert boundaries(t, 4, "time").tolist() == [0, 3, 3, 6, 10]  # steps of 25 from 0
    assert boundaries(t[:3], 4, "number").tolist() == [0, 0, 0, 0, 3]


def test_resize_is_bilinear_without_antialiasing():
    frames = np.random.default_rng(0).integers(0, 9, (3, 2, 128, 128)).astype(np.uint16)
    small = resize(frames, 48)
    assert small.dtype == np.float16 and small.shape == (3, 2, 48, 48)
    # Row i of 48 lies at (i + 1/2) * 128 / 48 - 1/2 of the original.
    at = (np.arange(48) + 0.5) * 128 / 48 - 0.5
    low, part = np.floor(at).astype(int), at % 1
    rows = frames[:, :, low] * (1 - part)[:, None] + frames[:, :, low + 1] * part[:, None]
    expected = rows[..., low] * (1 - part) + rows[..., low + 1] * part
    np.testing.assert_allclose(small, expected, atol=5e-3)
    wrong = v2.functional.resize(torch.from_numpy(frames.astype(np.float32)), [48, 48], antialias=True).numpy()
    assert abs(wrong - expected).max() > 0.5, "control: antialiasing shows"
    np.testing.assert_array_equal(resize(frames, 128), frames)


def at_one_pixel(count, x=3, p=1):
    return in_order(np.arange(count), np.full(count, x), np.full(count, 5), np.full(count, p))


@pytest.mark.parametrize("count", [2048, 2049, 65_535, 65_536, 70_000, 200_000])
def test_counts_are_exact_and_what_float16_loses_is_said(count):
    frames = to_frames(at_one_pixel(count), 1, "number", 16)
    assert frames.sum() == count == frames[0, 1, 5, 3]
    stored, said = resize(frames, 16).astype(np.float64), too_large(frames)
    assert np.isfinite(stored).all() and abs(stored.max() - min(count, 65_504)) <= count / 2**11
    assert (said is None) == (stored.max() == count == 2048)
    assert said is None or (f"{count} events" in said and ("clipped" in said) == (count > 65_504))
    assert np.isfinite(resize(frames, 8)).all()


@pytest.mark.parametrize("by", ["number", "time"])
def test_events_that_no_frame_holds_are_named(by):
    assert (to_frames(at_one_pixel(9, p=-1), 2, by, 16) == to_frames(at_one_pixel(9, p=0), 2, by, 16)).all()
    assert to_frames(at_one_pixel(0), 2, by, 16).sum() == 0
    for stream, says in ((at_one_pixel(9, x=16), "x from 16 to 16"), (at_one_pixel(9, x=-1), "x from -1 to -1"),
                         (at_one_pixel(9, p=7), "polarities 7")):  # fmt: skip
        with pytest.raises(DataError, match=says):
            to_frames(stream, 2, by, 16)
