"""The absorbed network: a list of operations over sequences, and spiking layers that emit 0 and 1.

Every value is a sequence (T, B, ...), or (1, B, ...) where it is constant over the window. An operation knows its
tensors and options only; together with the names of what it reads it is data, and can be written to a file.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snnrepro.deploy.report import Edge
from snnrepro.errors import ConfigError
from snnrepro.layers import per_step


class Operation(nn.Module):
    """Base: tensors become buffers, options attributes. ``required`` and ``optional`` name the tensors."""

    required: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[tuple[str, ...]] = ()

    def __init__(self, tensors: dict[str, Tensor], options: dict[str, Any]):
        super().__init__()
        missing, unknown = set(self.required) - set(tensors), set(tensors) - {*self.required, *self.optional}
        if missing or unknown:
            raise ValueError(f"tensors missing: {sorted(missing)}, unknown: {sorted(unknown)}")
        for name in (*self.required, *self.optional):
            self.register_buffer(name, tensors.get(name))
        self.options = options

    def extra_repr(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.options.items())


class Conv(Operation):
    """Convolution with the norm and the threshold before it folded in: weight (O, I/groups, ...), bias (O,)."""

    required, optional = ("weight",), ("bias",)
    weight: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor, timesteps: int) -> Tensor:
        conv: Callable = {3: F.conv1d, 4: F.conv2d}[self.weight.ndim]
        return per_step(lambda y: conv(y, self.weight, self.bias, **self.options), x)


class Linear(Operation):
    """Linear layer, folded like ``Conv``: weight (O, I), bias (O,)."""

    required, optional = ("weight",), ("bias",)
    weight: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor, timesteps: int) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Affine(Operation):
    """``x * scale + shift``, each (1 or T, 1 or C): the factor of an edge, or what a norm does at each step."""

    optional = ("scale", "shift")
    scale: Tensor | None
    shift: Tensor | None

    def forward(self, x: Tensor, timesteps: int) -> Tensor:
        if self.scale is not None:
            x = x * self._rows(self.scale, x.ndim, timesteps)
        return x if self.shift is None else x + self._rows(self.shift, x.ndim, timesteps)

    def _rows(self, tensor: Tensor, ndim: int, timesteps: int) -> Tensor:
        rows = tensor.shape[0]
        if 1 < rows < timesteps:
            raise ConfigError(f"timesteps={timesteps}: a norm of this network has parameters for {rows} steps only")
        return tensor[:timesteps].reshape(min(rows, timesteps), 1, -1, *(1,) * (ndim - 3))


class Sum(Operation):
    """Sum of its inputs; of spikes it is a whole number."""

    def forward(self, first: Tensor, *others: Tensor, timesteps: int) -> Tensor:
        for other in others:
            first = first + other
        return first


class Pool(Operation):
    """Average or maximum over windows, ``kind`` in the options; without a threshold or weight."""

    def forward(self, x: Tensor, timesteps: int) -> Tensor:
        pool = getattr(F, POOLS[self.options["kind"]])
        options = {name: value for name, value in self.options.items() if name != "kind"}
        return per_step(lambda y: pool(y, **options), x)


class Flatten(Operation):
    """Merges the axes from ``start`` (counted behind the batch) on."""

    def forward(self, x: Tensor, timesteps: int) -> Tensor:
        return x.flatten(self.options["start"] + 2)


class Mean(Operation):
    """Average over ``axes``, counted behind the batch."""

    def forward(self, x: Tensor, timesteps: int) -> Tensor:
        return x.mean([axis + 2 for axis in self.options["axes"]])


class TimeMean(Operation):
    """Average over the window, kept as a sequence of one step."""

    def forward(self, x: Tensor, timesteps: int) -> Tensor:
        return x.mean(0, keepdim=True)


class Spiking(Operation):
    """Leaky integrate-and-fire with threshold 1, leak folded into its current: ``m = decay * u + x; s = m >= 1``.

    decay: 1 - 1/tau, 0-d. u_init: the membrane at the start over the threshold it was measured with, 0-d (MP-Init) or
    one per neuron (IMP). firing: (C,) in units of the threshold, where a norm of the membrane was folded into it
    (MPBN); the reset still takes 1. smoothing: 0-d, weight of the smoothed membrane of the step before (MPS).
    """

    required, optional = ("decay", "u_init"), ("firing", "smoothing")
    decay: Tensor
    u_init: Tensor
    firing: Tensor | None
    smoothing: Tensor | None

    def forward(self, x: Tensor, timesteps: int) -> Tensor:
        """Returns spikes (timesteps, ...), 0 or 1, in the dtype of ``x`` (1 or timesteps, ...)."""
        state = torch.promote_types(x.dtype, torch.float32)
        steps = x.unbind(0) * (timesteps if x.shape[0] == 1 else 1)
        decay, u = self.decay.to(state), self.u_init.to(state)
        firing = 1 if self.firing is None else self.firing.to(state).view(-1, *(1,) * (x.ndim - 3))
        h, spikes = u, []
        for x_t in steps:
            h = u if self.smoothing is None else self.smoothing * h + (1 - self.smoothing) * u
            m = decay * h + x_t.to(state)
            s = m >= firing
            u = m - s.to(state) if self.options["reset"] == "soft" else m.masked_fill(s, 0)
            spikes.append(s.to(x.dtype))
        return torch.stack(spikes)


POOLS = {"avg": "avg_pool2d", "adaptive_avg": "adaptive_avg_pool2d", "max": "max_pool2d"}
OPERATIONS: dict[str, type[Operation]] = {
    "conv": Conv,
    "linear": Linear,
    "affine": Affine,
    "sum": Sum,
    "pool": Pool,
    "flatten": Flatten,
    "mean": Mean,
    "time_mean": TimeMean,
    "spiking": Spiking,
}


@dataclass(frozen=True)
class Step:
    """One operation as data: the name of its value, its kind, the values it reads, its options."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)


