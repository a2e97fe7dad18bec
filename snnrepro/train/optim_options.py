"""The keys of each optimiser."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from snnrepro.checks import in_range
from snnrepro.config import OptimizerOption
from snnrepro.errors import ConfigError
from snnrepro.registry import register

if TYPE_CHECKING:
    import torch


@register("optimizer", "sgd")
@dataclass(slots=True, kw_only=True)
class SGDOption(OptimizerOption):
    """SGD with momentum, the paper's."""

    momentum: float

    def __post_init__(self) -> None:
        OptimizerOption.__post_init__(self)
        in_range("optimizer.momentum", self.momentum, 0, 0.9999)

    def build(self, groups: list[dict[str, Any]]) -> "torch.optim.Optimizer":
        import torch

        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, fused=True)


@register("optimizer", "adamw", "lamb")
@dataclass(slots=True, kw_only=True)
class AdamOption(OptimizerOption):
    """AdamW or LAMB from timm's factory."""

    betas: list[float]

    def __post_init__(self) -> None:
        OptimizerOption.__post_init__(self)
        if len(self.betas) != 2:
            raise ConfigError(f"optimizer.betas={self.betas}: two numbers are needed")
        for beta in self.betas:
            in_range("optimizer.betas", beta, 0, 0.99999)

    def build(self, groups: list[dict[str, Any]]) -> "torch.optim.Optimizer":
        # timm takes seconds to import, which the default run need not pay.
        from timm.optim import create_optimizer_v2

        return create_optimizer_v2(groups, opt=self.name, lr=self.lr, weight_decay=self.weight_decay, betas=self.betas)
