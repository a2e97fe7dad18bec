"""Events to frames: how many events of each polarity every pixel saw in each of T slices of a recording."""

import itertools

import numpy as np
import torch
from torch.nn import functional as F

from snnrepro.data.events.reader import Events, checked

# float16 holds every whole number up to here, and nothing above the second.
EXACT, LARGEST = 2048, 65504


def boundaries(t: np.ndarray, timesteps: int, by: str) -> np.ndarray:
    """Returns where slices begin and end among events at times ``t``, ascending: int64 (timesteps + 1,).

    number: floor(N / T) events each. time: floor((t[-1] - t[0]) / T) microseconds each. What remains belongs to the
    last slice, as in SpikingJelly's rule, which the papers' frames follow; tonic's ``ToFrame`` drops it.
    """
    if by == "number" or not len(t):
        inner = np.arange(timesteps) * (len(t) // timesteps)
    else:
        step = (t[-1] - t[0]) // timesteps
        inner = np.searchsorted(t, t[0] + step * np.arange(timesteps), side="left")
    return np.append(inner, len(t)).astype(np.int64)


def to_frames(events: Events, timesteps: int, by: str, sensor: int) -> np.ndarray:
    """Returns counts uint32 (timesteps, 2, sensor, sensor), darker then brighter; ``by`` as in ``boundaries``.

    Raises DataError for events outside of the sensor, and for polarities that are not of two kinds.
    """
    events = checked("events", events, sensor)
    edges = boundaries(events.t, timesteps, by)
    size = 2 * sensor * sensor
    frames = np.empty((timesteps, size), np.uint32)
    # Slice by slice, so that what lies between stays in the processor's cache.
    for frame, (start, stop) in zip(frames, itertools.pairwise(edges), strict=True):
        cell = events.p[start:stop].astype(np.int64)
        for axis in (events.y, events.x):
            cell *= sensor
            cell += axis[start:stop]
        frame[:] = np.bincount(cell, minlength=size)
    return frames.reshape(timesteps, 2, sensor, sensor)


def resize(frames: np.ndarray, size: int) -> np.ndarray:
    """Returns frames float16 (T, 2, size, size): bilinear without antialiasing, as the papers' loaders resized.

    Counts above ``LARGEST`` become that: float16 would make them infinite. See ``too_large``.
    """
    x = torch.from_numpy(frames.astype(np.float32))
    if size != frames.shape[-1]:
        x = F.interpolate(x, (size, size), mode="bilinear", align_corners=False, antialias=False)
    return x.clamp(max=LARGEST).numpy().astype(np.float16)


def too_large(frames: np.ndarray) -> str | None:
    """Returns in words what ``resize`` does to counts of ``frames`` that float16 does not hold exactly, or None."""
    if (most := int(frames.max())) <= EXACT:
        return None
    what = f"clipped at {LARGEST}" if most > LARGEST else "rounded to 11 binary digits"
    return f"a pixel has {most} events in one frame; counts above {EXACT} are {what}"
