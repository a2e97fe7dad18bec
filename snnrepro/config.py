"""The schema of a run: its groups, each an option with keys of its own, and the keys that every run has.

YAML files hold the values. A key whose default is ``None`` may be left out, and then does nothing.

Slots matter: without them OmegaConf would attach an unknown key that was forced in with ``+`` to the
object, and the run would silently train with the default.
"""

from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from snnrepro import registry
from snnrepro.checks import in_range, one_of, user_path
from snnrepro.errors import ConfigError
from snnrepro.options import BACKENDS, DEVICES, PRECISIONS, SCHEDULES, SPARSITY_KINDS

if TYPE_CHECKING:
    import torch
    from torch import nn

    from snnrepro.data.sets import Data
    from snnrepro.losses import Loss
    from snnrepro.models.parts import Parts
    from snnrepro.penalties import Penalty


def elsewhere() -> Any:
    """Returns a field that says where or how a run executes: another value does not make another run.

    Of a section that is elsewhere, only fields that are marked otherwise make another run.
    """
    return field(metadata={"identity": False})


def later(as_before: Any) -> Any:
    """Returns a field that was added to an existing option. as_before: the value that means what runs did without it.

    It stands where a file holds none, and is left out of a run's identity, so that finished runs keep their names.
    """
    return field(default=as_before, metadata={"as_before": as_before})


@dataclass(slots=True, kw_only=True)
class Option:
    """One option of a group. selector: the key that holds the name under which the class is registered."""

    selector: ClassVar[str] = "name"

    def check(self, run: "RunConfig") -> None:
        """Raises ConfigError where the option does not go together with another part of ``run``."""


@dataclass(slots=True, kw_only=True)
class DatasetOption(Option):
    """embedded: shipped or made here, so results are no paper numbers. events: recordings, cut into T frames."""

    embedded: ClassVar[bool] = False
    events: ClassVar[bool] = False
    name: str

    def load(self, *, seed: int, timesteps: int) -> "Data":
        """Returns train and test sets; seed: of the augmentation. Raises DataError for missing or damaged files."""
        raise NotImplementedError

    def folder(self) -> Path | None:
        """Returns where the user keeps its files (``root``), None where there are none."""
        root = getattr(self, "root", None)
        return None if root is None else Path(root)

    def downloads(self) -> bool:
        """Returns whether ``load`` downloads what is missing (``download``)."""
        return getattr(self, "download", False)


@dataclass(slots=True, kw_only=True)
class ModelOption(Option):
    selector: ClassVar[str] = "arch"
    name: str
    arch: str
    widths: list[int]
    dropout: float
    dropout_per_step: bool

    def __post_init__(self) -> None:
        for width in self.widths:
            in_range("model.widths", width, 1)
        in_range("model.dropout", self.dropout, 0, 0.95)

    def build(self, parts: "Parts") -> "nn.Module":
        """Returns the network: images (B, C, H, W) or frames (T, B, C, H, W) to logits (T, B, classes)."""
        raise NotImplementedError


@dataclass(slots=True, kw_only=True)
class NeuronOption(Option):
    selector: ClassVar[str] = "kind"
    kind: str = later(as_before="lif")

    def factory(self, run: "RunConfig") -> Callable[..., "nn.Module"]:
        """Returns ``make_neuron(**changes)``: every call gives a layer with parameters and buffers of its own."""
        raise NotImplementedError


@dataclass(slots=True, kw_only=True)
class SurrogateOption(Option):
    name: str
    gamma: float

    def __post_init__(self) -> None:
        in_range("surrogate.gamma", self.gamma, 0, open_low=True)


@dataclass(slots=True, kw_only=True)
class NormOption(Option):
    name: str
    eps: float
    momentum: float

    def __post_init__(self) -> None:
        in_range("norm.eps", self.eps, 0, open_low=True)
        in_range("norm.momentum", self.momentum, 0, 1, open_low=True)

    def factory(self, run: "RunConfig") -> Callable[..., "nn.Module"]:
        """Returns ``make_norm(channels, residual=...) -> norm`` for sequences (T, B, C, H, W)."""
        raise NotImplementedError

    def of_membrane(self) -> Callable[..., "nn.Module"] | None:
        """Returns ``make(channels) -> norm`` of the membrane before it meets V_thr, None where there is none."""
        return None


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


@dataclass(slots=True, kw_only=True)
class LossOption(Option):
    name: str
    sparsity: SparsityConfig

    def build(self) -> "Loss":
        """Returns ``loss(logits (T, B, classes), target (B,)) -> scalar`` and the ``readout`` that predicts with it."""
        raise NotImplementedError

    def penalties(self) -> "list[Penalty]":
        """Returns what training adds for the inside of the spiking layers, besides sparsity."""
        return []


