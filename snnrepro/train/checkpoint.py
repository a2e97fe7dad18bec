"""Checkpoints that survive crashes: atomic, digest-checked, tensors and plain values only.

``<step>.pt`` is written first, ``<step>.json`` with its digest last: a checkpoint without its JSON does not exist.
"""

import io as memory
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from snnrepro import io
from snnrepro.errors import DivergedError, StorageError


def assert_finite(model_state: dict[str, torch.Tensor]) -> None:
    """Raises DivergedError naming the first tensor that holds a NaN or infinity."""
    for name, tensor in model_state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise DivergedError(f"{name} is not finite")


def load_file(path: Path) -> dict[str, Any]:
    """Returns the state in ``path``. Raises StorageError when it is missing, damaged or not a checkpoint.

    Nothing in the file is executed: only tensors and plain values are accepted.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: cannot read: {error.strerror}") from None
    sidecar = path.with_suffix(".json")
    if not sidecar.exists():
        raise StorageError(f"{path}: no digest {sidecar.name} beside it: the save did not complete")
    if io.sha256(data) != io.read_json(sidecar).get("sha256"):
        raise StorageError(f"{path}: damaged: its content does not match the digest in {sidecar.name}")
    try:
        return torch.load(memory.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises many types here; the first line says which content was refused.
        raise StorageError(f"{path}: refused: {str(error).strip().splitlines()[0]}") from None


class Checkpoints:
    """The checkpoints of one run: the newest two are kept, and those that the run asks for."""

    def __init__(self, folder: Path):
        self.folder = folder

    def file(self, step: int) -> Path:
        """Returns where the checkpoint of ``step`` lies."""
        return self.folder / f"{step:08d}.pt"

    def steps(self) -> list[int]:
        """Returns the steps of complete checkpoints, ascending."""
        return sorted(int(p.stem) for p in self.folder.glob("*.json") if p.with_suffix(".pt").exists())

    def save(self, step: int, state: dict[str, Any], keep: Collection[int | None]) -> None:
        """Writes the state of ``step`` and removes all but the newest two and the steps in ``keep``.

        Raises DivergedError rather than write a non-finite model, StorageError when the disk refuses.
        """
        assert_finite(state["model"])
        # Serialised in memory: torch.save to a full disk raises an error that hides the cause.
        buffer = memory.BytesIO()
        torch.save(state, buffer)
        data = buffer.getvalue()
        io.write_atomic(self.file(step), data)
        digest = {"sha256": io.sha256(data), "bytes": len(data), "step": step, "run": state["run"]}
        io.write_json(self.file(step).with_suffix(".json"), digest)
        kept = {*self.steps()[-2:], *keep}
        for old in self.steps():
            if old not in kept:
                io.remove(self.file(old).with_suffix(".json"))
                io.remove(self.file(old))

    def newest(self) -> dict[str, Any] | None:
        """Returns the newest valid state, or None where nothing was ever saved.

        A damaged checkpoint is reported and the one before it is used. Raises StorageError when checkpoints
        exist and none is valid: training never restarts from zero unasked.
        """
        self.clean()
        steps = self.steps()
        for step in reversed(steps):
            try:
                return load_file(self.file(step))
            except StorageError as error:
                print(f"warning: {error}; trying the one before", flush=True)
        if steps:
            raise StorageError(f"{self.folder}: no valid checkpoint; remove the run's folder to start from zero")
        return None

    def clean(self) -> None:
        """Removes what an interrupted save left behind."""
        for path in [*self.folder.glob("*.tmp.*"), *self.folder.glob("*.pt")]:
            if path.suffix != ".pt" or not path.with_suffix(".json").exists():
                io.remove(path)
