"""The trainer: one run from its configuration to its record, readable top to bottom."""

import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snnrepro import distributed, io, tracking
from snnrepro.build import build_dataset, build_model, build_penalties, build_task
from snnrepro.collectives import all_sum, any_rank, rank, world_size
from snnrepro.config import RunConfig
from snnrepro.config_values import to_plain
from snnrepro.data.loading import loader
from snnrepro.data.order import EpochOrder
from snnrepro.errors import DataError, DivergedError, Stopped
from snnrepro.identity import run_id
from snnrepro.neurons.mp_init import one_update
from snnrepro.records import RECORD, Record, line_of
from snnrepro.runs import RunLock, parse_lines, read_record, run_path, stored_lines, write_config
from snnrepro.runtime import autocast, code_of, place, provenance, seed_all, set_up
from snnrepro.tasks.task import Batch
from snnrepro.train import guards
from snnrepro.train.average import Average
from snnrepro.train.checkpoint import Checkpoints, assert_finite, weights_of
from snnrepro.train.evaluation import evaluate, to_input
from snnrepro.train.guards import StopRequest, all_finite, learned_scalars
from snnrepro.train.optim import learning_rate, make_optimizer
from snnrepro.train.progress import Progress, timed
from snnrepro.train.record import announce, describe, epoch_line, finite_or_none, timing_of
from snnrepro.train.run_log import run_log
from snnrepro.train.start_from import start_from
from snnrepro.train.state import check_state, restore_generators, state_of
from snnrepro.train.variance import require_samples

# fp16 skips a step whose gradient overflows and lowers its scale; this many in a row mean it cannot recover.
MAX_SKIPPED_STEPS = 20


def train(run: RunConfig) -> Record:
    """Makes the run exist and returns its record: finished runs are read, unfinished ones resumed.

    Raises Stopped after a signal (the state is saved), and other UserErrors for what the user can mend. A run
    whose numbers become non-finite ends with the record's status ``diverged``.
    """
    path = run_path(run)
    lock = RunLock(path)
    with distributed.process_group(run), distributed.entered_on_main(lock), run_log(path):
        record = distributed.from_main(lambda: read_record(path))
        if record is None:
            record = Trainer(run, path, lambda write: distributed.from_main(lambda: lock.held(write))).fit()
        return record


