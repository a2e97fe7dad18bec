"""The schema of a run: every key, its type and its range. YAML files hold the values, this file none.

Slots matter: without them OmegaConf would attach an unknown key that was forced in with ``+`` to the
object, and the run would silently train with the default.
"""

from dataclasses import dataclass

from snnrepro.checks import in_range, one_of, only_for, user_path
from snnrepro.config_dataset import DatasetConfig
from snnrepro.config_model import ModelConfig
from snnrepro.errors import ConfigError
from snnrepro.options import (
    BACKENDS,
    DEVICES,
    FAMILIES,
    INPUT_SCALES,
    LOGGERS,
    LOSSES,
    NORMS,
    OPTIMIZERS,
    PRECISIONS,
    RESETS,
    SCHEDULES,
    SPARSITY_KINDS,
    SURROGATES,
    THRESHOLD_MAPS,
)


@dataclass(slots=True)
class MPInitConfig:
    enabled: bool
    beta: float

    def __post_init__(self) -> None:
        in_range("neuron.mp_init.beta", self.beta, 0, 1, open_low=True)


@dataclass(slots=True)
class NeuronConfig:
    family: str
    v_threshold: float
    tau: float
    learn_threshold: bool
    learn_tau: bool
    reset: str
    detach_reset: bool
    mp_init: MPInitConfig
    threshold_map: str
    input_scale: str
    learn_u_init: bool
    smoothing: float | None

    def __post_init__(self) -> None:
        one_of("neuron.family", self.family, FAMILIES)
        one_of("neuron.threshold_map", self.threshold_map, THRESHOLD_MAPS)
        one_of("neuron.input_scale", self.input_scale, INPUT_SCALES)
        if self.threshold_map == "tanh":
            in_range("neuron.v_threshold", self.v_threshold, 1e-30, 0.999)
            if self.family != "as_sg":
                raise ConfigError(
                    f"neuron.family={self.family}: divides by a threshold that neuron.threshold_map=tanh lets pass 0; "
                    "use neuron.family=as_sg or neuron.threshold_map=softplus"
                )
        if self.smoothing is not None:
            in_range("neuron.smoothing", self.smoothing, 1e-6, 1 - 1e-6)
        if self.learn_u_init and self.mp_init.enabled:
            raise ConfigError(
                "neuron.learn_u_init=true: IMP and MP-Init both set the first membrane; "
                "add neuron.mp_init.enabled=false"
            )
        one_of("neuron.reset", self.reset, RESETS)
        in_range("neuron.v_threshold", self.v_threshold, 1e-30, 1e30)
        in_range("neuron.tau", self.tau, 1, 1e6, open_low=True)


@dataclass(slots=True)
class SurrogateConfig:
    name: str
    gamma: float

    def __post_init__(self) -> None:
        one_of("surrogate.name", self.name, SURROGATES)
        in_range("surrogate.gamma", self.gamma, 0, open_low=True)


@dataclass(slots=True)
class NormConfig:
    name: str
    eps: float
    momentum: float
    alpha_v_threshold: bool | None
    share_affine: bool | None

    def __post_init__(self) -> None:
        one_of("norm.name", self.name, NORMS)
        keys = {"alpha_v_threshold": self.alpha_v_threshold, "share_affine": self.share_affine}
        used = {"tdbn": ("alpha_v_threshold",), "tab": ("share_affine",)}.get(self.name, ())
        only_for("norm", f"norm={self.name}", keys, used)
        in_range("norm.eps", self.eps, 0, open_low=True)
        in_range("norm.momentum", self.momentum, 0, 1, open_low=True)


@dataclass(slots=True)
class SparsityConfig:
    weight: float
    kind: str
    target: float | None

    def __post_init__(self) -> None:
        in_range("loss.sparsity.weight", self.weight, 0)
        one_of("loss.sparsity.kind", self.kind, SPARSITY_KINDS)
        used = ("target",) if self.kind == "target" else ()
        only_for("loss.sparsity", f"loss.sparsity.kind={self.kind}", {"target": self.target}, used)
        if self.target is not None:
            in_range("loss.sparsity.target", self.target, 0, 1)


