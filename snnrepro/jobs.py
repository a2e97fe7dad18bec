"""Many runs on one machine: each job makes one run exist, in a process of its own."""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing import connection, forkserver
from pathlib import Path
from typing import IO, TYPE_CHECKING

from snnrepro.config import RunConfig
from snnrepro.ending import answered, ended
from snnrepro.errors import Stopped, StorageError, UserError
from snnrepro.identity import run_id
from snnrepro.launch import end_with_parent
from snnrepro.runs import read_record, run_path
from snnrepro.system import usable_cores

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, ForkServerProcess  # Windows has none

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(slots=True)
class Job:
    """One run of a sweep or table.

    words: its command line. status: done, diverged, failed, stopped or waiting; code: exit code of its process,
    None where none was started.
    """

    words: list[str]
    run: RunConfig
    status: str = "waiting"
    code: int | None = None
    message: str = ""

    @property
    def path(self) -> Path:
        return run_path(self.run)

    def headline(self) -> float:
        """Returns the result of the run, which is done: its task's headline."""
        record = read_record(self.path)
        assert record is not None and record["final"] is not None
        return record["final"][self.run.task.headline.key]  # type: ignore[literal-required]

    def refresh(self) -> None:
        """Reads the status from the run's record, where there is one."""
        record = read_record(self.path)
        if record is not None:
            self.status = record["status"]


def parallelism(run: RunConfig) -> tuple[int, int]:
    """Returns (jobs at a time, threads per process): one thread each on CPUs, one job at a time on GPUs."""
    cores, processes = usable_cores(), run.runtime.processes
    if run.runtime.threads is not None:
        return max(1, cores // (run.runtime.threads * processes)), run.runtime.threads
    import torch

    on_gpu = run.runtime.device != "cpu" and torch.cuda.is_available()
    return (1, max(1, cores // processes)) if on_gpu else (max(1, cores // processes), 1)


def run_jobs(jobs: Sequence[Job]) -> None:
    """Runs every job that has no record yet, several at a time, and leaves the outcome in the jobs.

    A failing job does not stop the others. SIGINT, SIGTERM and SIGHUP end the started ones, which save and stop, and
    raise Stopped; the same command goes on from there.
    """
    waiting: dict[str, Job] = {}
    for job in jobs:
        job.refresh()
        if job.status == "waiting":
            waiting.setdefault(run_id(job.run), job)
    if waiting:
        queue = list(waiting.values())
        _Pool(queue, *parallelism(queue[0].run)).drain()
    for job in jobs:
        twin = waiting.get(run_id(job.run))
        if twin is not None:
            job.status, job.code, job.message = twin.status, twin.code, twin.message
            if job.status == "failed":
                # It may have been in the hands of another sweep or table, which has finished it since.
                job.refresh()


class _Pool:
    def __init__(self, queue: list[Job], at_a_time: int, threads: int):
        self.queue, self.at_a_time, self.threads = queue, at_a_time, threads
        self.total, self.finished = len(queue), 0
        self.running: dict[ForkServerProcess, tuple[Job, float, IO[str]]] = {}
        self.signal = 0
        self.context = _forkserver(threads)

    def drain(self) -> None:
        print(f"{self.total} runs, {self.at_a_time} at a time, {self.threads} threads each", flush=True)
        old = {s: signal.signal(s, self._stop) for s in _SIGNALS if signal.getsignal(s) != signal.SIG_IGN}
        try:
            while self.running or (self.queue and not self.signal):
                while self.queue and not self.signal and len(self.running) < self.at_a_time:
                    self._start(self.queue.pop(0))
                if self.running:
                    # A process that ends wakes this up, and so does one that a signal's handler ends.
                    connection.wait([process.sentinel for process in self.running])
                self._collect()
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
        if self.signal:
            raise Stopped(f"stopped by {signal.Signals(self.signal).name}; the same command goes on from here")

    def _stop(self, number: int, _frame: object) -> None:
        self.signal = number
        for process in self.running:
            process.terminate()

    def _start(self, job: Job) -> None:
        words = [*job.words, f"runtime.threads={self.threads}"]
        run = replace(job.run, runtime=replace(job.run.runtime, threads=self.threads))
        try:
            log = tempfile.NamedTemporaryFile("w+", errors="replace")  # noqa: SIM115 - open until the job ends
            process = self.context.Process(target=_command, args=(run, words, log.name))
            process.start()
        except (ConnectionError, EOFError):
            log.close()
            if self.signal:
                # It ended the server that forks the jobs, too.
                return
            raise UserError("the process that forks the runs was ended; the same command goes on from here") from None
        except OSError as error:
            raise StorageError(
                f"cannot start a run: {error.strerror or error}; check {tempfile.gettempdir()}, memory and limits"
            ) from None
        self.running[process] = (job, time.monotonic(), log)
        if self.signal:
            # It came while the process started, which was not among the running ones yet.
            process.terminate()

    def _collect(self) -> None:
        for process in [p for p in self.running if p.exitcode is not None]:
            job, started, log = self.running.pop(process)
            job.code = process.exitcode
            job.refresh()
            if job.status == "waiting":
                # A signal to the whole group may end a process before it can answer by itself.
                stopped = self.signal or job.code == Stopped.exit_code
                job.status = "stopped" if stopped else "failed"
            log.seek(0)
            lines = [line for line in log.read().splitlines() if line.strip()]
            log.close()
            self.finished += 1
            print(f"[{self.finished}/{self.total}] {self._summary(job, lines, time.monotonic() - started)}", flush=True)

    def _summary(self, job: Job, lines: list[str], seconds: float) -> str:
        name = f"{run_id(job.run)} {job.status}"
        if job.status == "done":
            return f"{name}, {job.run.task.headline.text(job.headline())}, {seconds:.0f} s"
        if job.status == "failed":
            errors = [line for line in lines if line.startswith("error: ")] or lines
            job.message = errors[-1] if errors else "no output"
            return f"{name} (exit code {job.code}): {job.message}"
        return f"{name}, {seconds:.0f} s"


def _forkserver(threads: int) -> "ForkServerContext":
    """Returns how to start processes from one that has imported everything: each run saves those seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["snnrepro.train.one", "snnrepro.train.loop", "snnrepro.data.digits"])
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(threads)
    # Ctrl-C is for the sweep, which answers as soon as it is let through again; the server inherits that it is held
    # back, because it ignores it by itself only after seconds of imports.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        os.environ.pop("OMP_NUM_THREADS")
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before
    return context


def _command(run: RunConfig, words: Sequence[str], log: str) -> None:
    """Makes ``run``, which ``words`` name, in this process, with its output in a file, and exits with its code."""
    # Ctrl-C reaches the sweep, which passes it on once; a job must not see it twice.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # By the process that forked this one, and by the sweep, which is another.
    end_with_parent()
    threading.Thread(target=_end_with_sweep, daemon=True).start()
    file = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    from snnrepro.train.one import train_one

    sys.exit(ended(lambda: answered(lambda: train_one(run, words))))


def _end_with_sweep() -> None:
    sweep = multiprocessing.parent_process()
    assert sweep is not None
    sweep.join()
    os.kill(os.getpid(), signal.SIGTERM)
