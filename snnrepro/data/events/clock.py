"""Time stamps of a recording: a clock that passed its end is unrolled, one that jumps back is named."""

from pathlib import Path

import numpy as np

from snnrepro.errors import DataError

# Events that were written late, as packets of several sources are: so much is brought into order.
_LATE_US = 1_000
# Part of a recording that this may be at most: a clock that starts anew is not an event that comes late.
_LATE_PART = 0.01
# Where both ends of a step are so near to the ends of the clock, it passed its end. A sixteenth of 31 bits: 2 minutes.
_NEAR_END = 1 / 16


def unrolled(t: np.ndarray) -> np.ndarray:
    """Returns microseconds, int64, that go on where the clock of ``t`` (N,), values 0..2**32-1, begins at 0 again.

    The clock has 32 bits, or 31 where no value needs more: programs that keep it as a signed number go to 2**31-1.
    """
    if not len(t):
        return t
    period = 2**31 if t.max() < 2**31 else 2**32
    step, whole = np.diff(t), (1 - _NEAR_END) * period
    # An event that comes late steps back across the end.
    laps = np.concatenate([[0], np.cumsum((step < -whole).astype(np.int64) - (step > whole))])
    return t + period * (laps - laps.min())


def in_time(path: Path, t: np.ndarray) -> None:
    """Raises DataError unless the times ``t`` (N,), microseconds, are those of one clock that goes forward.

    Events that come late by at most a millisecond, and a hundredth of the recording, are let pass.
    """
    first, last = int(t.min()), int(t.max())
    if first < 0:
        raise DataError(f"{path}: a negative time, {first} microseconds")
    late = np.maximum.accumulate(t) - t
    worst = int(late.argmax())
    if late[worst] > min(_LATE_US, _LATE_PART * (last - first)):
        raise DataError(
            f"{path}: its clock jumps back by {late[worst]} microseconds at event {worst}, to {t[worst]}: the frames "
            "would be wrong; cut the recording there, or write it again in order of time"
        )
