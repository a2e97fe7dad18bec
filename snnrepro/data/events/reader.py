"""Events from files, AEDAT 2.0 and AEDAT 4; nothing here knows a dataset."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from snnrepro.errors import DataError

# The sensor of CIFAR10-DVS.
_SENSOR = 128
# An address and a time, each 4 bytes.
_EVENT_BYTES = 8


@dataclass(frozen=True, slots=True, eq=False)
class Events:
    """Events in order of time, one array (N,) per property.

    t: microseconds, int64. x: column, y: row, from the top left. p: whether the pixel became brighter, bool.
    """

    t: np.ndarray
    x: np.ndarray
    y: np.ndarray
    p: np.ndarray

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, which: np.ndarray | slice) -> "Events":
        return Events(self.t[which], self.x[which], self.y[which], self.p[which])


def in_order(t: np.ndarray, x: np.ndarray, y: np.ndarray, p: np.ndarray) -> Events:
    """Returns events in order of time; events of one moment keep their order."""
    events = Events(t, x, y, p)
    return events[np.argsort(t, kind="stable")] if (t[1:] < t[:-1]).any() else events


def read_aedat2(path: Path) -> Events:
    """Returns the events of an AEDAT 2.0 recording of a DVS128: lines with ``#``, then big-endian (address, time).

    Bit 0 of an address is 0 for brighter, bits 1-7 and 8-14 count columns and rows from the far corner. SpikingJelly,
    which the papers' loaders build on, turns the picture by exchanging the two; so does this, for equal frames.
    Raises DataError for a file that is unreadable, truncated, or without events.
    """
    data = _bytes(path)
    start = 0
    while data[start : start + 1] == b"#":
        start = data.find(b"\n", start) + 1
        if not start:
            break
    if not data.startswith(b"#!AER-DAT2") or not start or len(data) == start:
        raise DataError(f"{path}: {'no events' if data.startswith(b'#!AER-DAT2') else 'not an AEDAT 2.0 file'}")
    if (len(data) - start) % _EVENT_BYTES:
        raise DataError(f"{path}: truncated: the last event is incomplete")
    # All that is needed of an address is in its lower half; small types make this three times faster.
    halves = np.frombuffer(data, ">u2", offset=start).reshape(-1, 4)
    address, t = halves[:, 1].astype(np.int16), np.frombuffer(data, ">u4", offset=start)[1::2].astype(np.int64)
    # The highest bit marks what is not an event of the sensor.
    special = halves[:, 0] >= 1 << 15
    if special.any():
        address, t = address[~special], t[~special]
    x, y = _SENSOR - 1 - (address >> 8 & 0x7F), _SENSOR - 1 - (address >> 1 & 0x7F)
    return _checked(path, in_order(t, x, y, (address & 1) == 0))


def read_aedat4(path: Path) -> Events:
    """Returns the events of an AEDAT 4 file, coordinates and polarity as stored.

    Raises DataError for a file that is unreadable, damaged or without events, and where the package ``aedat``, which
    decodes the container, is missing.
    """
    try:
        import aedat
    except ImportError:
        raise DataError(f"{path}: reading AEDAT 4 needs a package: pip install 'snnrepro[dvs]'") from None
    _bytes(path, 16)
    try:
        decoder = aedat.Decoder(str(path))
        streams = [number for number, stream in decoder.id_to_stream().items() if stream["type"] == "events"]
        if not streams:
            raise DataError(f"{path}: no stream of events")
        parts = [packet["events"] for packet in decoder if packet["stream_id"] == min(streams) and "events" in packet]
    except DataError:
        raise
    except Exception as error:
        # The decoder raises types of its own, and RuntimeError.
        raise DataError(f"{path}: damaged AEDAT 4 file: {str(error).strip().splitlines()[0]}") from None
    if not parts:
        raise DataError(f"{path}: no events")
    # The fields' names have changed between versions of the decoder, their order has not.
    t, x, y, p = parts[0].dtype.names[:4]

    def joined(name: str, kind: type) -> np.ndarray:
        return np.concatenate([part[name] for part in parts], dtype=kind, casting="unsafe")

    return _checked(path, in_order(joined(t, np.int64), joined(x, np.int16), joined(y, np.int16), joined(p, np.bool_)))


READERS = {"aedat2": (read_aedat2, ".aedat"), "aedat4": (read_aedat4, ".aedat4")}


def _bytes(path: Path, count: int = -1) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(count)
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror}") from None
    if not data:
        raise DataError(f"{path}: empty file")
    return data


def _checked(path: Path, events: Events) -> Events:
    if not len(events):
        raise DataError(f"{path}: no events")
    if min(events.x.min(), events.y.min()) < 0 or max(events.x.max(), events.y.max()) >= _SENSOR:
        raise DataError(f"{path}: an event outside of the {_SENSOR} x {_SENSOR} sensor")
    return events
