"""The keys of each logger."""

from dataclasses import dataclass

from snnrepro.config import LoggerOption
from snnrepro.errors import ConfigError
from snnrepro.registry import register


@register("logger", "none")
@dataclass(slots=True, kw_only=True)
class NoLoggerOption(LoggerOption):
    """Records on disk only."""


@register("logger", "wandb")
@dataclass(slots=True, kw_only=True)
class WandbOption(LoggerOption):
    """Weights & Biases. entity: None for the account's default. group: None for dataset and model."""

    project: str
    entity: str | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        if not self.project:
            raise ConfigError(f"logger.project={self.project}: logger=wandb needs a project name")
