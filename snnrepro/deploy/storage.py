"""An absorbed network on disk: ``network.json`` says what is computed, ``weights.safetensors`` holds the numbers.

Neither needs the training code, its configuration or anything that executes. ``network.json`` is written last and
carries the digest of both.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor
from typing_extensions import TypedDict

from snnrepro import io, stored
from snnrepro.deploy.network import OPERATIONS, AbsorbedNetwork, Step
from snnrepro.deploy.report import Edge, table
from snnrepro.errors import StorageError
from snnrepro.stored import Count, Fault, Kind, Name, exact

NETWORK, WEIGHTS, REPORT = "network.json", "weights.safetensors", "report.txt"
REPAIR = "write the absorbed network again, such as with evaluate.py run=RUN_ID absorb=true"
# More than any network here has; a limit all the same.
WEIGHTS_BYTES = 1 << 34


Size = Annotated[int, Field(ge=0, lt=1 << 16)]
Sizes = Size | list[Size | None] | None


@exact
class ConvOptions(TypedDict):
    """Of a convolution."""

    stride: Sizes
    padding: Sizes | Literal["same", "valid"]
    dilation: Sizes
    groups: Size


@exact
class PoolOptions(TypedDict):
    """Of a pool: those of its kind."""

    kind: Literal["avg", "adaptive_avg", "max"]
    kernel_size: NotRequired[Sizes]
    output_size: NotRequired[Sizes]
    stride: NotRequired[Sizes]
    padding: NotRequired[Sizes]
    dilation: NotRequired[Sizes]
    ceil_mode: NotRequired[bool]
    count_include_pad: NotRequired[bool]
    divisor_override: NotRequired[Size | None]


@exact
class FlattenOptions(TypedDict):
    """Of a flattening: its first axis."""

    start: Size


@exact
class MeanOptions(TypedDict):
    """Of an average: its axes."""

    axes: list[Size]


@exact
class SpikingOptions(TypedDict):
    """Of a spiking layer: how it resets."""

    reset: Literal["soft", "hard"]


@exact
class NoOptions(TypedDict):
    """Of all other operations."""


OPTIONS = {
    "conv": ConvOptions, "pool": PoolOptions, "flatten": FlattenOptions, "mean": MeanOptions, "spiking": SpikingOptions,
}  # fmt: skip
# The axes of the tensors that an operation could not run with otherwise.
AXES = {("conv", "weight"): (3, 4), ("linear", "weight"): (2,), ("spiking", "decay"): (0,), ("affine", "scale"): (2,),
        ("affine", "shift"): (2,)}  # fmt: skip


@exact
class StepOfFile(TypedDict):
    """An operation, see ``network.Step``."""

    name: Name
    kind: Name
    inputs: Annotated[list[Name], Field(min_length=1)]
    options: dict[str, Any]


@exact
class EdgeOfFile(TypedDict):
    """What was absorbed, see ``report.Edge``."""

    sources: Annotated[list[str], Field(min_length=1)]
    via: list[str]
    consumer: str
    rules: list[str]
    how: str


@exact
class Network(TypedDict):
    """What is computed, and of which weights. origin: where the network comes from; not interpreted."""

    origin: dict[str, Any]
    timesteps: Annotated[Count, Field(ge=1)] | None
    output: Name
    averaged: bool
    weights_sha256: str
    steps: list[StepOfFile]
    report: list[EdgeOfFile]


@exact
class File(TypedDict):
    """``network.json``: a ``Network`` with its digest."""

    sha256: str
    network: dict[str, Any]


def _no_older(_content: dict[str, Any], _format: int) -> dict[str, Any]:
    raise Fault("format: is missing")


FILE: Kind[File] = Kind(File, REPAIR)


def _check(network: Network) -> None:
    for i, step in enumerate(network["steps"]):
        if step["kind"] not in OPERATIONS:
            raise Fault(f"steps.{i}.kind: no operation {step['kind']!r}")
        stored.require(OPTIONS.get(step["kind"], NoOptions), step["options"], f"steps.{i}.options")


CONTENT: Kind[Network] = Kind(Network, REPAIR, upgrade=_no_older, check=_check)


def save_absorbed(network: AbsorbedNetwork, folder: Path, origin: dict[str, Any] | None = None) -> None:
    """Writes the network into ``folder``, with its report as data and as text. Raises StorageError.

    origin: plain values that say where the network comes from; kept in ``network.json``, not interpreted.
    """
    tensors = {
        name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.operations.state_dict().items()
    }
    weights = save_tensors(tensors)
    plain: Any = {
        "origin": origin or {},
        "timesteps": network.timesteps,
        "output": network.output,
        "averaged": network.averaged,
        "weights_sha256": io.sha256(weights),
        "steps": [asdict(step) for step in network.steps],
        "report": [asdict(edge) for edge in network.report],
    }
    content = CONTENT.numbered(plain)
    io.write_atomic(folder / WEIGHTS, weights)
    io.write_atomic(folder / REPORT, table(network.report) + "\n")
    io.write_json(folder / NETWORK, {"sha256": _digest(content), "network": content})


def load_absorbed(folder: Path | str) -> AbsorbedNetwork:
    """Returns the network in ``folder``, on the CPU. Raises StorageError when files are missing or damaged."""
    folder = Path(folder)
    file = folder / NETWORK
    written = FILE.read(file)
    if written["sha256"] != _digest(written["network"]):
        raise StorageError(f"{file}: damaged: its content does not match its digest; {REPAIR}")
    content = CONTENT.accept(written["network"], file)
    weights = stored.read_bytes(folder / WEIGHTS, REPAIR, WEIGHTS_BYTES)
    if io.sha256(weights) != content["weights_sha256"]:
        raise StorageError(f"{folder / WEIGHTS}: damaged: its content does not match the digest in {NETWORK}; {REPAIR}")
    try:
        return _build(content, load_tensors(weights))
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(f"{file}: refused: {(str(error).strip() or repr(error)).splitlines()[0]}") from None


def _build(content: Network, flat: dict[str, Tensor]) -> AbsorbedNetwork:
    tensors: dict[str, dict[str, Tensor]] = {}
    kinds = {step["name"]: step["kind"] for step in content["steps"]}
    for key, tensor in flat.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{key}: a value is not finite")
        step, _, name = key.rpartition(".")
        axes = AXES.get((kinds.get(step, ""), name), (tensor.ndim,))
        if tensor.ndim not in axes:
            raise ValueError(f"{key}: {tensor.ndim} axes, {' or '.join(map(str, axes))} are needed")
        tensors.setdefault(step, {})[name] = tensor
    network = AbsorbedNetwork(
        [Step(s["name"], s["kind"], tuple(s["inputs"]), s["options"]) for s in content["steps"]],
        tensors,
        output=content["output"],
        averaged=content["averaged"],
        timesteps=content["timesteps"],
        report=[
            Edge(tuple(e["sources"]), tuple(e["via"]), e["consumer"], tuple(e["rules"]), e["how"])
            for e in content["report"]
        ],
    )
    unread = set(flat) - set(network.operations.state_dict())
    if unread:
        raise ValueError(f"{min(unread)}: no operation reads it")
    return network


def _digest(content: Any) -> str:
    return io.sha256(json.dumps(content, sort_keys=True).encode())