@dataclass(slots=True, kw_only=True)
class OptimizerOption(Option):
    name: str
    lr: float
    weight_decay: float
    neuron_weight_decay: float
    decay_norm_and_bias: bool
    schedule: str
    warmup_epochs: int
    clip_grad: float | None = None

    def __post_init__(self) -> None:
        one_of("optimizer.schedule", self.schedule, SCHEDULES)
        in_range("optimizer.lr", self.lr, 0, open_low=True)
        in_range("optimizer.weight_decay", self.weight_decay, 0)
        in_range("optimizer.neuron_weight_decay", self.neuron_weight_decay, 0)
        in_range("optimizer.warmup_epochs", self.warmup_epochs, 0)
        if self.clip_grad is not None:
            in_range("optimizer.clip_grad", self.clip_grad, 0, open_low=True)

    def check(self, run: "RunConfig") -> None:
        if self.warmup_epochs >= run.epochs:
            raise ConfigError(f"optimizer.warmup_epochs={self.warmup_epochs}: must be below epochs={run.epochs}")

    def build(self, groups: list[dict[str, Any]]) -> "torch.optim.Optimizer":
        """Returns the optimiser of parameter groups that bring their own ``weight_decay``."""
        raise NotImplementedError


@dataclass(slots=True, kw_only=True)
class LoggerOption(Option):
    name: str


@dataclass(slots=True, kw_only=True)
class RuntimeConfig:
    device: str
    precision: str = field(metadata={"identity": True})
    backend: str
    output_dir: str
    deterministic: bool
    channels_last: bool
    eval_batch_size: int
    workers: int
    threads: int | None = None
    checkpoint_minutes: float
    processes: int
    rank_timeout: float

    def __post_init__(self) -> None:
        one_of("runtime.device", self.device, DEVICES)
        one_of("runtime.precision", self.precision, PRECISIONS)
        one_of("runtime.backend", self.backend, BACKENDS)
        in_range("runtime.eval_batch_size", self.eval_batch_size, 1)
        in_range("runtime.workers", self.workers, 0, 256)
        if self.threads is not None:
            in_range("runtime.threads", self.threads, 1, 1024)
        in_range("runtime.checkpoint_minutes", self.checkpoint_minutes, 0, open_low=True)
        in_range("runtime.processes", self.processes, 1, 1024)
        # About thirty years, which the clocks below still hold.
        in_range("runtime.rank_timeout", self.rank_timeout, 0, 1e9, open_low=True)
        self.output_dir = user_path("runtime.output_dir", self.output_dir)


@dataclass(slots=True, kw_only=True)
class RunConfig:
    dataset: DatasetOption
    model: ModelOption
    neuron: NeuronOption
    surrogate: SurrogateOption
    norm: NormOption
    loss: LossOption
    optimizer: OptimizerOption
    logger: LoggerOption = elsewhere()  # noqa: RUF009 - a field
    runtime: RuntimeConfig = elsewhere()  # noqa: RUF009
    seed: int
    epochs: int
    timesteps: int
    batch_size: int
    micro_batches: int

    def __post_init__(self) -> None:
        in_range("seed", self.seed, 0, 2**63 - 1)
        in_range("epochs", self.epochs, 1)
        in_range("timesteps", self.timesteps, 1, 1024)
        in_range("batch_size", self.batch_size, 1)
        in_range("micro_batches", self.micro_batches, 1)
        for group in GROUPS:
            option = getattr(self, group)
            _require_registered(group, option)
            option.check(self)


# The sections of a run that hold one of several options, and what all options of one have in common.
GROUPS: dict[str, type[Option]] = {
    each.name: each.type for each in fields(RunConfig) if isinstance(each.type, type) and issubclass(each.type, Option)
}


def _require_registered(group: str, option: Option) -> None:
    key, name = f"{group}.{option.selector}", getattr(option, option.selector)
    known = registry.options(group)
    one_of(key, name, known)
    if known[name] is not type(option):
        raise ConfigError(f"{key}={name}: comes with an option of its own; choose one with {group}=OPTION")


def section_class(group: str, section: Any) -> type:
    """Returns the class of a stored section. Raises ConfigError where it names no registered option."""
    base = GROUPS[group]
    if not isinstance(section, dict):
        raise ConfigError(f"{group}: " + ("is missing" if section is None else "a mapping of keys is needed"))
    # A selector that came later stands for the one option that there was before.
    selector = next(each for each in fields(base) if each.name == base.selector)
    name, known = str(section.get(selector.name, selector.metadata.get("as_before"))), registry.options(group)
    one_of(f"{group}.{selector.name}", name, known)
    return known[name]


def section_of(key: Field) -> type | None:
    """Returns the class of a field that is a section of keys, None for a value."""
    return key.type if isinstance(key.type, type) and is_dataclass(key.type) else None


def require_length(key: str, values: Sequence[int], length: int, owner: str) -> None:
    """Raises ConfigError unless there are ``length`` values, each at least 1."""
    if len(values) != length:
        raise ConfigError(f"{key}={list(values)}: {owner} needs {length} {key.rpartition('.')[2]}")
    for value in values:
        in_range(key, value, 1)
