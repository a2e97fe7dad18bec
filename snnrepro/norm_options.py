"""The keys of each norm."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from snnrepro.config import NormOption, RunConfig
from snnrepro.errors import ConfigError
from snnrepro.registry import register

if TYPE_CHECKING:
    from torch import nn

    from snnrepro.models.parts import MakeNorm


def _tdbn(norm: NormOption, run: RunConfig, v_threshold: float | None = None) -> "MakeNorm":
    from snnrepro.norms import make_tdbn
    from snnrepro.runtime import resolve_backend

    fused = resolve_backend(run.runtime.backend, run.runtime.device) != "reference"
    return partial(make_tdbn, eps=norm.eps, momentum=norm.momentum, v_threshold=v_threshold, fused=fused)


@register("norm", "tdbn")
@dataclass(slots=True, kw_only=True)
class TdBNOption(NormOption):
    """One BatchNorm over time, batch and space."""

    alpha_v_threshold: bool

    def check(self, run: RunConfig) -> None:
        if self.alpha_v_threshold and getattr(run.neuron, "learn_threshold", True):
            raise ConfigError(
                "norm.alpha_v_threshold=true: the factor alpha * V_thr needs a fixed threshold; "
                "add neuron.learn_threshold=false"
            )

    def factory(self, run: RunConfig) -> "MakeNorm":
        return _tdbn(self, run, getattr(run.neuron, "v_threshold", None) if self.alpha_v_threshold else None)


@register("norm", "mpbn")
@dataclass(slots=True, kw_only=True)
class MPBNOption(NormOption):
    """tdBN of the current, and a batch norm of the membrane before it meets V_thr."""

    def check(self, run: RunConfig) -> None:
        if run.runtime.backend != "reference":
            raise ConfigError(f"runtime.backend={run.runtime.backend}: norm=mpbn needs runtime.backend=reference")
        if run.loss.name == "rmp":
            raise ConfigError(
                "loss=rmp: reads membranes a second time, and norm=mpbn would count them twice; use loss=ce"
            )

    def factory(self, run: RunConfig) -> "MakeNorm":
        return _tdbn(self, run)

    def of_membrane(self) -> Callable[..., "nn.Module"]:
        from snnrepro.norms import MembraneNorm

        return partial(MembraneNorm, eps=self.eps, momentum=self.momentum)


@dataclass(slots=True, kw_only=True)
class TemporalOption(NormOption):
    """A norm with statistics or factors of each step."""

    def make(self) -> Callable[..., "nn.Module"]:
        """Returns ``norm(channels, timesteps=..., eps=..., momentum=...)``."""
        raise NotImplementedError

    def factory(self, run: RunConfig) -> "MakeNorm":
        make = partial(self.make(), timesteps=run.timesteps, eps=self.eps, momentum=self.momentum)
        # Only tdBN asks whether a residual sum follows.
        return lambda channels, residual: make(channels)


@register("norm", "tebn")
@dataclass(slots=True, kw_only=True)
class TEBNOption(TemporalOption):
    """tdBN's statistics, times a learnable factor per step."""

    def make(self) -> Callable[..., "nn.Module"]:
        from snnrepro.temporal_norms import TEBN

        return TEBN


@register("norm", "tab")
@dataclass(slots=True, kw_only=True)
class TABOption(TemporalOption):
    """Step t is normalised over the steps 1..t."""

    share_affine: bool

    def make(self) -> Callable[..., "nn.Module"]:
        from snnrepro.temporal_norms import TAB

        return partial(TAB, share_affine=self.share_affine)


@register("norm", "bntt")
@dataclass(slots=True, kw_only=True)
class BNTTOption(TemporalOption):
    """Statistics and gamma per step."""

    def make(self) -> Callable[..., "nn.Module"]:
        from snnrepro.temporal_norms import BNTT

        return BNTT
