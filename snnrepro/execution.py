"""The keys of ``runtime``: where and how a run executes."""

from dataclasses import dataclass, field

from snnrepro.checks import in_range, one_of, user_path
from snnrepro.options import BACKENDS, DEVICES, PRECISIONS


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
