"""What all tasks have in common, and all losses."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from snnrepro import registry
from snnrepro.checks import in_range, one_of
from snnrepro.errors import ConfigError
from snnrepro.options import SPARSITY_KINDS
from snnrepro.schema import Option, later

if TYPE_CHECKING:
    from snnrepro.config import RunConfig
    from snnrepro.tasks.losses import Loss
    from snnrepro.tasks.penalties import Penalty
    from snnrepro.tasks.task import Task


@dataclass(slots=True, kw_only=True)
class SparsityConfig:
    weight: float
    kind: str
    target: float | None = None

    def __post_init__(self) -> None:
        in_range("loss.sparsity.weight", self.weight, 0)
        one_of("loss.sparsity.kind", self.kind, SPARSITY_KINDS)
        if self.target is None and self.kind == "target":
            raise ConfigError("loss.sparsity.target=null: loss.sparsity.kind=target needs a value")
        if self.target is not None:
            if self.kind != "target":
                raise ConfigError(
                    f"loss.sparsity.target={self.target}: loss.sparsity.kind={self.kind} does not use it; leave it out"
                )
            in_range("loss.sparsity.target", self.target, 0, 1)


@dataclass(frozen=True, slots=True)
class Headline:
    """The number by which runs of a task are compared.

    key: its name in an evaluation, ``KEY_per_timestep`` after every step, ``train_KEY`` on the training data. label and
    unit: for readers. higher: whether more is better.
    """

    key: str
    label: str
    unit: str
    higher: bool = True

    def of(self, tested: Mapping[str, Any]) -> str:
        """Returns what an evaluation found, as text."""
        return self.text(tested[self.key])

    def better(self, tested: Mapping[str, Any], than: Mapping[str, Any]) -> bool:
        """Returns whether one evaluation is better than the other."""
        return tested[self.key] > than[self.key] if self.higher else tested[self.key] < than[self.key]

    def text(self, value: float, form: str = ".2f") -> str:
        """Returns a value with its name and unit."""
        return f"{self.label} {value:{form}}{self.unit}"


@dataclass(slots=True, kw_only=True)
class TaskOption(Option):
    """tested, trained: TypedDicts of what a task adds to an evaluation, and to an epoch's line for the training data.

    targets: what it learns from; losses of the same kind fit.
    """

    headline: ClassVar[Headline]
    tested: ClassVar[type]
    trained: ClassVar[type]
    targets: ClassVar[str] = "classes"
    name: str = later(as_before="classification")

    def check(self, run: "RunConfig") -> None:
        if run.loss.targets != self.targets:
            fitting = [name for name, loss in registry.options("loss").items() if loss.targets == self.targets]
            raise ConfigError(
                f"loss={run.loss.name}: learns {run.loss.targets}, and task={self.name} {self.targets}; "
                f"use loss={' or loss='.join(fitting)}"
            )

    def build(self, run: "RunConfig") -> "Task":
        """Returns what the trainer asks: losses, predictions and metrics of batches."""
        raise NotImplementedError


@dataclass(slots=True, kw_only=True)
class LossOption(Option):
    targets: ClassVar[str] = "classes"
    name: str
    sparsity: SparsityConfig

    def build(self) -> "Loss":
        """Returns ``loss(logits (T, B, classes), target (B,)) -> scalar`` and the ``readout`` that predicts with it."""
        raise NotImplementedError

    def penalties(self) -> "list[Penalty]":
        """Returns what training adds for the inside of the spiking layers, besides sparsity."""
        return []
