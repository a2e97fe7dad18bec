"""The schema of a run: its groups, each an option with keys of its own, and the keys that every run has.

YAML files hold the values. A key whose default is ``None`` may be left out, and then does nothing.

Slots matter: without them OmegaConf would attach an unknown key that was forced in with ``+`` to the
object, and the run would silently train with the default.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from snnrepro import registry
from snnrepro.checks import in_range, one_of, user_path
from snnrepro.errors import ConfigError
from snnrepro.execution import RuntimeConfig
from snnrepro.options import SCHEDULE_PERIODS, SCHEDULES
from snnrepro.schema import Option, elsewhere, later
from snnrepro.tasks.base import LossOption, TaskOption
from snnrepro.weights import digest_of, weights_file

if TYPE_CHECKING:
    import torch
    from torch import nn

    from snnrepro.data.sets import Data
    from snnrepro.models.parts import MakeNeuron, MakeNorm, Parts


@dataclass(slots=True, kw_only=True)
class DatasetOption(Option):
    """embedded: shipped or made here, so results are no paper numbers. events: recordings, cut into T frames."""

    embedded: ClassVar[bool] = False
    events: ClassVar[bool] = False
    name: str

    def __post_init__(self) -> None:
        root = getattr(self, "root", None)
        if root is not None:
            setattr(self, "root", user_path("dataset.root", root))  # noqa: B010 - of the options that have it

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
class AugmentOption(Option):
    name: str = later(as_before="crop_flip")

    def applied(self, data: "Data", seed: int) -> "Data":
        """Returns the dataset with its training samples augmented, each a function of (seed, epoch, index)."""
        raise NotImplementedError


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

    def factory(self, run: "RunConfig") -> "MakeNeuron":
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

    def factory(self, run: "RunConfig") -> "MakeNorm":
        """Returns ``make_norm(channels, residual=...) -> norm`` for sequences (T, B, C, ...)."""
        raise NotImplementedError

    def of_membrane(self) -> Callable[..., "nn.Module"] | None:
        """Returns ``make(channels) -> norm`` of the membrane before it meets V_thr, None where there is none."""
        return None


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
    schedule_per: str = later(as_before="epoch")
    min_lr: float = later(as_before=0.0)

    def __post_init__(self) -> None:
        one_of("optimizer.schedule", self.schedule, SCHEDULES)
        one_of("optimizer.schedule_per", self.schedule_per, SCHEDULE_PERIODS)
        in_range("optimizer.lr", self.lr, 0, open_low=True)
        in_range("optimizer.min_lr", self.min_lr, 0, self.lr)
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
class RunConfig:
    dataset: DatasetOption
    model: ModelOption
    neuron: NeuronOption
    surrogate: SurrogateOption
    norm: NormOption
    # Before there were others, all runs classified, and cropped and mirrored as their dataset says.
    augment: AugmentOption = field(metadata={"as_before": {"name": "crop_flip"}})
    task: TaskOption = field(metadata={"as_before": {"name": "classification"}})
    loss: LossOption
    optimizer: OptimizerOption
    logger: LoggerOption = elsewhere()  # noqa: RUF009 - a field
    runtime: RuntimeConfig = elsewhere()  # noqa: RUF009
    seed: int
    epochs: int
    timesteps: int
    batch_size: int
    micro_batches: int
    ema_decay: float | None = None
    init_from: str | None = field(default=None, metadata={"identity": False})
    init_sha256: str | None = None

    def __post_init__(self) -> None:
        in_range("seed", self.seed, 0, 2**63 - 1)
        in_range("epochs", self.epochs, 1)
        in_range("timesteps", self.timesteps, 1, 1024)
        in_range("batch_size", self.batch_size, 1)
        in_range("micro_batches", self.micro_batches, 1)
        if self.ema_decay is not None:
            in_range("ema_decay", self.ema_decay, 0, 0.9999999)
        for group in GROUPS:
            option = getattr(self, group)
            _require_registered(group, option)
            option.check(self)
        self._find_weights()

    def _find_weights(self) -> None:
        """Puts the digest of ``init_from`` into the run: what is in a file makes a run another, not where it lies."""
        if self.init_from is None and self.init_sha256 is not None:
            raise ConfigError(f"init_sha256={self.init_sha256}: is found by itself; give init_from=RUN_ID or a file")
        if self.init_from is not None and self.init_sha256 is None:
            self.init_sha256 = digest_of(weights_file(self.init_from, self.runtime.output_dir))


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


def require_length(key: str, values: Sequence[int], length: int, owner: str) -> None:
    """Raises ConfigError unless there are ``length`` values, each at least 1."""
    if len(values) != length:
        raise ConfigError(f"{key}={list(values)}: {owner} needs {length} {key.rpartition('.')[2]}")
    for value in values:
        in_range(key, value, 1)