class Trainer:
    """Everything that changes while a run trains, and the loop that changes it. on_disk: calls what writes files."""

    def __init__(self, run: RunConfig, path: Path, on_disk: Callable[..., None] = distributed.from_main):
        self.run, self.path, self.id, self.on_disk = run, path, run_id(run), on_disk
        self.device = set_up(run.runtime, run.seed)
        self.data = distributed.main_first(lambda: build_dataset(run))
        self.provenance = provenance(run.runtime, self.device)
        distributed.require_alike({"data": self.data.digest, **code_of(self.provenance)})
        self.task, self.headline = build_task(run), run.task.headline
        model = build_model(run, in_shape=self.data.in_shape, num_classes=self.task.num_outputs(self.data))
        self.model = place(model, self.device, run.runtime.channels_last)
        self.network = distributed.data_parallel(self.model, self.device)
        self.average = Average(self.model, run.ema_decay) if run.ema_decay is not None else None
        self.evaluated = self.model if self.average is None else self.average.model
        self.parameters = list(self.model.parameters())
        self.penalties = build_penalties(run)
        self.optimizer = make_optimizer(self.model, run.optimizer)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=run.runtime.precision == "fp16")
        self.checkpoints = Checkpoints(path / "checkpoints")
        of_rank = {"batch_size": run.batch_size, "rank": rank(), "ranks": world_size()}
        self.order = EpochOrder(len(self.data.train), seed=run.seed, **of_rank)
        require_samples(self.model, self.data, self.order, run.micro_batches, run.timesteps)
        if rank() > 0:
            # Equal weights above, but dropout of its own from here on.
            seed_all(run.seed + rank())
        # Where the run stands: all of this is in every checkpoint.
        self.epoch = self.batch = self.step = self.skipped = 0
        self.totals = self.no_totals()
        self.best: dict[str, Any] | None = None
        self.final: dict[str, Any] | None = None
        self.timing = {"train_seconds": 0.0, "wait_seconds": 0.0, "images": 0}
        self.lines: list[str] = []  # of metrics.jsonl, one for each finished epoch

    def fit(self) -> Record:
        """Trains to the end and returns the record."""
        self.resume()
        announce(self.run, self.path, self.data, self.optimizer, self.provenance)
        if self.step:
            print(f"resuming at epoch {self.epoch + 1}, batch {self.batch}, step {self.step}")
        self.on_disk(lambda: write_config(self.path, self.run))
        before = parse_lines(self.lines, self.epoch, self.path / "metrics.jsonl", type(self.run.task))
        tracker = tracking.start(self.run, self.path, self.id, before) if rank() == 0 else tracking.NoTracker()
        with StopRequest() as stop:
            try:
                while self.epoch < self.run.epochs:
                    try:
                        self.train_epoch(stop)
                    except DataError:
                        # A signal to the whole process group ends the loader's processes too. Other ranks may
                        # not have noticed, and cannot be asked.
                        if world_size() == 1:
                            self.stop_if_asked(stop)
                        raise
                    tracker.log(self.finish_epoch())
                    self.stop_if_asked(stop)
            except DivergedError as error:
                where = {"message": str(error), "epoch": self.epoch + 1, "step": self.step}
                record = self.write_record("diverged", where)
            else:
                record = self.write_record("done")
        tracker.finish(record)
        return record

    def train_epoch(self, stop: StopRequest) -> None:
        """Trains from the current batch to the end of the epoch."""
        run = self.run
        self.model.train()
        self.order.epoch, self.order.first_batch = self.epoch, self.batch
        batches = loader(
            self.data.train, self.order, workers=run.runtime.workers, pin_memory=self.device.type == "cuda"
        )
        progress = Progress(self.epoch, run.epochs, len(self.order), self.batch)
        saved = started = time.perf_counter()
        for waited, batch in timed(batches):
            distributed.beat(run.runtime)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.epoch, self.batch, len(self.order), run.epochs, run.optimizer)
            measured = self.train_step(batch)
            seen = self.order.batch_len(self.batch)
            self.step, self.batch = self.step + 1, self.batch + 1
            self.totals["seen"] += seen
            for name, value in measured.items():
                self.totals[name] = self.totals.get(name, 0.0) + (value if name in self.task.sums else value * seen)
            now = time.perf_counter()
            self.timing["train_seconds"] += now - started
            self.timing["wait_seconds"] += waited
            self.timing["images"] += seen
            trained = self.headline.text(self.task.trained(self.totals)[f"train_{self.headline.key}"], ".1f")
            progress.update(measured["loss"], trained, seen / (now - started))
            started = now
            if self.batch < len(self.order):
                self.stop_if_asked(stop)
                # Their clocks differ: together, or some would wait for others that do not save.
                if any_rank(now - saved > 60 * run.runtime.checkpoint_minutes):
                    self.save()
                    saved = now
        progress.close()

    def no_totals(self) -> dict[str, float]:
        """Returns what an epoch starts from: sums over its samples."""
        return {"loss": 0.0, **dict.fromkeys(self.task.sums, 0.0), "seen": 0}

    def train_step(self, batch: Batch) -> dict[str, float]:
        """Returns the loss of a batch of all ranks, the task's sums and what the penalties measured, after the update.

        Raises DivergedError before the update when the loss or the gradient is not finite.
        """
        run, parts = self.run, self.run.micro_batches
        batch = self.task.moved(batch, self.device)
        self.optimizer.zero_grad()
        with one_update():
            sums = torch.zeros(())
            for number, part in enumerate(self.task.parts(batch, parts)):
                with nullcontext() if number == parts - 1 else distributed.without_sync(self.network):
                    loss, numbers = self.forward_backward(*part)
                sums = sums + torch.stack(list(numbers.values()))
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        # One transfer for all that the host needs to know about the step.
        norm_value, *values = all_sum(torch.cat([norm[None] / world_size(), sums])).tolist()
        measured = dict(zip(numbers, values, strict=True))
        self.check_finite(batch[0], loss, measured["loss"], norm_value)
        if run.optimizer.clip_grad is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, run.optimizer.clip_grad, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update(self.model)
        return measured

    def forward_backward(self, images: Tensor, targets: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Adds the gradients of a part of the batch. Returns (its loss, its share of the step's numbers).

        The loss of a step is the mean over the samples of all parts and ranks, so each counts by its samples.
        """
        share = len(images) / self.order.batch_len(self.batch)
        x = to_input(self.data.train, images, self.run.runtime.channels_last)
        with autocast(self.run.runtime.precision, self.device), self.penalties.observing(self.model) as seen:
            outputs = self.network(x, self.run.timesteps).float()
        progress = (self.epoch + 1) / self.run.epochs
        loss, measured = self.penalties.added_to(self.task.loss(outputs, targets), seen, progress)
        # DDP takes the mean over ranks where the sum is meant.
        self.scaler.scale(loss * (share * world_size())).backward()
        means = {name: value * share for name, value in {"loss": loss.detach(), **measured}.items()}
        return loss, means | dict(zip(self.task.sums, self.task.summed(outputs.detach(), targets), strict=True))

    def check_finite(self, images: Tensor, loss: Tensor, loss_value: float, norm_value: float) -> None:
        """Raises DataError or DivergedError unless both are finite; fp16 may skip a few steps that overflow."""
        if all_finite(loss_value, norm_value):
            self.skipped = 0
            return
        self.skipped += 1
        if all_finite(loss_value) and self.scaler.is_enabled() and self.skipped < MAX_SKIPPED_STEPS:
            return
        guards.require_finite_batch(self.data.train, images, self.order, self.batch)
        raise DivergedError(f"epoch {self.epoch + 1}, step {self.step + 1}: {guards.non_finite(self.model, loss)}")

    def finish_epoch(self) -> dict[str, Any]:
        """Evaluates, writes the epoch's line and checkpoint, and returns the line."""
        run, totals = self.run, self.totals
        # A buffer may go bad in a step whose loss and gradient are finite.
        assert_finite(self.model.state_dict())
        tested = evaluate(self.evaluated, self.data.test, self.task, run.timesteps, self.device, run.runtime)
        line: Any = {
            "epoch": self.epoch + 1,
            "step": self.step,
            "lr": self.optimizer.param_groups[0]["lr"],
            "train_loss": totals["loss"] / totals["seen"],
            **self.task.trained(totals),
            **{f"train_{term.name}": totals[term.name] / totals["seen"] for term in self.penalties.terms},
            **tested,
            "learned": learned_scalars(self.evaluated),
        }
        guards.require_finite(line)
        self.final = {"epoch": self.epoch + 1, **tested}
        if self.best is None or self.headline.better(tested, self.best):
            self.best = {"epoch": self.epoch + 1, "step": self.step, **tested}
        self.epoch, self.batch, self.totals = self.epoch + 1, 0, self.no_totals()
        self.lines.append(json.dumps(line_of(type(run.task)).numbered(line), allow_nan=False))
        self.on_disk(lambda: io.append_line(self.path / "metrics.jsonl", self.lines[-1]))
        self.save()
        print(epoch_line(line, run, self.timing, len(self.data.train)), flush=True)
        return line

    def stop_if_asked(self, stop: StopRequest) -> None:
        """Saves and raises Stopped after a signal to any rank, unless the run is over anyway."""
        if self.epoch == self.run.epochs or not any_rank(bool(stop.signal)):
            return
        if self.batch:
            self.save()
        by = stop.signal or "a signal to another rank"
        where = f"after step {self.step} (epoch {self.epoch + 1}, batch {self.batch})"
        raise Stopped(f"stopped by {by} {where}, state saved; the same command resumes")

    def save(self) -> None:
        """Writes a checkpoint of everything that determines the rest of the run."""
        state = state_of(self)
        # The best, and for Tables 7-9 those after the first and the middle epoch.
        keep = [self.best["step"] if self.best else None, len(self.order), len(self.order) * (self.run.epochs // 2)]
        self.on_disk(lambda: self.checkpoints.save(self.step, state, keep))

    def resume(self) -> None:
        """Continues from the newest valid checkpoint, where there is one."""
        parts = self.run, self.model, self.optimizer, self.scaler, self.order, self.no_totals()
        terms = [term.name for term in self.penalties.terms]
        state = distributed.from_main(lambda: self.checkpoints.newest(lambda s: check_state(s, *parts, terms)))
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.evaluated.load_state_dict(weights_of(state))
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            restore_generators(state["rng"], self.run.seed, state["step"])
            for name in ("epoch", "batch", "step", "skipped", "totals", "best", "final", "timing"):
                setattr(self, name, state[name])
            self.lines = state.get("lines") or distributed.from_main(
                lambda: stored_lines(self.path, self.epoch, type(self.run.task))
            )
        elif self.run.init_from is not None:
            start_from(self.model, self.run)
            self.evaluated.load_state_dict(self.model.state_dict())
        # Whatever else the file holds was torn, or is behind the checkpoint and will be written again, the same.
        text = "".join(f"{line}\n" for line in self.lines)
        self.on_disk(lambda: io.write_atomic(self.path / "metrics.jsonl", text))

    def write_record(self, status: str, diverged: dict[str, Any] | None = None) -> Record:
        """Writes and returns the run's record, whose presence makes the run finished."""
        record: Any = {
            "id": self.id,
            "status": status,
            "final": self.final,
            "best": self.best,
            "learned": finite_or_none(learned_scalars(self.evaluated)),
            "config": to_plain(self.run),
            "data": describe(self.data),
            "provenance": self.provenance,
            "timing": timing_of(self.timing),
            **({"diverged": diverged} if diverged is not None else {}),
        }
        self.on_disk(lambda: RECORD.write(self.path / "record.json", record))
        return record
