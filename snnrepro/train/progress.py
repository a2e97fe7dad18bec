"""What a person sees while a run trains: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """Shows one epoch: loss, accuracy, images per second, time left."""

    def __init__(self, epoch: int, epochs: int, batches: int, first_batch: int):
        self.title = f"epoch {epoch + 1}/{epochs}"
        self.bar = tqdm(total=batches, initial=first_batch, desc=self.title, leave=False,
                        disable=not sys.stderr.isatty(), dynamic_ncols=True)  # fmt: skip
        self.batches, self.first, self.done = batches, first_batch, first_batch
        self.started = self.last_line = time.monotonic()

    def update(self, loss: float, top1: float, images_per_second: float) -> None:
        """Advances by one batch."""
        self.done += 1
        if not self.bar.disable:
            self.bar.set_postfix_str(f"loss {loss:.3f}, top-1 {top1:.1f} %, {images_per_second:.0f} images/s")
            self.bar.update()
        elif time.monotonic() - self.last_line > _SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            per_batch = (self.last_line - self.started) / (self.done - self.first)
            left = per_batch * (self.batches - self.done)
            print(f"{self.title}, batch {self.done}/{self.batches}: loss {loss:.3f}, top-1 {top1:.1f} %, "
                  f"{images_per_second:.0f} images/s, {left:.0f} s left", flush=True)  # fmt: skip

    def close(self) -> None:
        """Removes the bar."""
        self.bar.close()


def timed(batches: Iterable[Any]) -> Iterator[tuple[float, Any]]:
    """Yields (seconds waited for the loader, batch)."""
    iterator = iter(batches)
    while True:
        started = time.perf_counter()
        batch = next(iterator, None)
        if batch is None:
            return
        yield time.perf_counter() - started, batch
