"""The trainer: one run from its configuration to its record, readable top to bottom."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snnrepro import io, tracking
from snnrepro.build import build_dataset, build_loss, build_model, build_penalties
from snnrepro.compose import to_plain, to_yaml
from snnrepro.config import RunConfig
from snnrepro.data import EpochOrder, loader
from snnrepro.errors import DataError, DivergedError, Stopped
from snnrepro.runs import RunLock, read_record, run_id, run_path
from snnrepro.runtime import autocast, place, provenance, restore_rng, rng_state, set_up
from snnrepro.train.checkpoint import Checkpoints, assert_finite
from snnrepro.train.evaluation import evaluate, to_input
from snnrepro.train.guards import StopRequest, learned_scalars, where_not_finite
from snnrepro.train.optim import learning_rate, make_optimizer
from snnrepro.train.progress import Progress, timed
from snnrepro.train.record import describe, finite_or_none, timing_of

# fp16 skips a step whose gradient overflows and lowers its scale; this many in a row mean it cannot recover.
MAX_SKIPPED_STEPS = 20


def train(run: RunConfig) -> dict[str, Any]:
    """Makes the run exist and returns its record: finished runs are read, unfinished ones resumed.

    Raises Stopped after a signal (the state is saved), and other UserErrors for what the user can mend. A run
    whose numbers become non-finite ends with the record's status ``diverged``.
    """
    path = run_path(run)
    with RunLock(path):
        record = read_record(path)
        return record if record is not None else Trainer(run, path).fit()


class Trainer:
    """Everything that changes while a run trains, and the loop that changes it."""

    def __init__(self, run: RunConfig, path: Path):
        self.run, self.path, self.id = run, path, run_id(run)
        self.device = set_up(run.runtime, run.seed)
        self.data = build_dataset(run)
        model = build_model(run, in_shape=self.data.in_shape, num_classes=self.data.num_classes)
        self.model = place(model, self.device, run.runtime.channels_last)
        self.provenance = provenance(run.runtime, self.device)
        self.parameters = list(self.model.parameters())
        self.loss_fn, self.penalties = build_loss(run), build_penalties(run)
        self.optimizer = make_optimizer(self.model, run.optimizer)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=run.runtime.precision == "fp16")
        self.checkpoints = Checkpoints(path / "checkpoints")
        self.order = EpochOrder(len(self.data.train), seed=run.seed, batch_size=run.batch_size)
        # Where the run stands: all of this is in every checkpoint.
        self.epoch = self.batch = self.step = self.skipped = 0
        self.totals = {"loss": 0.0, "correct": 0, "seen": 0}
        self.best: dict[str, Any] | None = None
        self.final: dict[str, Any] | None = None
        self.timing = {"train_seconds": 0.0, "wait_seconds": 0.0, "images": 0}

    def fit(self) -> dict[str, Any]:
        """Trains to the end and returns the record."""
        self.resume()
        self.announce()
        io.write_atomic(self.path / "config.yaml", to_yaml(self.run))
        tracker = tracking.start(self.run, self.path, self.id)
        with StopRequest() as stop:
            try:
                while self.epoch < self.run.epochs:
                    try:
                        self.train_epoch(stop)
                    except DataError:
                        # A signal to the whole process group ends the loader's processes too.
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
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.epoch, run.epochs, run.optimizer)
        self.model.train()
        self.order.epoch, self.order.first_batch = self.epoch, self.batch
        batches = loader(
            self.data.train, self.order, workers=run.runtime.workers, pin_memory=self.device.type == "cuda"
        )
        progress = Progress(self.epoch, run.epochs, len(self.order), self.batch)
        saved = started = time.perf_counter()
        for waited, (images, labels) in timed(batches):
            loss, correct, measured = self.train_step(images, labels)
            self.step += 1
            self.batch += 1
            self.totals["loss"] += loss * len(labels)
            self.totals["correct"] += correct
            self.totals["seen"] += len(labels)
            for name, value in measured.items():
                self.totals[name] = self.totals.get(name, 0.0) + value * len(labels)
            now = time.perf_counter()
            self.timing["train_seconds"] += now - started
            self.timing["wait_seconds"] += waited
            self.timing["images"] += len(labels)
            progress.update(loss, 100 * self.totals["correct"] / self.totals["seen"], len(labels) / (now - started))
            started = now
            if self.batch < len(self.order):
                self.stop_if_asked(stop)
                if now - saved > 60 * run.runtime.checkpoint_minutes:
                    self.save()
                    saved = now
        progress.close()

    def train_step(self, images: Tensor, labels: Tensor) -> tuple[float, int, dict[str, float]]:
        """Returns (loss, number of correct predictions, what the penalties measured) of one batch, after the update.

        Raises DivergedError before the update when the loss or the gradient is not finite.
        """
        images = images.to(self.device, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True)
        x = to_input(self.data.train, images, self.run.runtime.channels_last)
        with autocast(self.run.runtime.precision, self.device), self.penalties.observing(self.model) as seen:
            logits = self.model(x, self.run.timesteps).float()
        progress = (self.epoch + 1) / self.run.epochs
        loss, measured = self.penalties.added_to(self.loss_fn(logits, labels), seen, progress)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        correct = (self.loss_fn.readout(logits.detach())[-1].argmax(-1) == labels).sum()
        # One transfer for all that the host needs to know about the step.
        numbers = torch.stack([loss.detach(), norm, correct, *measured.values()]).tolist()
        loss_value, norm_value, correct_value, *values = numbers
        self.check_finite(loss, loss_value, norm_value)
        if self.run.optimizer.clip_grad is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.run.optimizer.clip_grad, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss_value, int(correct_value), dict(zip(measured, values, strict=True))

    def check_finite(self, loss: Tensor, loss_value: float, norm_value: float) -> None:
        """Raises DivergedError unless both are finite; fp16 may skip a few steps whose gradient overflows."""
        if _finite(loss_value, norm_value):
            self.skipped = 0
            return
        self.skipped += 1
        if _finite(loss_value) and self.scaler.is_enabled() and self.skipped < MAX_SKIPPED_STEPS:
            return
        tensor, layer = where_not_finite(self.model, loss)
        values = learned_scalars(self.model)[layer]
        text = ", ".join(f"{name}={value:.4g}" for name, value in values.items())
        raise DivergedError(
            f"epoch {self.epoch + 1}, step {self.step + 1}: {tensor} is not finite; "
            f"nearest spiking layer {layer}: {text}"
        )

    def finish_epoch(self) -> dict[str, Any]:
        """Evaluates, writes the epoch's line and checkpoint, and returns the line."""
        run, totals = self.run, self.totals
        # A buffer may have gone bad in a step whose loss and gradient were still finite.
        assert_finite(self.model.state_dict())
        tested = evaluate(
            self.model,
            self.data.test,
            self.loss_fn,
            timesteps=run.timesteps,
            device=self.device,
            runtime=run.runtime,
        )
        if not _finite(tested["loss"]):
            raise DivergedError(f"epoch {self.epoch + 1}: the test loss is not finite")
        self.final = {"epoch": self.epoch + 1, **tested}
        line = {
            "epoch": self.epoch + 1,
            "step": self.step,
            "lr": self.optimizer.param_groups[0]["lr"],
            "train_loss": totals["loss"] / totals["seen"],
            "train_top1": 100 * totals["correct"] / totals["seen"],
            **{f"train_{term.name}": totals[term.name] / totals["seen"] for term in self.penalties.terms},
            **tested,
            "learned": learned_scalars(self.model),
        }
        if self.best is None or tested["top1"] > self.best["top1"]:
            self.best = {"epoch": self.epoch + 1, "step": self.step, **tested}
        self.epoch, self.batch = self.epoch + 1, 0
        self.totals = {"loss": 0.0, "correct": 0, "seen": 0}
        io.append_line(self.path / "metrics.jsonl", json.dumps(line, allow_nan=False))
        self.save()
        print(
            f"epoch {self.epoch}/{run.epochs}: loss {line['train_loss']:.4f}, train top-1 {line['train_top1']:.2f} %, "
            f"test loss {line['loss']:.4f}, test top-1 {line['top1']:.2f} %, {self.pace()}",
            flush=True,
        )
        return line

    def pace(self) -> str:
        """Returns images per second and the training time left, as text."""
        per_image = self.timing["train_seconds"] / self.timing["images"]
        left = (self.run.epochs - self.epoch) * len(self.data.train) * per_image
        return f"{1 / per_image:.0f} images/s, {left:.0f} s left"

    def stop_if_asked(self, stop: StopRequest) -> None:
        """Saves and raises Stopped after a signal, unless the run is over anyway."""
        if not stop.signal or self.epoch == self.run.epochs:
            return
        if self.batch:
            self.save()
        raise Stopped(
            f"stopped by {stop.signal} after step {self.step} (epoch {self.epoch + 1}, batch {self.batch}), "
            "state saved; the same command resumes"
        )

    def save(self) -> None:
        """Writes a checkpoint of everything that determines the rest of the run."""
        state = {
            "run": self.id,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": rng_state(),
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.step,
            "skipped": self.skipped,
            "totals": self.totals,
            "best": self.best,
            "final": self.final,
            "timing": self.timing,
        }
        self.checkpoints.save(self.step, state, self.best["step"] if self.best else None)

    def resume(self) -> None:
        """Continues from the newest valid checkpoint, where there is one."""
        state = self.checkpoints.newest()
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            restore_rng(state["rng"])
            for name in ("epoch", "batch", "step", "skipped", "totals", "best", "final", "timing"):
                setattr(self, name, state[name])
        # Lines behind the checkpoint will be written again, the same.
        metrics = self.path / "metrics.jsonl"
        if metrics.exists():
            lines = metrics.read_text().splitlines()[: self.epoch]
            io.write_atomic(metrics, "".join(line + "\n" for line in lines))

    def announce(self) -> None:
        """Says what is about to run."""
        data, run = self.data, self.run
        facts = self.provenance
        groups = ", ".join(
            f"{g['name']} {sum(p.numel() for p in g['params'])} (decay {g['weight_decay']:g})"
            for g in self.optimizer.param_groups
        )
        print(f"run {self.id} in {self.path}")
        print(f"data {data.name}: {data.split}, digest {data.digest[:12]}")
        if data.embedded:
            print("embedded data: the numbers of this run are not numbers of the paper")
        print(f"model {run.model.name}: parameters {groups}")
        print(f"on {facts['device']}, {facts['threads']} threads, {facts['precision']}, LIF backend {facts['backend']}")
        if self.step:
            print(f"resuming at epoch {self.epoch + 1}, batch {self.batch}, step {self.step}")

    def write_record(self, status: str, diverged: dict[str, Any] | None = None) -> dict[str, Any]:
        """Writes and returns the run's record; its presence is what makes the run finished."""
        record = {
            "id": self.id,
            "status": status,
            "final": self.final,
            "best": self.best,
            "learned": finite_or_none(learned_scalars(self.model)),
            "config": to_plain(self.run),
            "data": describe(self.data),
            "provenance": self.provenance,
            "timing": timing_of(self.timing),
        }
        if diverged is not None:
            record["diverged"] = diverged
        io.write_json(self.path / "record.json", record)
        return record


def _finite(*values: float) -> bool:
    return all(abs(value) < float("inf") for value in values)
