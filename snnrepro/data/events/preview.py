"""A picture of frames, to see with one's own eyes what a network is given."""

import io as memory
from pathlib import Path

import numpy as np
from PIL import Image

from snnrepro import io

_GREY, _GAP = 128, 2


def picture(samples: np.ndarray, scale: int) -> np.ndarray:
    """Returns RGB uint8 (height, width, 3): one row per sample, its frames from left to right.

    samples: counts (N, T, 2, S, S). Grey is no event, red adds ON, blue adds OFF; the 99th percentile of a sample's
    non-zero counts is full colour. scale: screen pixels per pixel.
    """
    rows = []
    for frames in samples.astype(np.float64):
        seen = frames[frames > 0]
        frames = np.minimum(frames / (np.percentile(seen, 99) if len(seen) else 1), 1)
        off, on = frames[:, 0], frames[:, 1]
        rgb = np.stack([_GREY * (1 + on - off), _GREY * (1 - on / 2 - off / 2), _GREY * (1 + off - on)], -1)
        tiles = np.clip(rgb, 0, 255).astype(np.uint8).repeat(scale, 1).repeat(scale, 2)
        tiles = np.pad(tiles, ((0, 0), (0, _GAP), (0, _GAP), (0, 0)), constant_values=255)
        rows.append(np.concatenate(list(tiles), axis=1))
    return np.concatenate(rows)[:-_GAP, :-_GAP]


def write_png(samples: np.ndarray, file: Path, scale: int = 4) -> None:
    """Writes the picture of ``samples`` (N, T, 2, S, S) as PNG. Raises StorageError."""
    buffer = memory.BytesIO()
    Image.fromarray(picture(samples, scale)).save(buffer, format="PNG", optimize=True)
    io.write_atomic(file, buffer.getvalue())
