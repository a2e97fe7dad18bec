"""Events from files, AEDAT 2.0 and AEDAT 4; nothing here knows a dataset."""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from snnrepro.data.events.clock import in_time, unrolled
from snnrepro.errors import DataError

# The sensor of CIFAR10-DVS.
_SENSOR = 128
# An address and a time, each 4 bytes.
_EVENT_BYTES = 8
_MAGIC4 = b"#!AER-DAT4.0\r\n"


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


def checked(source: str | Path, events: Events, sensor: int) -> Events:
    """Returns ``events`` with ``p`` as bool, from 0 and 1 or from -1 and 1, whatever its type.

    Raises DataError, which begins with ``source``, for other values and for events outside of the sensor's pixels.
    """
    for name, values in (("x", events.x), ("y", events.y)):
        if len(values) and not (values.min() >= 0 and values.max() < sensor):
            raise DataError(
                f"{source}: an event outside of the {sensor} x {sensor} sensor: {name} from {values.min()} to "
                f"{values.max()}"
            )
    return Events(events.t, events.x, events.y, _brighter(source, events.p))


def _brighter(source: str | Path, p: np.ndarray) -> np.ndarray:
    if p.dtype != np.bool_ and not any(np.isin(p, allowed).all() for allowed in ((0, 1), (-1, 1))):
        values = ", ".join(str(value) for value in np.unique(p)[:5])
        raise DataError(f"{source}: polarities {values}: must be 0 and 1, or -1 and 1")
    return p > 0


def read_aedat2(path: Path) -> Events:
    """Returns the events of an AEDAT 2.0 recording of a DVS128: lines with ``#``, then big-endian (address, time).

    Bit 0 of an address is 0 for brighter, bits 1-7 and 8-14 count columns and rows from the far corner. SpikingJelly,
    which the papers' loaders build on, turns the picture by exchanging the two; so does this, for equal frames.
    Raises DataError for a file that is unreadable, truncated, or without events, or whose clock jumps back.
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
        halves, address, t = halves[~special], address[~special], t[~special]
    if halves[:, 0].any():
        raise DataError(f"{path}: an event outside of the {_SENSOR} x {_SENSOR} sensor: addresses of another one")
    x, y = _SENSOR - 1 - (address >> 8 & 0x7F), _SENSOR - 1 - (address >> 1 & 0x7F)
    return _whole(path, unrolled(t), x, y, (address & 1) == 0)


def read_aedat4(path: Path) -> Events:
    """Returns the events of an AEDAT 4 file, coordinates and polarity as stored.

    Raises DataError for a file that is unreadable, damaged or without events, and where the package ``aedat``, which
    decodes the container, is missing.
    """
    try:
        import aedat
    except ImportError:
        raise DataError(f"{path}: reading AEDAT 4 needs a package: pip install 'snnrepro[dvs]'") from None
    # The decoder ends the process where a packet is larger than the memory, or the name of a stream is no text.
    if not _fits(_bytes(path)):
        raise DataError(f"{path}: damaged AEDAT 4 file: not a header and packets that fit into it")
    try:
        with _silent_panic():
            decoder = aedat.Decoder(str(path))
            streams = [number for number, stream in decoder.id_to_stream().items() if stream["type"] == "events"]
            first = min(streams, default=None)
            packets = [packet["events"] for packet in decoder if packet["stream_id"] == first and "events" in packet]
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        # The decoder raises types of its own, RuntimeError, and panics, which are no Exception.
        reason = (str(error).strip() or "unreadable").splitlines()[0]
        raise DataError(f"{path}: damaged AEDAT 4 file: {reason}") from None
    if not streams:
        raise DataError(f"{path}: no stream of events")
    if not packets:
        raise DataError(f"{path}: no events")
    # The fields' names have changed between versions of the decoder, their order has not.
    t, x, y, p = (np.concatenate([part[name] for part in packets]) for name in packets[0].dtype.names[:4])
    return _whole(path, t.astype(np.int64), x.astype(np.int16), y.astype(np.int16), p)


READERS = {"aedat2": (read_aedat2, ".aedat"), "aedat4": (read_aedat4, ".aedat4")}


def _fits(data: bytes) -> bool:
    """Returns whether the header and every packet of an AEDAT 4 file end within ``data``, and its streams have names.

    The header is a flatbuffer. Its second field is where the packets end and a table of them begins, or -1, its third
    a text that describes the streams. A packet is the number of its stream, a size, and so many bytes.
    """
    if not data.startswith(_MAGIC4):
        return False
    first = len(_MAGIC4) + 4
    try:
        (length,) = struct.unpack_from("<I", data, first - 4)
        root = first + struct.unpack_from("<I", data, first)[0]
        fields = root - struct.unpack_from("<i", data, root)[0]
        to_end, to_text = struct.unpack_from("<HH", data, fields + 6)
        end = struct.unpack_from("<q", data, root + to_end)[0] if to_end else -1
        text = root + to_text + struct.unpack_from("<I", data, root + to_text)[0]
        data[text + 4 : text + 4 + struct.unpack_from("<I", data, text)[0]].decode()
        at = first + length
        while at not in (end, len(data)):
            at += 8 + struct.unpack_from("<I", data, at + 4)[0]
    except (struct.error, UnicodeDecodeError):
        return False
    return at <= len(data)


@contextmanager
def _silent_panic() -> Iterator[None]:
    """Nothing appears on the standard error stream while entered: native code that panics writes its stack there."""
    visible, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(visible, 2)
        os.close(visible)
        os.close(nowhere)


def _bytes(path: Path) -> bytes:
    try:
        # A pipe would be waited for.
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: not a file")
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror}") from None
    if not data:
        raise DataError(f"{path}: empty file")
    return data


def _whole(path: Path, t: np.ndarray, x: np.ndarray, y: np.ndarray, p: np.ndarray) -> Events:
    """Returns the events of a file in order of time. Raises DataError for what cannot be a recording of the sensor."""
    if not len(t):
        raise DataError(f"{path}: no events")
    in_time(path, t)
    return checked(path, in_order(t, x, y, p), _SENSOR)
