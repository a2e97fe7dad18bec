"""What a training run's checkpoint holds, and whether a run can go on from it."""

from collections.abc import Iterable
from typing import Any, NotRequired, Protocol

import torch
from torch import nn
from typing_extensions import TypedDict

from snnrepro.collectives import rank, world_size
from snnrepro.config import RunConfig
from snnrepro.data.order import EpochOrder
from snnrepro.distributed import gather
from snnrepro.errors import StorageError
from snnrepro.records import Best, Final, check_metrics
from snnrepro.runs import parse_lines
from snnrepro.runtime import restore_rng, rng_state, same_generators, seed_all
from snnrepro.state import unusable
from snnrepro.stored import Count, Fault, Kind, Name, NotNegative, exact, open_ended
from snnrepro.tasks.base import TaskOption
from snnrepro.train.average import Average


@exact
class Clock(TypedDict):
    """Seconds in the training loop, those of them spent waiting for data, and images trained on."""

    train_seconds: NotNegative
    wait_seconds: NotNegative
    images: Count


@open_ended
class Group(TypedDict):
    """A group of parameters, by their numbers."""

    name: str
    params: list[Count]


@exact
class OptimizerState(TypedDict):
    """What torch's optimisers save."""

    state: dict[Count, dict[str, Any]]
    param_groups: list[Group]


@exact
class TrainState(TypedDict):
    """Everything that determines the rest of a run.

    epoch, batch: finished epochs, and batches of the next one. step: batches of all. lines: what the finished epochs
    wrote into metrics.jsonl; None where an older version saved none.
    """

    run: Name
    model: dict
    ema: NotRequired[dict]
    optimizer: OptimizerState
    scaler: dict[str, int | float]
    rng: list[dict]
    epoch: Count
    batch: Count
    step: Count
    skipped: Count
    totals: dict[str, int | float]
    best: Best | None
    final: Final | None
    timing: Clock
    lines: list[str] | None


# What an optimiser keeps of every parameter.
_KEPT = {
    "sgd": ("momentum_buffer",),
    "adamw": ("exp_avg", "exp_avg_sq", "step"),
    "lamb": ("exp_avg", "exp_avg_sq"),
}
STATE: Kind[TrainState] = Kind(TrainState, "", upgrade=lambda content, _: {"lines": None, **content})


class Trained(Protocol):
    """What of a trainer is saved."""

    id: str
    model: nn.Module
    average: Average | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    timing: dict[str, float]
    lines: list[str]


def state_of(trainer: Trained) -> dict[str, Any]:
    """Returns the ``TrainState`` of a run, with the random generators of all ranks; every rank has to ask."""
    return {
        "run": trainer.id,
        "model": trainer.model.state_dict(),
        **({"ema": trainer.average.model.state_dict()} if trainer.average is not None else {}),
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "rng": gather(rng_state()),
        **{name: getattr(trainer, name) for name in ("epoch", "batch", "step", "skipped", "totals", "best", "final")},
        "timing": trainer.timing,
        "lines": trainer.lines,
    }


def check_tensors(key: str, tensors: dict[str, Any], model: nn.Module) -> None:
    """Raises Fault naming the first tensor that ``model`` does not have, lacks, has in another shape or cannot run."""
    own = model.state_dict()
    for name in [*own, *tensors]:
        if name not in tensors or name not in own:
            raise Fault(f"{key}.{name}: {'is missing' if name in own else 'the network has no such tensor'}")
        _check_tensor(f"{key}.{name}", tensors[name], own[name])
    if (reason := unusable(tensors, model)) is not None:
        raise Fault(f"{key}.{reason}")


def _check_tensor(key: str, value: Any, own: torch.Tensor) -> None:
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
        raise Fault(f"{key}: must be a dense tensor")
    if value.shape != own.shape or value.dtype != own.dtype:
        found = f"{value.dtype} {tuple(value.shape)}".removeprefix("torch.")
        raise Fault(f"{key}: {found}, the network has {str(own.dtype).removeprefix('torch.')} {tuple(own.shape)}")


def check_state(
    state: dict[str, Any],
    run: RunConfig,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    order: EpochOrder,
    totals: Iterable[str],
    terms: Iterable[str],
) -> None:
    """Raises Fault unless training can go on from ``state`` as if it had never stopped. Changes nothing.

    order: the batches of an epoch. totals: the names of what an epoch adds up. terms: of what the penalties measure.
    """
    checked = STATE.fitting(dict(state))
    check_tensors("model", checked["model"], model)
    if ("ema" in checked) != (run.ema_decay is not None):
        raise Fault("ema: " + ("is missing" if run.ema_decay is not None else "the run keeps no average"))
    check_tensors("ema", checked.get("ema", checked["model"]), model)
    _check_optimizer(checked["optimizer"], optimizer, run.optimizer.name)
    if set(checked["scaler"]) != set(scaler.state_dict()):
        raise Fault(f"scaler: not that of runtime.precision={run.runtime.precision}")
    _check_rng(checked["rng"])
    _check_position(checked, run, order, {*totals, *(terms if checked["batch"] else ())})
    _check_results(checked, order, type(run.task))


