"""Clocks of recordings: the end of 31 and 32 bits, events that come late, and jumps that make frames wrong."""

import re

import numpy as np
import pytest
from recordings import aedat2, aedat4

from snnrepro.data.events.clock import unrolled
from snnrepro.data.events.reader import read_aedat2, read_aedat4
from snnrepro.data.events.slicing import to_frames
from snnrepro.errors import DataError

RNG = np.random.default_rng(1)
N = 400
T = np.sort(RNG.integers(0, 1_000_000, N))
X, Y, P = RNG.integers(0, 128, N), RNG.integers(0, 128, N), RNG.integers(0, 2, N)


def write(tmp_path, t, container="aedat2"):
    path = tmp_path / f"a.{container}"
    path.write_bytes((aedat2 if container == "aedat2" else aedat4)(t, X[: len(t)], Y[: len(t)], P[: len(t)]))
    return path


@pytest.mark.parametrize("period", [2**31, 2**32])
@pytest.mark.parametrize("before", [1, 500_000, 999_999])
@pytest.mark.parametrize("by", ["number", "time"])
def test_a_clock_that_passes_its_end_changes_no_frame(tmp_path, period, before, by):
    whole = to_frames(read_aedat2(write(tmp_path, T)), 4, by, 128)
    events = read_aedat2(write(tmp_path, (T + period - before) % period))
    np.testing.assert_array_equal(events.t - events.t[0], T - T[0])
    np.testing.assert_array_equal(to_frames(events, 4, by, 128), whole)


def test_a_signed_clock_that_becomes_negative_goes_on(tmp_path):
    t = (T + 2**31 - 500_000).astype(np.uint32).view(np.int32)
    assert t[0] > 0 > t[-1]
    events = read_aedat2(write(tmp_path, t.view(np.uint32)))
    np.testing.assert_array_equal(events.t - events.t[0], T - T[0])


def test_events_that_come_late_around_the_end_belong_before_it():
    end = 2**32
    times = np.array([end - 5, 2, end - 3, 5, end - 1, 7], np.int64)
    assert (unrolled(times) - times[0]).tolist() == [0, 7, 2, 10, 4, 12]
    assert unrolled(np.array([2, end - 3, 5], np.int64)).tolist() == [2 + end, end - 3, 5 + end]
    assert unrolled(np.array([end - 1, 0, end - 1, 0, 3], np.int64)).max() == end + 3


@pytest.mark.parametrize("container", ["aedat2", "aedat4"])
def test_events_that_come_a_little_late_are_brought_into_order(tmp_path, container):
    late = np.arange(N) * 3000
    late[[100, 200]] = late[[99, 199]] - [1, 900]
    read = read_aedat2 if container == "aedat2" else read_aedat4
    np.testing.assert_array_equal(read(write(tmp_path, late, container)).t, np.sort(late))


JUMPS = {
    "a reset": np.concatenate([T[:200], T[200:] - T[200]]),
    "a reset of a short recording": np.concatenate([np.arange(200), np.arange(200)]),
    "24 bits": (T + 2**24 - 500_000) % 2**24,
    "a stamp out of place": np.where(np.arange(N) == 50, 2**30, T),
    "a stamp at the end of the clock": np.where(np.arange(N) == 50, 2**31 - 1, T),
    "half a clock": np.concatenate([T[:200] + 2**30 + 2**29, T[200:]]),
}


@pytest.mark.advice("cut the recording there, or write it again")
@pytest.mark.parametrize("container", ["aedat2", "aedat4"])
@pytest.mark.parametrize("jump", JUMPS)
def test_a_clock_that_jumps_back_is_one_line_with_the_file(tmp_path, jump, container):
    path = write(tmp_path, JUMPS[jump], container)
    read = read_aedat2 if container == "aedat2" else read_aedat4
    with pytest.raises(DataError, match=r"its clock jumps back by \d+ microseconds at event \d+") as caught:
        read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    # A stamp out of place is before the event from which the clock seems to go back.
    event = int(re.search(r"at event (\d+)", str(caught.value))[1])
    first, rest = JUMPS[jump][: event - 1], JUMPS[jump][event:]
    assert [len(read(write(tmp_path, part, container)).t) for part in (first, rest)] == [len(first), len(rest)]
    if JUMPS[jump].max() < 2**31 - 1:
        # (That last one is the end of a clock, from which one in order goes back too.)
        assert len(read(write(tmp_path, np.sort(JUMPS[jump]), container)).t) == N


def test_a_clock_of_64_bits_is_never_unrolled_and_never_negative(tmp_path):
    with pytest.raises(DataError, match="jumps back by"):
        read_aedat4(write(tmp_path, (T + 2**32 - 500_000) % 2**32, "aedat4"))
    with pytest.raises(DataError, match="a negative time, -5 microseconds"):
        read_aedat4(write(tmp_path, np.array([-5, 3, 9]), "aedat4"))
