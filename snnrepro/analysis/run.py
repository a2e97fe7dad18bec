"""A finished run under the microscope: loads its checkpoints and writes ``analysis.json`` into its folder."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snnrepro import stored
from snnrepro.analysis import energy, gradients, statistics
from snnrepro.analysis.recorder import Recorder
from snnrepro.analysis.results import ANALYSIS, Analysis
from snnrepro.build import build_dataset, build_model, build_task
from snnrepro.config import RunConfig
from snnrepro.data.loading import loader
from snnrepro.data.order import EpochOrder
from snnrepro.data.sets import Data
from snnrepro.deploy import absorb
from snnrepro.errors import AbsorptionError, ConfigError, StorageError
from snnrepro.runs import is_called, name_of, read_config, read_record
from snnrepro.runtime import place, set_up
from snnrepro.train.checkpoint import Checkpoints, load_weights
from snnrepro.train.evaluation import to_input
from snnrepro.train.guards import learned_scalars

# Batches of the training set that gradients are averaged over.
GRADIENT_BATCHES = 50
FILE = "analysis.json"


def analyse(folder: Path, timesteps: int | None = None) -> Analysis:
    """Returns what the finished run in ``folder`` does inside, from its ``analysis.json``, which is made where missing.

    timesteps: the window in which layers are recorded, the run's own unless given. Raises StorageError where the run
    is not finished or its checkpoints are gone.
    """
    record = read_record(folder)
    if record is None:
        raise StorageError(f"{folder}: not a finished run; train it first")
    if record["status"] != "done":
        raise StorageError(f"{folder}: the run diverged, its numbers are not finite: nothing to analyse")
    run = read_config(folder)
    if run.neuron.kind != "lif" or run.task.targets != "classes":
        raise ConfigError(
            f"{folder}: neuron.kind={run.neuron.kind}, task.name={run.task.name}: analyses know LIF layers that "
            "classify; name runs of these"
        )
    steps = run.timesteps if timesteps is None else timesteps
    file = folder / (FILE if steps == run.timesteps else f"analysis_T{steps}.json")
    if stored.exists(file):
        try:
            return _read(file, name_of(folder), run.timesteps, steps)
        except StorageError as error:
            print(f"warning: {error}: now", flush=True)
    ANALYSIS.write(file, _analyse(run, folder, steps))
    return _read(file, name_of(folder), run.timesteps, steps)


def _read(file: Path, id: str, own: int, steps: int) -> Analysis:
    found = ANALYSIS.read(file)
    if found["timesteps"] != steps or not is_called(file.parent, found["run"]):
        raise StorageError(f"{file}: it belongs to {found['run']} at timesteps={found['timesteps']}")
    if steps == own and (lacking := sorted(set(Analysis.__optional_keys__) - set(found))):
        raise StorageError(f"{file}: {lacking[0]}: is missing")
    return found


def _analyse(run: RunConfig, folder: Path, steps: int) -> Analysis:
    device = set_up(run.runtime, run.seed)
    data = build_dataset(run)
    task = build_task(run)
    model = build_model(run, in_shape=data.in_shape, num_classes=task.num_outputs(data))
    model = place(model, device, run.runtime.channels_last)
    checkpoints = Checkpoints(folder / "checkpoints")
    _load(model, checkpoints, checkpoints.steps()[-1:])
    found: Any = {
        "run": name_of(folder),
        "timesteps": steps,
        **_observe(run, model, data, device, steps),
    }
    if steps == run.timesteps:
        found["energy"] = _energy(run, model, data, device)
        found["cosine"] = _cosines(run, model, data, device)
        per_epoch = -(-len(data.train) // run.batch_size)
        for name, epoch in (("first", 1), ("middle", max(1, run.epochs // 2))):
            _load(model, checkpoints, [per_epoch * epoch])
            found[f"gradients_{name}"] = gradients.gradient_statistics(
                model, _training(run, data, device), task.loss, run.timesteps
            )
        # One number each for the tables: the mean over layers.
        found["headline"] = {
            name: {kind: sum(v.values()) / len(v) for kind, v in found[f"gradients_{name}"].items()}
            for name in ("first", "middle")
        }
    return found


def _load(model: nn.Module, checkpoints: Checkpoints, steps: list[int]) -> None:
    if not steps or steps[0] not in checkpoints.steps():
        raise StorageError(
            f"{checkpoints.folder}: the checkpoint of {f'step {steps[0]}' if steps else 'any step'} is gone; "
            "remove the run's folder and train it again"
        )
    load_weights(model, checkpoints.file(steps[0]))


def _observe(run: RunConfig, model: nn.Module, data: Data, device: torch.device, steps: int) -> dict[str, Any]:
    """Records the layers over the test set, and what the network predicts at every step."""
    model.eval()
    logits, labels = [], []
    with torch.no_grad(), Recorder(model, steps) as recorder:
        for x, y in _test(run, data, device):
            logits.append(model(x, steps).float().cpu())
            labels.append(y.cpu())
    z, target = torch.cat(logits, 1), torch.cat(labels)
    learned = learned_scalars(model)
    points = _projected(z)
    return {
        "layers": recorder.results(),
        "learned": {
            name: {**values, "u_init_over_v": values["u_init"] / values["v_threshold"]}
            for name, values in learned.items()
        },
        "class_shares": statistics.class_shares(z).tolist(),
        "top1_of_step": [100 * (step.argmax(-1) == target).double().mean().item() for step in z],
        "separation": [statistics.silhouette(step, target) for step in points],
        "projected": points[:, :400].tolist(),
        "labels": target[:400].tolist(),
    }


def _projected(logits: Tensor) -> Tensor:
    """Returns the logits (T, N, K) in the two main directions of their mean over time, (T, N, 2): one basis for all."""
    mean = logits.double().mean(0)
    centre = mean.mean(0)
    _, _, directions = torch.linalg.svd(mean - centre, full_matrices=False)
    return (logits.double() - centre) @ directions[:2].T


def _energy(run: RunConfig, model: nn.Module, data: Data, device: torch.device) -> dict[str, Any] | None:
    try:
        network = absorb(model).to(device)
    except AbsorptionError as error:
        return {"refused": str(error)}
    batches = (x for x, _ in islice(_test(run, data, device), 2))
    total, layers = energy.count_operations(network, batches, run.timesteps)
    return {"acs": total.acs, "macs": total.macs, "millijoule": total.millijoule, "rule": energy.RULE, "layers": layers}


def _cosines(run: RunConfig, model: nn.Module, data: Data, device: torch.device) -> dict[str, Any]:
    """Returns the steps' cosines of every convolution that sees every step (Fig. 10)."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d) and "stem" not in name]
    loss = build_task(run).loss
    return {
        name: gradients.step_cosines(
            model, name, islice(_training(run, data, device), 10), loss, run.timesteps
        ).tolist()
        for name in names
    }


def _training(run: RunConfig, data: Data, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    order = EpochOrder(len(data.train), seed=run.seed, batch_size=run.batch_size)
    batches = loader(data.train, order, workers=0, pin_memory=False)
    for images, labels in islice(batches, GRADIENT_BATCHES):
        yield to_input(data.train, images.to(device), run.runtime.channels_last), labels.to(device)


def _test(run: RunConfig, data: Data, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    order = EpochOrder(len(data.test), seed=None, batch_size=run.runtime.eval_batch_size)
    for images, labels in loader(data.test, order, workers=0, pin_memory=False):
        yield to_input(data.test, images.to(device), run.runtime.channels_last), labels.to(device)
