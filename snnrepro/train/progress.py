"""What a person sees while a run trains: a bar on a terminal, a plain line now and then elsewhere."""

import resource
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from tqdm import tqdm

from snnrepro.collectives import rank

_SECONDS_BETWEEN_LINES = 30.0
# After so many batches of an epoch its length is known well enough; shorter epochs tell by their own end.
_ESTIMATE_AFTER, _LONG_EPOCH = 20, 60.0


class Progress:
    """Shows one epoch: loss, accuracy, images per second, time left."""

    def __init__(self, epoch: int, epochs: int, batches: int, first_batch: int):
        self.title = f"epoch {epoch + 1}/{epochs}"
        self.bar = tqdm(total=batches, initial=first_batch, desc=self.title, leave=False,
                        disable=not sys.stderr.isatty() or rank() > 0, dynamic_ncols=True)  # fmt: skip
        self.batches, self.first, self.done = batches, first_batch, first_batch
        self.epochs_left = epochs - epoch
        self.started = self.last_line = time.monotonic()

    def update(self, loss: float, headline: str, images_per_second: float) -> None:
        """Advances by one batch; says early in a long epoch how long it and the run will take."""
        self.done += 1
        if self.done - self.first == _ESTIMATE_AFTER:
            self._estimate()
        if not self.bar.disable:
            self.bar.set_postfix_str(f"loss {loss:.3f}, {headline}, {images_per_second:.0f} images/s")
            self.bar.update()
        elif time.monotonic() - self.last_line > _SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            per_batch = (self.last_line - self.started) / (self.done - self.first)
            left = per_batch * (self.batches - self.done)
            print(f"{self.title}, batch {self.done}/{self.batches}: loss {loss:.3f}, {headline}, "
                  f"{images_per_second:.0f} images/s, {left:.0f} s left", flush=True)  # fmt: skip

    def _estimate(self) -> None:
        per_epoch = (time.monotonic() - self.started) / _ESTIMATE_AFTER * self.batches
        if per_epoch > _LONG_EPOCH:
            hours = per_epoch * (self.epochs_left - self.first / self.batches) / 3600
            print(f"{self.title}: about {per_epoch / 60:.1f} min of training per epoch, {hours:.1f} h for the rest of "
                  f"the run, up to {_peak_gigabytes():.1f} GB of memory", flush=True)  # fmt: skip

    def close(self) -> None:
        """Removes the bar."""
        self.bar.close()


def _peak_gigabytes() -> float:
    """Returns the largest memory so far: the GPU's where one is in use, else the process's."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def timed(batches: Iterable[Any]) -> Iterator[tuple[float, Any]]:
    """Yields (seconds waited for the loader, batch)."""
    iterator = iter(batches)
    while True:
        started = time.perf_counter()
        batch = next(iterator, None)
        if batch is None:
            return
        yield time.perf_counter() - started, batch
