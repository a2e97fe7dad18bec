"""What stands in for a sequence while the structure of a network is read: axes and steps, no numbers.

It answers what networks ask a sequence to do between their layers (reshape, add, average) and writes that down;
everything else is refused.
"""

from collections.abc import Callable
from itertools import chain
from typing import Any, NoReturn, Protocol

TIMESTEPS, BATCH = 2, 3


class Recorder(Protocol):
    """Where a stand-in writes down what is done with it."""

    def record(self, kind: str, inputs: tuple["Traced", ...], module: str = "", **options: Any) -> str:
        """Returns the name of a new node."""

    def refuse(self, why: str) -> NoReturn:
        """Raises AbsorptionError with the place that is being executed."""


class _Size:
    """A length that the trace does not know; whoever computes with it is refused."""


class Traced:
    """Stands for a sequence during the trace.

    layout: steps (T, B, ...), merged (T*B, ...), once (B, ...) averaged over time, image (B, ...) not yet repeated.
    steps: 1 for a sequence that is constant over time. rank: number of axes behind the batch.
    """

    def __init__(self, recorder: Recorder, node: str, layout: str, steps: int, rank: int):
        self.recorder, self.node, self.layout, self.steps, self.rank = recorder, node, layout, steps, rank
        self.sizes = tuple(_Size() for _ in range(rank))

    def after(self, node: str, **changed: Any) -> "Traced":
        state: dict[str, Any] = {"layout": self.layout, "steps": self.steps, "rank": self.rank} | changed
        return Traced(self.recorder, node, **state)

    def __repr__(self) -> str:
        return f"{self.node!r} as {self.layout}"

    @property
    def _front(self) -> int:
        return 2 if self.layout == "steps" else 1

    @property
    def ndim(self) -> int:
        return self._front + self.rank

    def dim(self) -> int:
        return self.ndim

    @property
    def shape(self) -> tuple:
        front = {"steps": (self.steps, BATCH), "merged": (self.steps * BATCH,)}.get(self.layout, (BATCH,))
        return (*front, *self.sizes)

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def _as(self, layout: str, steps: int) -> "Traced":
        view = self.after(self.node, layout=layout, steps=steps)
        view.sizes = self.sizes
        return view

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> "Traced":
        start, end = start_dim % self.ndim, end_dim % self.ndim
        if self.layout == "steps" and (start, end) == (0, 1):
            return self._as("merged", self.steps)
        if start < self._front or end != self.ndim - 1 or self.layout == "image":
            self.recorder.refuse(f"flatten({start_dim}, {end_dim}) of {self}")
        start -= self._front
        return self.after(self.recorder.record("flatten", (self,), start=start), rank=start + 1)

    def unflatten(self, dim: int, sizes: Any) -> "Traced":
        if self.layout != "merged" or dim != 0 or tuple(sizes) != (self.steps, BATCH):
            self.recorder.refuse(f"unflatten of {self}")
        return self._as("steps", self.steps)

    def mean(self, dim: Any = None, keepdim: bool = False) -> "Traced":
        axes = [axis % self.ndim for axis in ([dim] if isinstance(dim, int) else dim or [])]
        if axes == [0] and self.layout == "steps" and not keepdim:
            return self.after(self.recorder.record("time_mean", (self,)), layout="once", steps=1)
        if not axes or min(axes) < self._front or keepdim or self.layout == "image":
            self.recorder.refuse(f"mean over {dim} of {self}")
        axes = sorted(axis - self._front for axis in axes)
        return self.after(self.recorder.record("mean", (self,), axes=axes), rank=self.rank - len(axes))

    def add(self, other: Any) -> "Traced":
        if not isinstance(other, Traced) or (other.layout, other.rank) != (self.layout, self.rank):
            self.recorder.refuse(f"sum of {self} and {other if isinstance(other, Traced) else type(other).__name__}")
        if self.layout == "merged" and self.steps != other.steps:
            self.recorder.refuse(f"sum of {self} and {other} over different steps")
        return self.after(self.recorder.record("add", (self, other)), steps=max(self.steps, other.steps))

    __add__ = __radd__ = add

    def unsqueeze(self, dim: int) -> "Traced":
        if self.layout != "image" or dim != 0:
            self.recorder.refuse(f"a new axis in {self}")
        return self._as("steps", 1)

    def __getitem__(self, index: Any) -> "Traced":
        if index is not None:
            self.recorder.refuse(f"indexing of {self}")
        return self.unsqueeze(0)

    def expand(self, *sizes: Any) -> "Traced":
        behind = (*sizes[0],) if len(sizes) == 1 and isinstance(sizes[0], tuple) else sizes
        steps, behind = behind[0], behind[1:]
        own = (BATCH, *self.sizes)
        same = len(behind) == len(own) and all(a is b or a in (-1, b) for a, b in zip(behind, own, strict=True))
        if self.layout not in ("steps", "image") or not same or steps != TIMESTEPS:
            self.recorder.refuse(f"expand of {self}")
        return self._as("steps", steps)

    @classmethod
    def __torch_function__(cls, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = getattr(function, "__name__", str(function))
        traced = next(x for x in chain(args, (kwargs or {}).values(), *_nested(args)) if isinstance(x, Traced))
        if name in ("flatten", "unflatten", "mean", "add", "unsqueeze") and args and isinstance(args[0], Traced):
            return getattr(cls, name)(*args, **(kwargs or {}))
        traced.recorder.refuse(f"{name} of {traced} has no absorption rule")

    def __getattr__(self, name: str) -> NoReturn:
        self.recorder.refuse(f"{name} of {self} has no absorption rule")


def _nested(args: tuple) -> list:
    return [arg for arg in args if isinstance(arg, list | tuple)]


def _refuser(name: str) -> Callable:
    def refuse(self: Traced, *_: Any) -> NoReturn:
        self.recorder.refuse(f"{name.strip('_')} of {self} has no absorption rule")

    return refuse


# Python looks operators up on the class; without these, "x * y" or "if x" would not say where they stand.
for _name in ("mul", "rmul", "sub", "rsub", "matmul", "truediv", "pow", "neg", "iadd", "bool", "len", "iter",
              "lt", "le", "gt", "ge"):  # fmt: skip
    setattr(Traced, f"__{_name}__", _refuser(f"__{_name}__"))
