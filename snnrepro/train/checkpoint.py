"""Checkpoints that survive crashes: atomic, digest-checked, tensors and plain values only.

``<step>.pt`` is written first, ``<step>.json`` with its digest last: a checkpoint without its JSON does not exist.
What else lies in the folder is somebody else's: it is neither read nor removed.
"""

import io as memory
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, NotRequired

import torch
from pydantic import Field
from torch import nn
from typing_extensions import TypedDict

from snnrepro import io, stored
from snnrepro.errors import DivergedError, StorageError
from snnrepro.runs import is_called, name_of
from snnrepro.stored import Count, Fault, Kind, Name, exact, open_ended
from snnrepro.train.state import check_tensors

REPAIR = "train the run again in an empty folder, or import it again"
# 8 digits, more where a run has more steps.
_NAME = re.compile(r"(\d{8}|[1-9]\d{8,11})\.(pt|json)(\.tmp\..+)?")
State = dict[str, Any]


@exact
class Sidecar(TypedDict):
    """``<step>.json``: of which file it is, and its digest."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    bytes: Count
    step: Count
    run: Name


@open_ended
class Weights(TypedDict):
    """What every checkpoint holds; one of a training run holds more, see ``state.py``."""

    run: Name
    model: dict
    ema: NotRequired[dict]


SIDECAR: Kind[Sidecar] = Kind(Sidecar, REPAIR)
WEIGHTS: Kind[Weights] = Kind(Weights, REPAIR)


def assert_finite(model_state: dict[str, torch.Tensor]) -> None:
    """Raises DivergedError naming the first tensor that holds a NaN or infinity."""
    for name, tensor in model_state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise DivergedError(f"{name} is not finite")


def load_file(path: Path) -> State:
    """Returns the state in ``path``. Raises StorageError when it is missing, damaged, or not one of its folder's run.

    Nothing in the file is executed: only tensors and plain values are accepted.
    """
    sidecar = path.with_suffix(".json")
    if stored.exists(path) and not stored.exists(sidecar):
        raise StorageError(f"{path}: no digest {sidecar.name} beside it: the save did not complete")
    digest = SIDECAR.read(sidecar) if stored.exists(path) else None
    data = stored.read_bytes(path, REPAIR, digest["bytes"] if digest else 0)
    assert digest is not None
    if io.sha256(data) != digest["sha256"]:
        raise StorageError(f"{path}: damaged: its content does not match the digest in {sidecar.name}; {REPAIR}")
    try:
        state = torch.load(memory.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises many types here; the first line says which content was refused.
        raise StorageError(f"{path}: refused: {(str(error).strip() or repr(error)).splitlines()[0]}") from None
    try:
        _check_owner(path, state, digest)
    except Fault as fault:
        raise StorageError(f"{path}: {fault}; {REPAIR}") from None
    return state


def _check_owner(path: Path, state: Any, digest: Sidecar) -> None:
    """Raises Fault unless the state is that of the run, and of the step, that its folder and its name say."""
    run = WEIGHTS.fitting(dict(state) if isinstance(state, dict) else state)["run"]
    folder = path.absolute().parent.parent
    if run != digest["run"] or not is_called(folder, run):
        other = run if run != name_of(folder) else digest["run"]
        raise Fault(f"run: it belongs to {other}, not to {name_of(folder)}")
    if path.stem != f"{digest['step']:08d}" or state.get("step", digest["step"]) != digest["step"]:
        raise Fault(f"step: it was saved after step {state.get('step', digest['step'])}, its name says {path.stem}")


def load_weights(model: nn.Module, path: Path) -> None:
    """Fills ``model`` from the checkpoint. Raises StorageError where it is damaged, or of another network."""
    state = load_file(path)
    try:
        check_tensors("model", weights_of(state), model)
    except Fault as fault:
        raise StorageError(f"{path}: {fault}; {REPAIR}") from None
    model.load_state_dict(weights_of(state))


def weights_of(state: State) -> dict[str, torch.Tensor]:
    """Returns the weights that a checkpoint is evaluated with: their average where the run kept one."""
    return state["ema"] if "ema" in state else state["model"]


class Checkpoints:
    """The checkpoints of one run: the newest two are kept, and those that the run asks for."""

    def __init__(self, folder: Path):
        self.folder = folder

    def file(self, step: int) -> Path:
        """Returns where the checkpoint of ``step`` lies."""
        return self.folder / f"{step:08d}.pt"

    def steps(self) -> list[int]:
        """Returns the steps of complete checkpoints, ascending."""
        names = self._names()
        return sorted(int(name[:-5]) for name in names if name.endswith(".json") and f"{name[:-5]}.pt" in names)

    def _names(self) -> set[str]:
        """Returns the names of our own files in the folder."""
        return {path.name for path in stored.listed(self.folder) if _NAME.fullmatch(path.name)}

    def save(self, step: int, state: State, keep: Collection[int | None]) -> None:
        """Writes the state of ``step`` and removes all but the newest two and the steps in ``keep``.

        Raises DivergedError rather than write a non-finite model, StorageError when the disk refuses.
        """
        assert_finite(state["model"])
        # Serialised in memory: torch.save to a full disk raises an error that hides the cause.
        buffer = memory.BytesIO()
        torch.save({"format": WEIGHTS.format, **state}, buffer)
        data = buffer.getvalue()
        io.write_atomic(self.file(step), data)
        digest: Sidecar = {"sha256": io.sha256(data), "bytes": len(data), "step": step, "run": state["run"]}
        SIDECAR.write(self.file(step).with_suffix(".json"), digest)
        kept = {*self.steps()[-2:], *keep}
        for old in self.steps():
            if old not in kept:
                io.remove(self.file(old).with_suffix(".json"))
                io.remove(self.file(old))

    def newest(self, check: Callable[[State], None] = lambda _: None) -> State | None:
        """Returns the newest valid state, or None where nothing was ever saved.

        check: raises Fault for a state that the run cannot go on from. Such a checkpoint, or a damaged one, is reported
        and the one before it is used. Raises StorageError when checkpoints exist and none is valid: training never
        restarts from zero unasked.
        """
        self.clean()
        steps = self.steps()
        for step in reversed(steps):
            try:
                state = load_file(self.file(step))
                check(state)
                return state
            except StorageError as error:
                print(f"warning: {error}; trying the one before", flush=True)
            except Fault as fault:
                print(f"warning: {self.file(step)}: {fault}; trying the one before", flush=True)
        if steps:
            raise StorageError(f"{self.folder}: no valid checkpoint; remove the run's folder to start from zero")
        return None

    def clean(self) -> None:
        """Removes what an interrupted save left behind. Only the process that holds the run may call it."""
        names = self._names()
        for name in sorted(names):
            if ".tmp." in name or (name.endswith(".pt") and f"{name[:-3]}.json" not in names):
                io.remove(self.folder / name)
