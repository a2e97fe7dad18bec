"""A recording as CIFAR10-DVS was made, of any image: it moves in closed loops on a screen, an event camera watches.

The camera is the contrast model of ESIM and v2e: a pixel remembers the logarithm of the light at its last event, and
sends another whenever the light has moved by its threshold. The path is that of Li et al. (2017): six loops of four
diagonal strokes of 50 ms.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from snnrepro.data.draw import SIMULATE, random_bits
from snnrepro.data.events.reader import Events, in_order

LOOPS, STROKE_US = 6, 50_000
# Corners of one loop, in strokes, and the length of a stroke: 10 pixels of a screen 512 pixels wide.
_CORNERS = np.array([(0, 0), (1, -1), (2, 0), (1, 1), (0, 0)], dtype=np.float64)
_STROKE = 10 / 512
# Screen pixels per pixel of the camera, along each axis.
_OVERSAMPLING = 4
DURATION_US = LOOPS * 4 * STROKE_US


@dataclass(frozen=True, slots=True)
class Camera:
    """threshold: natural logarithm of light per event; spread: its standard deviation over pixels, relative.

    leak_hz: events per second that every pixel sends in the dark. rate_hz: how often the light is looked at; the
    crossings in between are interpolated. moving: False leaves the image where it is.
    """

    sensor: int
    threshold: float
    spread: float = 0.15
    leak_hz: float = 0.1
    rate_hz: int = 120
    moving: bool = True


def path(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Returns (times in microseconds (N + 1,), positions (N + 1, 2) x and y in widths of the screen) of one loop."""
    steps = 4 * STROKE_US * camera.rate_hz // 1_000_000
    strokes = np.linspace(0, 4, steps + 1)
    where = np.stack([np.interp(strokes, np.arange(5), _CORNERS[:, axis]) for axis in (0, 1)], 1)
    return strokes * STROKE_US, where * (_STROKE if camera.moving else 0)


def light(images: np.ndarray, camera: Camera) -> np.ndarray:
    """Returns the logarithm of what every pixel sees along one loop, float64 (N + 1, B, sensor, sensor).

    images: uint8 (B, H, W). Bicubic enlargement, edges continued, bilinear shift, average over a pixel; below 20 of
    255 the logarithm goes over into a line, as in v2e.
    """
    side = camera.sensor * _OVERSAMPLING
    screen = F.interpolate(torch.from_numpy(images)[:, None].double(), (side, side), mode="bicubic").clamp(0, 255)
    _, positions = path(camera)
    margin = int(np.ceil(np.abs(positions).max() * side)) + 1
    wide = F.pad(screen, (margin,) * 4, mode="replicate")
    seen = [F.avg_pool2d(_shifted(wide, margin, side, *(side * where)), _OVERSAMPLING)[:, 0] for where in positions]
    intensity = torch.stack(seen).numpy()
    return np.where(intensity <= 20, intensity * (np.log(20) / 20), np.log(np.maximum(intensity, 20)))


def _shifted(wide: Tensor, margin: int, side: int, dx: float, dy: float) -> Tensor:
    """Returns the picture moved by (dx, dy) screen pixels, to the right and down, (B, 1, side, side)."""
    left, top = margin - dx, margin - dy
    x, y = int(np.floor(left)), int(np.floor(top))
    u, v = left - x, top - y

    def cut(row: int, column: int) -> Tensor:
        return wide[:, :, row : row + side, column : column + side]

    upper = (1 - u) * cut(y, x) + u * cut(y, x + 1)
    lower = (1 - u) * cut(y + 1, x) + u * cut(y + 1, x + 1)
    return (1 - v) * upper + v * lower


def thresholds(index: np.ndarray, seed: int, camera: Camera) -> np.ndarray:
    """Returns the thresholds of every pixel (2, B, sensor, sensor), darker and brighter, for recordings ``index``."""
    pixels = np.arange(2 * camera.sensor**2)
    bits = random_bits(seed, SIMULATE, index[:, None], pixels)
    # Box and Muller: two uniform halves of one draw make a normal number.
    first = ((bits >> np.uint64(32)).astype(np.float64) + 0.5) / 2**32
    second = (bits & np.uint64(0xFFFFFFFF)).astype(np.float64) / 2**32
    normal = np.sqrt(-2 * np.log(first)) * np.cos(2 * np.pi * second)
    spread = np.maximum(camera.threshold * (1 + camera.spread * normal), 0.01)
    return spread.reshape(len(index), 2, camera.sensor, camera.sensor).swapaxes(0, 1)


def record(images: np.ndarray, index: np.ndarray, seed: int, camera: Camera) -> list[Events]:
    """Returns the events of a recording of each image; a function of (image, index, seed, camera).

    images: uint8 (B, H, W). index: int64 (B,), which recordings these are. Times lie in [0, DURATION_US).
    """
    times, _ = path(camera)
    levels, (darker, brighter) = light(images, camera), thresholds(index, seed, camera)
    memory, found = levels[0].copy(), []
    for loop in range(LOOPS):
        for step in range(1, len(times)):
            start = loop * 4 * STROKE_US + times[step - 1]
            duration = times[step] - times[step - 1]
            # Seen from a leaking memory, the light seems to grow.
            memory = memory - camera.leak_hz * duration * 1e-6 * brighter
            found += _crossings(levels[step - 1], levels[step], memory, darker, brighter, start, duration)
    parts = [np.concatenate(values) for values in zip(*found, strict=True)]
    which, *events = parts
    order = np.lexsort((events[0], which))
    ends = np.searchsorted(which[order], np.arange(1, len(images)))
    return [in_order(*(values[part] for values in events)) for part in np.split(order, ends)]


def _crossings(
    before: np.ndarray,
    now: np.ndarray,
    memory: np.ndarray,
    darker: np.ndarray,
    brighter: np.ndarray,
    start: float,
    duration: float,
) -> list[tuple[np.ndarray, ...]]:
    """Moves ``memory`` by whole thresholds towards ``now``; returns (recording, t, x, y, p) of every crossing."""
    found: list[tuple[np.ndarray, ...]] = []
    for bright, threshold in ((True, brighter), (False, darker)):
        sign = 1.0 if bright else -1.0
        count = np.maximum(np.floor(sign * (now - memory) / threshold), 0).astype(np.int64)
        which, y, x = np.nonzero(count)
        times = count[which, y, x]
        item = np.repeat(np.arange(len(times)), times)
        nth = np.arange(len(item)) - np.repeat(np.cumsum(times) - times, times) + 1
        which, y, x = which[item], y[item], x[item]
        level = memory[which, y, x] + sign * nth * threshold[which, y, x]
        change = now[which, y, x] - before[which, y, x]
        # Where the memory leaked across a threshold the light may not have moved at all.
        part = np.divide(level - before[which, y, x], change, out=np.ones_like(level), where=change != 0)
        t = start + np.clip(part, 0, 1 - 1e-9) * duration
        memory += sign * count * threshold
        found.append((which, t.astype(np.int64), x, y, np.full(len(x), bright)))
    return found
