"""The loader: batched fetches, worker processes that change nothing but the speed."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.queues import Queue
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from snnrepro.data.images import ImageSet
from snnrepro.data.order import EpochOrder
from snnrepro.errors import DataError, UserError
from snnrepro.launch import end_with_parent


def _as_is(batch: Any) -> Any:
    return batch


class _Workers(_MultiProcessingDataLoaderIter):
    """torch's worker processes, which also end in silence where only some of them could be started."""

    def __init__(self, loader: DataLoader):
        # torch sets this last, and needs it to end those that did start.
        self._workers_status = [True] * loader.num_workers
        super().__init__(loader)

    def __del__(self) -> None:
        # Raised where it failed before there was anything to end.
        with suppress(AttributeError):
            super().__del__()


class _Loader(DataLoader):
    dataset: ImageSet

    def check_worker_number_rationality(self) -> None:
        """How many processes are worth their while is the user's to say, not torch's."""

    def _get_iterator(self) -> Any:
        return _Workers(self) if self.num_workers else super()._get_iterator()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:  # type: ignore[override]
        if self.num_workers == 0:
            yield from super().__iter__()
            return
        try:
            yield from self._start_workers()
        except UserError as error:
            # torch puts the worker's traceback in front. What is wrong with a file is so without workers too.
            raise type(error)(str(error).strip().splitlines()[-1].partition("Error: ")[2]) from None
        except Exception as error:
            reason = str(error).strip().splitlines()[-1]
            if "Too many open files" in reason:
                reason = f"too many open files for runtime.workers={self.num_workers}; ulimit -n sets how many may be"
            raise DataError(
                f"dataset={self.dataset.name}: {reason}; runtime.workers=0 loads without worker processes"
            ) from error

    def _start_workers(self) -> Iterator[tuple[Tensor, Tensor]]:
        # torch's SIGCHLD handler raises wherever the main thread happens to be, in the middle of a training step too.
        # Without it a worker's death is seen when its batch is due, and a SIGTERM to the whole process group, workers
        # included, lets the step end and the run save.
        if threading.current_thread() is not threading.main_thread():
            return super().__iter__()
        handler = signal.getsignal(signal.SIGCHLD)
        try:
            return super().__iter__()
        finally:
            signal.signal(signal.SIGCHLD, handler)


def _prepare(_worker: int) -> None:
    """Makes a worker end at once with its parent, and where it cannot hand a batch over; it would be waited for."""
    # Not when torch next looks: it has the files of its parent open, the lock of the run among them.
    end_with_parent(signal.SIGKILL)

    def end(error: Exception, _batch: object) -> None:
        print(f"loader: {str(error).strip().splitlines()[-1]}", file=sys.stderr, flush=True)
        os._exit(1)

    Queue._on_queue_feeder_error = staticmethod(end)  # type: ignore[attr-defined]


def loader(dataset: ImageSet, order: EpochOrder, *, workers: int, pin_memory: bool) -> DataLoader:
    """Returns the loader of (images uint8 (B, C, H, W), labels int64 (B,)) in the given order.

    Iterating it leaves the global random state alone, and raises DataError when a worker process dies or raises.
    """
    return _Loader(
        dataset,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=_as_is,
        worker_init_fn=_prepare,
        pin_memory=pin_memory,
        # The system's own way to start processes: joblib's workers bring one as the default that DataLoader cannot use.
        multiprocessing_context=multiprocessing.get_all_start_methods()[0] if workers else None,
        # Only seeds the workers, in which nothing is random; left out, the seed would be drawn from the global state.
        generator=torch.Generator(),
    )
