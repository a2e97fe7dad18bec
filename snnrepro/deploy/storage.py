"""An absorbed network on disk: ``network.json`` says what is computed, ``weights.safetensors`` holds the numbers.

Neither needs the training code, its configuration or anything that executes. ``network.json`` is written last and
carries the digest of both.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from snnrepro import io
from snnrepro.deploy.network import AbsorbedNetwork, Step
from snnrepro.deploy.report import Edge, table
from snnrepro.errors import StorageError

FORMAT = 1
NETWORK, WEIGHTS, REPORT = "network.json", "weights.safetensors", "report.txt"


def save_absorbed(network: AbsorbedNetwork, folder: Path, origin: dict[str, Any] | None = None) -> None:
    """Writes the network into ``folder``, with its report as data and as text. Raises StorageError.

    origin: plain values that say where the network comes from; kept in ``network.json``, not interpreted.
    """
    tensors = {
        name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.operations.state_dict().items()
    }
    weights = save_tensors(tensors)
    content = {
        "format": FORMAT,
        "origin": origin or {},
        "timesteps": network.timesteps,
        "output": network.output,
        "averaged": network.averaged,
        "weights_sha256": io.sha256(weights),
        "steps": [asdict(step) for step in network.steps],
        "report": [asdict(edge) for edge in network.report],
    }
    io.write_atomic(folder / WEIGHTS, weights)
    io.write_atomic(folder / REPORT, table(network.report) + "\n")
    io.write_json(folder / NETWORK, {"sha256": _digest(content), "network": content})


def load_absorbed(folder: Path | str) -> AbsorbedNetwork:
    """Returns the network in ``folder``, on the CPU. Raises StorageError when files are missing or damaged."""
    folder = Path(folder)
    file = folder / NETWORK
    written = io.read_json(file)
    content = written.get("network") if isinstance(written, dict) else None
    if content is None or written.get("sha256") != _digest(content):
        raise StorageError(f"{file}: damaged: its content does not match its digest")
    if content.get("format") != FORMAT:
        raise StorageError(f"{file}: format {content.get('format')} is not {FORMAT}, the one this version reads")
    try:
        weights = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise StorageError(f"{folder / WEIGHTS}: cannot read: {error.strerror}") from None
    if io.sha256(weights) != content["weights_sha256"]:
        raise StorageError(f"{folder / WEIGHTS}: damaged: its content does not match the digest in {NETWORK}")
    try:
        return _build(content, load_tensors(weights))
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(f"{file}: refused: {str(error).strip().splitlines()[0]}") from None


def _build(content: dict[str, Any], flat: dict[str, Tensor]) -> AbsorbedNetwork:
    tensors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in flat.items():
        step, _, name = key.rpartition(".")
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
