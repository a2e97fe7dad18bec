"""The simulated camera: what physics demands of it, and a slow camera that looks at one pixel at a time."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import load_digits

from snnrepro.data.events import simulate
from snnrepro.data.events.simulate import DURATION_US, Camera, light, path, record, thresholds

DIGITS = np.minimum(load_digits().images[:4] * 16, 255).astype(np.uint8)
INDEX = np.arange(4)
CAMERA = Camera(16, 0.5)
SILENT = replace(CAMERA, leak_hz=0.0)


def test_the_path_is_six_closed_loops_of_four_strokes():
    times, where = path(CAMERA)
    assert (times[0], times[-1], DURATION_US) == (0, 200_000, 1_200_000)
    assert np.abs(where[[0, -1]]).max() == 0
    corners = where[::6] * 512  # pixels on a screen 512 wide
    np.testing.assert_allclose(corners, [(0, 0), (10, -10), (20, 0), (10, 10), (0, 0)], atol=1e-12)
    speed = np.abs(np.diff(where * 512, axis=0)) / np.diff(times)[:, None] * 1e6
    np.testing.assert_allclose(speed, 200)  # pixels per second along each axis


def test_without_motion_there_are_no_events_but_the_leak():
    assert all(len(events) == 0 for events in record(DIGITS, INDEX, 0, replace(SILENT, moving=False)))
    leaking = record(DIGITS, INDEX, 0, replace(CAMERA, moving=False, leak_hz=20.0))
    assert all(events.p.all() for events in leaking)
    rate = np.mean([len(events) for events in leaking]) / (16 * 16 * 1.2)
    assert rate == pytest.approx(20, rel=0.1)


def test_twice_the_threshold_is_about_half_the_events():
    few, many = (sum(map(len, record(DIGITS, INDEX, 0, replace(SILENT, threshold=c)))) for c in (0.8, 0.4))
    assert 0.25 < few / many < 0.5


def test_a_closed_loop_gives_back_what_it_took():
    sums = np.zeros((4, 16, 16))
    camera = replace(SILENT, spread=0.0)
    for number, events in enumerate(record(DIGITS, INDEX, 0, camera)):
        np.add.at(sums[number], (events.y, events.x), np.where(events.p, 0.5, -0.5))
    assert abs(sums).max() < 0.5 + 1e-9
    # Control: after half a loop the picture is elsewhere.
    half = np.zeros((16, 16))
    events = record(DIGITS, INDEX, 0, camera)[0]
    events = events[events.t < 100_000]
    np.add.at(half, (events.y, events.x), np.where(events.p, 0.5, -0.5))
    assert abs(half).max() > 0.5


def test_a_mirrored_image_on_a_mirrored_path_is_mirrored_events(monkeypatch):
    camera = replace(SILENT, spread=0.0)
    (straight,) = record(DIGITS[:1], INDEX[:1], 0, camera)
    monkeypatch.setattr(simulate, "_CORNERS", simulate._CORNERS * (-1, 1))
    (mirrored,) = record(np.ascontiguousarray(DIGITS[:1, :, ::-1]), INDEX[:1], 0, camera)

    def as_set(events, flip):
        x = 15 - events.x if flip else events.x
        return sorted(zip(events.t, x, events.y, events.p, strict=True))

    a, b = as_set(straight, False), as_set(mirrored, True)
    assert len(a) == len(b) > 500
    assert sum(x == y for x, y in zip(a, b, strict=True)) > 0.98 * len(a)  # times may round apart
    assert as_set(mirrored, False) != a


def test_times_lie_within_the_recording_and_ascend():
    for events in record(DIGITS, INDEX, 0, CAMERA):
        assert events.t.min() >= 0 and events.t.max() < DURATION_US and (np.diff(events.t) >= 0).all()
        assert 0.45 < events.p.mean() < 0.55


def slow_pixel(levels, times, low, high):
    """Events of one pixel, one crossing at a time: (time, brighter)."""
    memory, found = levels[0], []
    for loop in range(simulate.LOOPS):
        for before, now, start, end in zip(levels, levels[1:], times, times[1:], strict=False):
            for bright in (True, False):
                while (now - memory >= high) if bright else (memory - now >= low):
                    memory += high if bright else -low
                    part = (memory - before) / (now - before)
                    found.append((loop * 200_000 + start + min(max(part, 0), 1) * (end - start), bright))
    return sorted(found)


def test_every_event_is_that_of_a_slow_camera():
    (events,) = record(DIGITS[1:2], INDEX[1:2], 7, SILENT)
    levels, (times, _) = light(DIGITS[1:2], SILENT)[:, 0], path(SILENT)
    low, high = thresholds(INDEX[1:2], 7, SILENT)[:, 0]
    total = 0
    for y in range(16):
        for x in range(16):
            own = events[(events.y == y) & (events.x == x)]
            expected = slow_pixel(levels[:, y, x], times, low[y, x], high[y, x])
            assert own.p.tolist() == [bright for _, bright in expected]
            np.testing.assert_allclose(own.t, [t for t, _ in expected], atol=1.01)
            total += len(own)
    assert total == len(events) > 500


def test_a_recording_depends_on_its_image_its_number_and_the_seed_alone():
    def same(a, b):
        return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in "txyp")

    together = record(DIGITS, INDEX, 0, CAMERA)
    alone = [record(DIGITS[i : i + 1], INDEX[i : i + 1], 0, CAMERA)[0] for i in range(4)]
    assert all(same(a, b) for a, b in zip(together, alone, strict=True))
    (other_seed,) = record(DIGITS[:1], INDEX[:1], 1, CAMERA)
    (other_number,) = record(DIGITS[:1], INDEX[:1] + 9, 0, CAMERA)
    assert not same(other_seed, together[0]) and not same(other_number, together[0])


def test_thresholds_spread_as_asked():
    values = thresholds(np.arange(50), 0, CAMERA)
    assert values.mean() == pytest.approx(0.5, rel=0.01) and values.std() == pytest.approx(0.075, rel=0.02)
    assert thresholds(np.arange(5), 0, replace(CAMERA, spread=50.0)).min() == 0.01


def test_looking_more_often_changes_little():
    often = sum(map(len, record(DIGITS, INDEX, 0, replace(SILENT, rate_hz=480))))
    assert sum(map(len, record(DIGITS, INDEX, 0, SILENT))) == pytest.approx(often, rel=0.01)
