"""Several processes training one run (ranks), on torch's own engine: torchrun starts them, DDP averages gradients.

Every rank runs the same program on its part of each batch. Rank 0 alone prints and writes; what it reads, and what
goes wrong while it does, it passes on. ``collectives.py`` has what ranks exchange inside a step.
"""

import faulthandler
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from snnrepro.collectives import of_other_rank, rank, world_size
from snnrepro.config import RunConfig
from snnrepro.config_values import to_plain
from snnrepro.errors import ConfigError, RankError, UserError
from snnrepro.execution import RuntimeConfig
from snnrepro.launch import end_with_parent, launched, processes_here
from snnrepro.tracking import flat

T = TypeVar("T")

# How long the ranks that are left wait for each other's report before they name the one that is missing.
_REPORT_SECONDS = 5.0
_TELL_SECONDS = 0.2
# What each machine of a run may have of its own.
_OF_MACHINE = (
    "logger", "dataset.root", "dataset.download", "runtime.output_dir", "runtime.workers", "runtime.threads",
    "runtime.checkpoint_minutes", "runtime.rank_timeout",
)  # fmt: skip


@contextmanager
def process_group(run: RunConfig) -> Iterator[None]:
    """Joins the other ranks while entered; does nothing in a lone process.

    Raises ConfigError when the launcher's numbers contradict the configuration, or another rank has another one;
    RankError naming the ranks that do not come within ``runtime.rank_timeout`` seconds, or that are lost later.
    """
    runtime = run.runtime
    if not launched():
        yield
        return
    world, local = int(os.environ["WORLD_SIZE"]), processes_here()
    if runtime.processes not in (1, local):
        raise ConfigError(
            f"runtime.processes={runtime.processes}: torchrun started {local} on this machine; leave it out"
        )
    cuda = runtime.device != "cpu" and torch.cuda.is_available()
    if cuda:
        if local > torch.cuda.device_count():
            raise ConfigError(f"torchrun: {local} processes on {torch.cuda.device_count()} GPUs; start one for each")
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    end_with_parent()
    timeout = timedelta(seconds=runtime.rank_timeout)
    store, number = _meet(runtime.rank_timeout)
    with _naming_lost_ranks(store, number, world):
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(backend, store=store, rank=number, world_size=world, timeout=timeout)
        try:
            settings = {key.replace("/", "."): value for key, value in flat(to_plain(run)).items()}
            require_alike({key: settings[key] for key in settings if not key.startswith(_OF_MACHINE)})
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
    dist.destroy_process_group()


def _meet(seconds: float) -> tuple[dist.Store, int]:
    """Returns the store in which the ranks talk, and this one's number.

    The store outlives every rank: those that are left can still talk when one is gone.
    """
    met: list[Any] = []
    failed: list[Exception] = []

    def meet() -> None:
        try:
            met.extend(next(dist.rendezvous("env://", timeout=timedelta(seconds=seconds))))
        except Exception as error:
            failed.append(error)

    # Where another program holds the port and says nothing, torch waits for its answer without an end.
    thread = threading.Thread(target=meet, daemon=True)
    thread.start()
    thread.join(seconds + _REPORT_SECONDS)
    if met:
        return met[0], met[1]
    if failed and not isinstance(failed[0], dist.DistError | RuntimeError | ValueError):
        raise failed[0]
    reason = "what listens there does not answer: it is another program, or hangs"
    if failed:
        reason = str(failed[0]).strip().splitlines()[0]
    place = f"MASTER_ADDR:MASTER_PORT = {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    who = f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}"
    if "EADDRINUSE" in reason:
        raise RankError(f"{who}: {place}: another program has this port; choose another one for all ranks")
    raise RankError(f"{who}: the others did not meet at {place} within runtime.rank_timeout={seconds:g} s: {reason}")