class AbsorbedNetwork(nn.Module):
    """Runs ``steps`` in order. ``operations`` holds them under the names of the layers they come from.

    tensors: per step its tensors. timesteps: T for a static image when the call names none. averaged: the output
    has no time axis. report: what was absorbed, edge by edge.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        tensors: dict[str, dict[str, Tensor]],
        *,
        output: str,
        averaged: bool,
        timesteps: int | None,
        report: Sequence[Edge],
    ):
        super().__init__()
        self.steps, self.output, self.averaged = tuple(steps), output, averaged
        self.timesteps, self.report = timesteps, tuple(report)
        self.operations = nn.Module()
        self._last: dict[str, int] = {}
        known = {"input"}
        for position, step in enumerate(self.steps):
            if step.kind not in OPERATIONS:
                raise ValueError(f"{step.name}: no operation {step.kind!r}")
            if step.name in known or not set(step.inputs) <= known:
                raise ValueError(f"{step.name}: defined twice, or reads what is not defined before it")
            known.add(step.name)
            _attach(self.operations, step.name, OPERATIONS[step.kind](tensors.get(step.name, {}), step.options))
            self._last.update(dict.fromkeys(step.inputs, position))
        if output not in known:
            raise ValueError(f"{output}: the output is not defined")
        self.eval()

    @torch.no_grad()
    def forward(self, x: Tensor, timesteps: int | None = None) -> Tensor:
        """Returns logits (T, B, classes), or (B, classes) where the network averages over time.

        x: static image (B, C, H, W), shown for ``timesteps`` steps, or frames (T, B, C, H, W). Raises ConfigError
        for more steps than a norm with parameters per step has.
        """
        static = x.ndim == 4
        if static and not (timesteps or self.timesteps):
            raise ConfigError("timesteps: a static image needs a number of steps")
        window = (timesteps or self.timesteps) if static else x.shape[0]
        assert window is not None
        values = {"input": x[None] if static else x}
        for position, step in enumerate(self.steps):
            inputs = [values[name] for name in step.inputs]
            values[step.name] = self.operations.get_submodule(step.name)(*inputs, timesteps=window)
            for name in step.inputs:
                # A value that nothing reads any more would hold memory to the end.
                if self._last[name] == position and name in values and name != self.output:
                    del values[name]
        y = values[self.output]
        return y[0] if self.averaged else y


def _attach(root: nn.Module, path: str, module: nn.Module) -> None:
    *parents, leaf = path.split(".")
    for parent in parents:
        if parent not in root._modules:
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    root.add_module(leaf, module)
