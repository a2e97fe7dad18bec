"""What must be equal between an interrupted and an undisturbed run."""

import hashlib
from pathlib import Path

import torch

from snnrepro.train.checkpoint import Checkpoints


def run_digest(path: Path) -> str:
    """Returns a hash over weights, buffers, optimiser, generators and metrics lines of a run folder."""
    state = Checkpoints(path / "checkpoints").newest()
    assert state is not None
    sha = hashlib.sha256()
    for name in ("model", "optimizer", "scaler", "rng", "epoch", "step", "best", "final", "totals"):
        _update(sha, name, state[name])
    _update(sha, "ema", state.get("ema"))
    sha.update((path / "metrics.jsonl").read_bytes())
    return sha.hexdigest()


def _update(sha, name: str, value) -> None:
    sha.update(name.encode())
    if isinstance(value, torch.Tensor):
        sha.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    elif isinstance(value, dict):
        for key, item in value.items():
            _update(sha, str(key), item)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _update(sha, str(index), item)
    else:
        sha.update(repr(value).encode())