@contextmanager
def _naming_lost_ranks(store: Any, number: int, world: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not of_other_rank(error):
            raise
        # torchrun asks the ranks that are left to end as soon as one has: not before they have said why.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        store.set(f"reported/{number}", "")
        deadline = time.monotonic() + _REPORT_SECONDS
        missing = [r for r in range(world) if not store.check([f"reported/{r}"])]
        while missing and time.monotonic() < deadline:
            time.sleep(0.1)
            missing = [r for r in missing if not store.check([f"reported/{r}"])]
        names = ", ".join(str(r) for r in missing) or "unknown"
        # Without the place in gloo's source in front, and its advice behind.
        reason = re.sub(r"^\[.*?\] ", "", str(error).strip().splitlines()[0]).split(". ")[0]
        raise RankError(
            f"rank {number}: lost rank {names} (ended, or hangs): {reason}; the same command resumes"
        ) from error


def beat(runtime: RuntimeConfig) -> None:
    """Says that this rank lives. One that says nothing for ``runtime.rank_timeout`` prints its stacks and ends."""
    if world_size() > 1:
        faulthandler.dump_traceback_later(runtime.rank_timeout + _REPORT_SECONDS / 2, exit=True)


def from_main(function: Callable[[], T]) -> T:
    """Returns what ``function`` returns on rank 0, where alone it runs; its UserError is raised on every rank."""
    if world_size() == 1:
        return function()
    answer: list[Any] = [None, None]
    if rank() == 0:
        try:
            answer[0] = function()
        except UserError as error:
            error.common = True
            answer[1] = error
    dist.broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


@contextmanager
def entered_on_main(context: AbstractContextManager) -> Iterator[None]:
    """Enters ``context`` on rank 0 alone; a UserError from entering is raised on every rank."""
    with ExitStack() as stack:

        def enter() -> None:
            stack.enter_context(context)

        from_main(enter)
        yield


def main_first(function: Callable[[], T]) -> T:
    """Returns ``function()`` of this rank; rank 0 runs before the others, so that one downloads and all find.

    Making a dataset may take longer than ``runtime.rank_timeout``: the others wait as long as rank 0 lives.
    """
    result: list[T] = []
    if rank() > 0:
        _wait_for_main()
    from_main(lambda: _waited_for(lambda: result.append(function())))
    return result[0] if result else function()


def _wait_for_main() -> None:
    waiting = torch.ones(())
    while waiting:
        dist.broadcast(waiting, 0)


def _waited_for(function: Callable[[], None]) -> None:
    """Calls ``function`` on rank 0 while a thread tells the others to go on waiting."""
    if world_size() == 1:
        function()
        return
    done = threading.Event()

    def tell() -> None:
        # Who is lost is said by the next that needs an answer.
        with suppress(RuntimeError):
            while not done.wait(_TELL_SECONDS):
                dist.broadcast(torch.ones(()), 0)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        function()
    finally:
        done.set()
        thread.join()
        dist.broadcast(torch.zeros(()), 0)


def require_alike(values: dict[str, Any]) -> None:
    """Raises ConfigError, on every rank, naming the first of the values that is not the same on all ranks."""
    first, *others = gather(values)
    for number, theirs in enumerate(others, 1):
        for key in sorted({*first, *theirs}):
            if first.get(key) != theirs.get(key):
                raise ConfigError(
                    f"{key}: {first.get(key)} on rank 0, {theirs.get(key)} on rank {number}; "
                    "start every rank with the same words, code and data"
                )


def gather(value: Any) -> list[Any]:
    """Returns the values of all ranks, on every rank."""
    values = [None] * world_size()
    if world_size() == 1:
        return [value]
    dist.all_gather_object(values, value)
    return values


def data_parallel(model: nn.Module, device: torch.device) -> nn.Module:
    """Returns what to call instead of ``model`` so that its gradients become the mean over ranks; alone, ``model``.

    Buffers are left alone: what moves in them moves by statistics of all ranks, alike everywhere.
    """
    if world_size() == 1:
        return model
    ids = [device.index or torch.cuda.current_device()] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=ids, forward_sync_buffers=False, gradient_as_bucket_view=True)


def without_sync(network: nn.Module) -> AbstractContextManager:
    """Returns a context in which backward passes of ``network`` only add up gradients, and send none."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()
