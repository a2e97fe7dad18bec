"""Measurements that need a process of their own: peak memory, the first use, another number of threads.

    python -m scripts.bench.child memory '{"kind": "ours", "semantics": "full", "batch": 32}'

prints its result as one line of JSON.
"""

import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch

from scripts.bench import variants as v
from scripts.bench import workloads_cpu as cpu
from scripts.bench.harness import Run, Variant, compare
from snnrepro.compose import compose_run
from snnrepro.data.loading import loader
from snnrepro.train.loop import Trainer
from snnrepro.train.optim import make_optimizer

ROOT = Path(__file__).resolve().parents[2]


def run_child(task: str, arguments: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Returns the result of ``task`` in a fresh process. Raises RuntimeError with its last words if it fails."""
    command = [sys.executable, "-m", "scripts.bench.child", task, json.dumps(dict(arguments))]
    env = {**os.environ, **(environment or {})}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise RuntimeError(f"{task} ended with {done.returncode}: {last[0]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _status(field: str) -> int:
    """Returns a field of /proc/self/status in bytes. Raises RuntimeError where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        raise RuntimeError("peak memory is read from /proc, which this system does not have") from None
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def memory(kind: str, semantics: str, batch: int) -> dict[str, Any]:
    """Returns the peak bytes of one ResNet-19 training step above the idle process.

    Idle: network and optimiser built, one step of a single image done (so that compilers have run and the optimiser
    has its state), everything else freed and given back to the system.
    """
    variant = Variant(kind, semantics)
    torch.manual_seed(0)
    model = v.build(kind, semantics, cpu.RESNET19, in_shape=(3, 32, 32))
    small, large = torch.randn(1, 3, 32, 32), torch.randn(batch, 3, 32, 32)
    cpu.step_run(model, variant, small, torch.zeros(1, dtype=torch.long))()
    model.zero_grad()
    step = cpu.step_run(model, variant, large, torch.zeros(batch, dtype=torch.long))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    # 5 sets the high-water mark of the process back to what it uses now.
    Path("/proc/self/clear_refs").write_text("5")
    idle = _status("VmRSS")
    step()
    return {"idle": idle, "peak_above_idle": _status("VmHWM") - idle}


def _trainer(kind: str, threads: int) -> Trainer:
    """Returns the trainer of the embedded default, nothing written, with the neuron ``kind`` in its network."""
    backend = v.ours_backend("cpu") if kind == v.OURS else "reference"
    words = [f"runtime.backend={backend}", f"runtime.threads={threads}", "runtime.device=cpu"]
    trainer = Trainer(compose_run(words), Path(tempfile.gettempdir()) / "never-written")
    if kind == v.RELU:
        v.swap(trainer.model, kind)
        trainer.optimizer = make_optimizer(trainer.model, trainer.run.optimizer)
    return trainer


def _full_batches(trainer: Trainer) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields augmented batches without end; the short last one of an epoch is left out."""
    while True:
        for images, labels in loader(trainer.data.train, trainer.order, workers=0, pin_memory=False):
            if len(labels) == trainer.run.batch_size:
                yield images, labels
        trainer.order.epoch += 1


def _mini_step(kind: str, threads: int) -> Run:
    trainer = _trainer(kind, threads)
    batches = _full_batches(trainer)
    trainer.model.train()
    return lambda: trainer.train_step(next(batches))


def mini(threads: int, rounds: int) -> dict[str, Any]:
    """Returns the table of the embedded default's training step, loading and augmentation included."""
    rows = [Variant(v.OURS, "full"), Variant(v.LOOP, "full"), Variant(v.RELU, "floor")]
    batch = compose_run([]).batch_size
    title = f"embedded default (make train), batch {batch}, {threads} thread{'s' if threads > 1 else ''}"
    table = compare(title, rows, lambda row: _mini_step(row.kind, threads), rounds=rounds, warm_up=(10, 10))
    for row in table["rows"]:
        if "median" in row:
            row["images_per_second"] = batch / row["median"]
    return table


def first_use(threads: int) -> dict[str, Any]:
    """Returns what the first training step and the first evaluation cost beyond an ordinary one, in seconds."""
    trainer = _trainer(v.OURS, threads)
    batches = _full_batches(trainer)

    def evaluate() -> None:
        trainer.model.eval()
        with torch.no_grad():
            trainer.model(next(batches)[0].float(), trainer.run.timesteps)

    def train() -> None:
        trainer.model.train()
        trainer.train_step(next(batches))

    cost = 0.0
    for run in (train, evaluate):
        times = []
        for _ in range(6):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        cost += times[0] - median(times[1:])
    return {"seconds": cost}


TASKS: dict[str, Callable[..., dict[str, Any]]] = {"memory": memory, "mini": mini, "first_use": first_use}

if __name__ == "__main__":
    print(json.dumps(TASKS[sys.argv[1]](**json.loads(sys.argv[2]))))
