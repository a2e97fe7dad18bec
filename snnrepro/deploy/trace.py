"""Reads the structure of a network off one forward pass with stand-ins for the sequences.

The networks know nothing of this. Every layer of a copy is replaced by a recorder, and the forward is called with a
``Traced`` in place of the input, once as a static image and once as frames: both must give the same graph. Python
control flow runs as it is; an operation that is not known here is refused with the place where it stands.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, NoReturn

from torch import nn

from snnrepro.deploy.stand_in import TIMESTEPS, Traced
from snnrepro.errors import AbsorptionError
from snnrepro.neurons import LIF

_CONVOLUTIONS = {nn.Conv1d.forward: 2, nn.Conv2d.forward: 3}
_POOLS: dict[Callable, tuple[str, tuple[str, ...]]] = {
    nn.AvgPool2d.forward: (
        "avg_pool",
        ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    ),
    nn.AdaptiveAvgPool2d.forward: ("adaptive_avg_pool", ("output_size",)),
    nn.MaxPool2d.forward: ("max_pool", ("kernel_size", "stride", "padding", "dilation", "ceil_mode")),
}
_IDLE = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@dataclass(frozen=True)
class Node:
    """One operation of the network: what it is, what it reads, and the module that holds its numbers.

    kind: input, linear, norm, lif, add, flatten, mean, time_mean, or a pool. module: its dotted path, "" for none.
    """

    name: str
    kind: str
    inputs: tuple[str, ...] = ()
    module: str = ""
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """The operations in order of execution, the name of the last value, and whether time was averaged out of it."""

    nodes: list[Node]
    output: str
    averaged: bool


def trace(model: nn.Module) -> Graph:
    """Returns the operations of ``model`` in evaluation mode. Leaves the model as it is.

    Raises AbsorptionError, naming the place, for what is not known to be linear, a pool, a norm or a spiking layer.
    """
    frames = _Recorder(model).run("steps")
    image = _Recorder(model).run("image")
    if frames != image:
        raise AbsorptionError("a static image and frames take different ways through the network")
    return frames


class _Recorder:
    """A copy of the model, sharing its tensors, whose layers write down what reaches them."""

    def __init__(self, model: nn.Module):
        shared = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
        self.model = copy.deepcopy(model, shared).eval()
        self.nodes: list[Node] = []
        self.names: set[str] = set()
        # Paths of the modules being executed; kept as it was where something fails.
        self.path: list[str] = [""]
        for name, module in self.model.named_modules():
            record = self._leaf(module)
            module.forward = partial(self._enter, name, record or module.forward)

    def run(self, layout: str) -> Graph:
        source = Traced(self, self._add("input", "input", (), ""), layout, TIMESTEPS, 3)
        try:
            output = self.model(source, TIMESTEPS)
        except (TypeError, ValueError, AttributeError, IndexError, RuntimeError, NotImplementedError) as error:
            self.refuse(str(error).strip().splitlines()[0])
        if not isinstance(output, Traced) or output.layout not in ("steps", "once"):
            self.refuse("does not return logits (T, B, classes) or (B, classes)")
        return Graph(self.nodes, output.node, output.layout == "once")

    def refuse(self, why: str) -> NoReturn:
        raise AbsorptionError(f"{self.path[-1] or 'the network'}: {why}")

    def record(self, kind: str, inputs: tuple[Traced, ...], module: str = "", **options: Any) -> str:
        """Returns the name of a new node."""
        name = module or ".".join(part for part in (self.path[-1], kind) if part)
        return self._add(name, kind, tuple(x.node for x in inputs), module, options)

    def _add(self, name: str, kind: str, inputs: tuple[str, ...], module: str, options: dict | None = None) -> str:
        count, unique = 1, name
        while unique in self.names:
            count += 1
            unique = f"{name}_{count}"
        self.names.add(unique)
        self.nodes.append(Node(unique, kind, inputs, module, options or {}))
        return unique

    def _enter(self, name: str, forward: Callable, *args: Any, **kwargs: Any) -> Any:
        self.path.append(name)
        result = forward(*args, **kwargs)
        self.path.pop()
        return result

    def _leaf(self, module: nn.Module) -> Callable | None:
        """Returns what stands in for the forward of a layer that is known as a whole; a changed forward is not."""
        forward = type(module).forward
        if forward is LIF.forward:
            return self._lif
        if hasattr(module, "eval_affine"):
            return self._norm
        if forward in _CONVOLUTIONS:
            return partial(self._conv, module)
        if forward is nn.Linear.forward:
            return self._linear
        if forward in _POOLS:
            return partial(self._pool, module)
        if type(module) in _IDLE:
            return lambda x: x
        if isinstance(module, nn.modules.batchnorm._NormBase):
            return lambda x: self.refuse(f"{type(module).__name__} has no eval_affine")
        return None

    def _lif(self, x: Traced, timesteps: int | None = None) -> Traced:
        self._expect(x, "steps")
        if timesteps not in (None, TIMESTEPS) or (timesteps is None and x.steps != TIMESTEPS):
            self.refuse(f"a spiking layer over {timesteps or x.steps} of {TIMESTEPS} steps")
        return x.after(self.record("lif", (x,), self.path[-1]), steps=TIMESTEPS)

    def _norm(self, x: Traced) -> Traced:
        self._expect(x, "steps")
        return x.after(self.record("norm", (x,), self.path[-1]))

    def _conv(self, conv: Any, x: Traced) -> Traced:
        self._expect(x, "merged", "once", rank=_CONVOLUTIONS[type(conv).forward])
        if conv.padding_mode != "zeros":
            self.refuse(f"padding_mode={conv.padding_mode!r}")
        options = {name: _plain(getattr(conv, name)) for name in ("stride", "padding", "dilation", "groups")}
        return x.after(self.record("linear", (x,), self.path[-1], **options))

    def _linear(self, x: Traced) -> Traced:
        self._expect(x, "steps", "merged", "once", rank=1)
        return x.after(self.record("linear", (x,), self.path[-1]))

    def _pool(self, pool: Any, x: Traced) -> Traced:
        self._expect(x, "merged", "once", rank=3)
        if getattr(pool, "return_indices", False):
            self.refuse("return_indices")
        kind, names = _POOLS[type(pool).forward]
        return x.after(self.record(kind, (x,), self.path[-1], **{name: _plain(getattr(pool, name)) for name in names}))

    def _expect(self, x: Any, *layouts: str, rank: int | None = None) -> None:
        if not isinstance(x, Traced):
            self.refuse(f"reads a {type(x).__name__} that does not come from the input")
        if x.layout not in layouts or rank not in (None, x.rank):
            self.refuse(f"reads {x}, which this layer does not take")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