@dataclass(slots=True)
class LossConfig:
    name: str
    tet_weight: float | None
    tet_target: float | None
    rmp_weight: float | None
    mps_weight: float | None
    mps_temperature: float | None
    sparsity: SparsityConfig

    def __post_init__(self) -> None:
        one_of("loss.name", self.name, LOSSES)
        names = ("tet_weight", "tet_target", "rmp_weight", "mps_weight", "mps_temperature")
        keys = {name: getattr(self, name) for name in names}
        only_for("loss", f"loss={self.name}", keys, [name for name in names if name.startswith(f"{self.name}_")])
        for name in ("rmp_weight", "mps_weight"):
            if keys[name] is not None:
                in_range(f"loss.{name}", keys[name], 0)
        if self.tet_weight is not None:
            in_range("loss.tet_weight", self.tet_weight, 0, 1)
        if self.tet_target is not None:
            in_range("loss.tet_target", self.tet_target, 0)
        if self.mps_temperature is not None:
            in_range("loss.mps_temperature", self.mps_temperature, 0, open_low=True)


@dataclass(slots=True)
class OptimizerConfig:
    name: str
    lr: float
    momentum: float | None
    betas: list[float] | None
    weight_decay: float
    neuron_weight_decay: float
    decay_norm_and_bias: bool
    schedule: str
    warmup_epochs: int
    clip_grad: float | None

    def __post_init__(self) -> None:
        one_of("optimizer.name", self.name, OPTIMIZERS)
        one_of("optimizer.schedule", self.schedule, SCHEDULES)
        keys = {"momentum": self.momentum, "betas": self.betas}
        only_for("optimizer", f"optimizer={self.name}", keys, ("momentum",) if self.name == "sgd" else ("betas",))
        in_range("optimizer.lr", self.lr, 0, open_low=True)
        in_range("optimizer.weight_decay", self.weight_decay, 0)
        in_range("optimizer.neuron_weight_decay", self.neuron_weight_decay, 0)
        in_range("optimizer.warmup_epochs", self.warmup_epochs, 0)
        if self.momentum is not None:
            in_range("optimizer.momentum", self.momentum, 0, 0.9999)
        if self.betas is not None:
            if len(self.betas) != 2:
                raise ConfigError(f"optimizer.betas={self.betas}: two numbers are needed")
            for beta in self.betas:
                in_range("optimizer.betas", beta, 0, 0.99999)
        if self.clip_grad is not None:
            in_range("optimizer.clip_grad", self.clip_grad, 0, open_low=True)


@dataclass(slots=True)
class LoggerConfig:
    name: str
    project: str | None
    entity: str | None
    group: str | None

    def __post_init__(self) -> None:
        one_of("logger.name", self.name, LOGGERS)
        if self.name == "wandb" and not self.project:
            raise ConfigError("logger.project=null: logger=wandb needs a project name")


@dataclass(slots=True)
class RuntimeConfig:
    device: str
    precision: str
    backend: str
    output_dir: str
    deterministic: bool
    channels_last: bool
    eval_batch_size: int
    workers: int
    threads: int | None
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


@dataclass(slots=True)
class RunConfig:
    dataset: DatasetConfig
    model: ModelConfig
    neuron: NeuronConfig
    surrogate: SurrogateConfig
    norm: NormConfig
    loss: LossConfig
    optimizer: OptimizerConfig
    logger: LoggerConfig
    runtime: RuntimeConfig
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
        loops = {"norm=mpbn": self.norm.name == "mpbn", "neuron.smoothing": self.neuron.smoothing is not None}
        for option in (name for name, used in loops.items() if used and self.runtime.backend != "reference"):
            raise ConfigError(f"runtime.backend={self.runtime.backend}: {option} needs runtime.backend=reference")
        if self.norm.name == "mpbn" and self.loss.rmp_weight is not None:
            raise ConfigError(
                "loss=rmp: reads membranes a second time, and norm=mpbn would count them twice; use loss=ce"
            )
        if self.model.connect in ("and", "iand") and self.neuron.family == "trsg":
            raise ConfigError(
                f"model.connect={self.model.connect}: needs spikes of 0 and 1, and neuron.family=trsg emits V_thr; "
                "use model.connect=add or neuron=rs_sg"
            )
        if self.norm.alpha_v_threshold and self.neuron.learn_threshold:
            raise ConfigError(
                "norm.alpha_v_threshold=true: the factor alpha * V_thr needs a fixed threshold; "
                "add neuron.learn_threshold=false"
            )
        if self.optimizer.warmup_epochs >= self.epochs:
            raise ConfigError(
                f"optimizer.warmup_epochs={self.optimizer.warmup_epochs}: must be below epochs={self.epochs}"
            )
