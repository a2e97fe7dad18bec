"""Readers on small files in the true formats, and every way in which such a file can be damaged."""

import os
import struct
import sys

import numpy as np
import pytest
from recordings import aedat2, aedat4

from snnrepro.data.events.reader import checked, in_order, read_aedat2, read_aedat4
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
    "left of the sensor": (read_aedat4, aedat4([1, 2], [5, -1], [0, 0], [0, 1]), "sensor: x from -1 to 5"),
    "addresses of another sensor": (read_aedat2, aedat2(T, X, Y + 300, P), "outside of the 128 x 128 sensor"),
    "a giant header": (read_aedat4, WHOLE4[:14] + struct.pack("<I", 2**32 - 2) + WHOLE4[18:], "damaged AEDAT 4 file"),
    "a header alone": (read_aedat4, WHOLE4[:16], "damaged AEDAT 4 file"),
    "a decoder that panics": (read_aedat4, WHOLE4[:18] + b"\x14\xff" + WHOLE4[20:], "damaged AEDAT 4 file"),
    "a giant packet": (
        read_aedat4,
        WHOLE4[: -len(WHOLE4) // 3 * 2] + struct.pack("<ii", 0, 2**31 - 1) + b"x" * 99,
        "damaged AEDAT 4 file",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_one_line_with_the_file(tmp_path, capfd, case):
    read, content, says = DAMAGED[case]
    path = tmp_path / "damaged.file"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("read", [read_aedat2, read_aedat4])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_named_and_never_waited_for(tmp_path, read, make):
    make(tmp_path / "a")
    with pytest.raises(DataError, match="a: not a file"):
        read(tmp_path / "a")


def test_damaged_recordings_end_in_one_line_or_in_events(tmp_path, capfd):
    rng, path = np.random.default_rng(2), tmp_path / "a"
    small2, small4 = aedat2(T[:40], X[:40], Y[:40], P[:40]), aedat4(T[:40], X[:40], Y[:40], P[:40], packets=2)
    failed = 0
    for number in range(300):
        read, whole = ((read_aedat2, small2), (read_aedat4, small4))[number % 2]
        content = bytearray(whole[: rng.integers(1, len(whole) + 1)] if number % 3 == 0 else whole)
        for _ in range(rng.integers(1, 5)):
            content[rng.integers(0, len(content))] = rng.choice([0, 127, 128, 255, rng.integers(0, 256)])
        path.write_bytes(content)
        try:
            assert len(read(path)) > 0
        except DataError as error:
            failed += 1
            assert str(path) in str(error) and "\n" not in str(error)
    assert 30 < failed < 300
    assert capfd.readouterr().err == ""


def test_polarity_is_of_two_kinds():
    zero = np.zeros(4, np.int16)
    for p in ([True, False, True, True], [1, 0, 1, 1], [1, -1, 1, 1], [1.0, -1.0, 1.0, 1.0]):
        assert checked("a", in_order(zero, zero, zero, np.array(p)), 128).p.tolist() == [True, False, True, True]
    for p in ([1, 0, -1, 1], [2, 1, 2, 1], [0, 255, 0, 0], [0.0, 1.0, np.nan, 0.0]):
        with pytest.raises(DataError, match=r"^a: polarities .*: must be 0 and 1, or -1 and 1$"):
            checked("a", in_order(zero, zero, zero, np.array(p)), 128)


def test_missing_files_and_a_missing_decoder(tmp_path, monkeypatch):
    for read in (read_aedat2, read_aedat4):
        with pytest.raises(DataError, match="No such file"):
            read(tmp_path / "nothing")
    monkeypatch.setitem(sys.modules, "aedat", None)
    with pytest.raises(DataError, match=r"pip install 'snnrepro\[dvs\]'"):
        read_aedat4(tmp_path / "nothing")