def _check_optimizer(saved: OptimizerState, optimizer: torch.optim.Optimizer, name: str) -> None:
    own = optimizer.state_dict()["param_groups"]
    if [group["params"] for group in own] != [group["params"] for group in saved["param_groups"]]:
        raise Fault("optimizer.param_groups: other parameters than the network's")
    for i, (mine, theirs) in enumerate(zip(own, saved["param_groups"], strict=True)):
        # The learning rate is set at every epoch, and some count their steps; another version may have other options.
        for key in (set(mine) & set(theirs)) - {"params", "lr", "step"}:
            if _plain(theirs[key]) != _plain(mine[key]):  # type: ignore[literal-required]
                raise Fault(f"optimizer.param_groups.{i}.{key}: not that of the run")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    # Nothing before the first step, without momentum, and where fp16 skipped all.
    if saved["state"] and sorted(saved["state"]) != list(range(len(parameters))):
        raise Fault("optimizer.state: not of all parameters")
    for number, values in saved["state"].items():
        for key in sorted({*values, *_KEPT[name]}):
            if key not in values or key not in _KEPT[name]:
                raise Fault(f"optimizer.state.{number}.{key}: {'no such key' if key in values else 'is missing'}")
            scalar = isinstance(values[key], torch.Tensor) and key == "step"
            _check_tensor(f"optimizer.state.{number}.{key}", values[key], values[key] if scalar else parameters[number])


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _check_rng(states: list[dict[str, Any]]) -> None:
    before = rng_state()
    try:
        for state in states:
            restore_rng(state)
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError):
        raise Fault("rng: not the states of random generators") from None
    finally:
        restore_rng(before)


def restore_generators(states: list[dict[str, Any]], seed: int, step: int) -> None:
    """Restores this rank's random generators; where ranks or GPUs are others, seeds them anew from the position."""
    if len(states) == world_size() and same_generators(states[rank()]):
        restore_rng(states[rank()])
        return
    before, now = len(states), world_size()
    others = f"{before} processes before, {now} now" if before != now else "other GPUs than before"
    print(f"{others}: dropout is drawn anew")
    seed_all(seed + step * world_size() + rank())


def _check_position(state: TrainState, run: RunConfig, order: EpochOrder, names: set[str]) -> None:
    epoch, batch = state["epoch"], state["batch"]
    if epoch > run.epochs or (epoch == run.epochs and batch):
        raise Fault(f"epoch: {epoch}, the run has {run.epochs}")
    if batch >= len(order):
        raise Fault(f"batch: {batch}, an epoch has {len(order)}")
    if state["step"] != epoch * len(order) + batch:
        raise Fault(f"step: {state['step']}, but epoch {epoch} and batch {batch} are step {epoch * len(order) + batch}")
    seen = min(batch * order.batch_size, order.size)
    if state["totals"].get("seen") != seen:
        raise Fault(f"totals.seen: {state['totals'].get('seen')}, {batch} batches are {seen} samples")
    if wrong := sorted(names ^ set(state["totals"])):
        raise Fault(f"totals.{wrong[0]}: {'is missing' if wrong[0] in names else 'the run has no such term'}")


def _check_results(state: TrainState, order: EpochOrder, task: type[TaskOption]) -> None:
    epoch, final, best = state["epoch"], state["final"], state["best"]
    if (final["epoch"] if final else 0) != epoch:
        raise Fault(f"final: not that of epoch {epoch}")
    if (best is None) != (final is None):
        raise Fault("best: is missing" if best is None else "best: there, though no epoch is finished")
    for key, found, known in (("final", final, Final), ("best", best, Best)):
        if found is not None:
            check_metrics(found, task.tested, known, key=key)
    if best is not None and not (best["epoch"] <= epoch and best["step"] == best["epoch"] * len(order)):
        raise Fault(f"best: epoch {best['epoch']} and step {best['step']} are not of this run")
    if state["lines"] is not None:
        try:
            parse_lines(state["lines"], epoch, "lines", task)
        except StorageError as error:
            raise Fault(str(error)) from None
