"""Readers on small files in the true formats, and every way in which such a file can be damaged."""

import sys

import numpy as np
import pytest
from recordings import aedat2, aedat4

from snnrepro.data.events.reader import in_order, read_aedat2, read_aedat4
from snnrepro.errors import DataError

RNG = np.random.default_rng(0)
N = 500
T = np.sort(RNG.integers(0, 1_300_000, N))
X, Y, P = RNG.integers(0, 128, N), RNG.integers(0, 128, N), RNG.integers(0, 2, N)


def test_aedat2_as_spikingjelly_reads_it(tmp_path):
    path = tmp_path / "a.aedat"
    path.write_bytes(aedat2(T, X, Y, P, special=[3, 77]))
    events = read_aedat2(path)
    kept = np.delete(np.arange(N), [3, 77])
    # Its loader: x' = 127 - y, y' = 127 - x, p' = 1 - p.
    np.testing.assert_array_equal(events.t, T[kept])
    np.testing.assert_array_equal(events.x, 127 - Y[kept])
    np.testing.assert_array_equal(events.y, 127 - X[kept])
    np.testing.assert_array_equal(events.p, 1 - P[kept])
    assert (events.x != X[kept]).any(), "control: the axes are exchanged"


@pytest.mark.parametrize("packets", [1, 7])
def test_aedat4_as_stored(tmp_path, packets):
    path = tmp_path / "a.aedat4"
    path.write_bytes(aedat4(T, X, Y, P, packets=packets))
    events = read_aedat4(path)
    for name, expected in zip("txyp", (T, X, Y, P), strict=True):
        np.testing.assert_array_equal(getattr(events, name), expected)


def test_events_are_brought_into_order_and_ties_stay():
    events = in_order(np.array([5, 3, 5, 1]), np.arange(4), np.arange(4), np.zeros(4, bool))
    assert events.t.tolist() == [1, 3, 5, 5] and events.x.tolist() == [3, 1, 0, 2]


WHOLE2, WHOLE4 = aedat2(T, X, Y, P), aedat4(T, X, Y, P)
DAMAGED = {
    "header only": (read_aedat2, WHOLE2[: WHOLE2.index(b"0x23\r\n") + 6], "no events"),
    "unfinished header": (read_aedat2, b"#!AER-DAT2.0\r\n# This", "no events"),
    "empty file": (read_aedat2, b"", "empty file"),
    "another format": (read_aedat2, b"PK\x03\x04" + WHOLE2, "not an AEDAT 2.0 file"),
    "cut off": (read_aedat2, WHOLE2[:-3], "truncated"),
    "nothing but special events": (read_aedat2, aedat2(T[:3], X[:3], Y[:3], P[:3], special=[0, 1, 2]), "no events"),
    "empty 4": (read_aedat4, b"", "empty file"),
    "version 2 as 4": (read_aedat4, WHOLE2, "damaged AEDAT 4 file"),
    "header only 4": (read_aedat4, aedat4([], [], [], [], packets=0), "no events|damaged"),
    "cut off 4": (read_aedat4, WHOLE4[:-20], "damaged AEDAT 4 file"),
    "broken packet": (read_aedat4, aedat4(T, X, Y, P, broken=True), "damaged AEDAT 4 file"),
    "outside of the sensor": (read_aedat4, aedat4([1, 2], [5, 128], [0, 0], [0, 1]), "outside of the 128 x 128 sensor"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_one_line_with_the_file(tmp_path, case):
    read, content, says = DAMAGED[case]
    path = tmp_path / "damaged.file"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_files_and_a_missing_decoder(tmp_path, monkeypatch):
    for read in (read_aedat2, read_aedat4):
        with pytest.raises(DataError, match="No such file"):
            read(tmp_path / "nothing")
    monkeypatch.setitem(sys.modules, "aedat", None)
    with pytest.raises(DataError, match=r"pip install 'snnrepro\[dvs\]'"):
        read_aedat4(tmp_path / "nothing")
