"""The keys of each loss."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from snnrepro.checks import in_range
from snnrepro.registry import register
from snnrepro.tasks.base import LossOption

if TYPE_CHECKING:
    from snnrepro.tasks.losses import Loss
    from snnrepro.tasks.penalties import Penalty


@register("loss", "ce")
@dataclass(slots=True, kw_only=True)
class CrossEntropyOption(LossOption):
    """Cross-entropy of the logits averaged over time."""

    def build(self) -> "Loss":
        from snnrepro.tasks import losses

        return losses.Loss(losses.mean_logit_cross_entropy, losses.running_mean)


@register("loss", "lts")
@dataclass(slots=True, kw_only=True)
class LastStepOption(LossOption):
    """Cross-entropy of the last step, which alone predicts."""

    def build(self) -> "Loss":
        from snnrepro.tasks import losses

        return losses.Loss(losses.last_step_cross_entropy, losses.last_step)


@register("loss", "tet")
@dataclass(slots=True, kw_only=True)
class TETOption(LossOption):
    """Cross-entropy at every step, and a term that draws all logits to one level."""

    tet_weight: float
    tet_target: float

    def __post_init__(self) -> None:
        in_range("loss.tet_weight", self.tet_weight, 0, 1)
        in_range("loss.tet_target", self.tet_target, 0)

    def build(self) -> "Loss":
        from snnrepro.tasks import losses

        value = partial(losses.temporal_efficient_training, weight=self.tet_weight, phi=self.tet_target)
        return losses.Loss(value, losses.running_mean)


@register("loss", "mps")
@dataclass(slots=True, kw_only=True)
class MPSOption(LossOption):
    """Cross-entropy, and adjacent steps drawn towards the same prediction."""

    mps_weight: float
    mps_temperature: float

    def __post_init__(self) -> None:
        in_range("loss.mps_weight", self.mps_weight, 0)
        in_range("loss.mps_temperature", self.mps_temperature, 0, open_low=True)

    def build(self) -> "Loss":
        from snnrepro.tasks import losses

        value = partial(losses.guided_cross_entropy, weight=self.mps_weight, temperature=self.mps_temperature)
        return losses.Loss(value, losses.running_mean)


@register("loss", "rmp")
@dataclass(slots=True, kw_only=True)
class RMPOption(LossOption):
    """Cross-entropy, and membrane potentials drawn towards the spikes they become."""

    rmp_weight: float

    def __post_init__(self) -> None:
        in_range("loss.rmp_weight", self.rmp_weight, 0)

    def build(self) -> "Loss":
        from snnrepro.tasks import losses

        return losses.Loss(losses.mean_logit_cross_entropy, losses.running_mean)

    def penalties(self) -> "list[Penalty]":
        from snnrepro.tasks.penalties import MembraneDistance

        return [MembraneDistance(self.rmp_weight)]
