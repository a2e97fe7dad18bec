"""Starting from other weights: what fits by name and shape is taken, and what does not is said."""

from pathlib import Path

import torch
from torch import nn

from snnrepro.config import RunConfig
from snnrepro.errors import StorageError
from snnrepro.importers.foreign import read_state
from snnrepro.train.checkpoint import load_file, weights_of
from snnrepro.weights import digest_of, weights_file


def start_from(model: nn.Module, run: RunConfig) -> None:
    """Fills what fits of ``model`` from ``run.init_from`` and prints what does not.

    Raises StorageError where the file is gone, another one than the run is named after, or nothing in it fits.
    """
    assert run.init_from is not None
    file = weights_file(run.init_from, run.runtime.output_dir)
    if digest_of(file) != run.init_sha256:
        raise StorageError(
            f"{file}: other weights than this run is named after (sha256 {str(run.init_sha256)[:12]}...); bring those "
            "back, or start another run with init_from"
        )
    found, own = _weights(file), model.state_dict()
    fitting = {name: tensor for name, tensor in found.items() if name in own and tensor.shape == own[name].shape}
    if not fitting:
        raise StorageError(f"{file}: none of its {len(found)} tensors fits model={run.model.name}; use its model")
    model.load_state_dict(fitting, strict=False)
    print(f"init_from {file}: {len(fitting)} of {len(own)} tensors")
    for name in sorted({*own, *found} - {*fitting}):
        shapes = [tuple(tensors[name].shape) if name in tensors else "missing" for tensors in (found, own)]
        print(f"  not taken: {name}, {shapes[0]} in the file, {shapes[1]} in the network")


def _weights(file: Path) -> dict[str, torch.Tensor]:
    # Beside a checkpoint of ours lies its digest.
    return weights_of(load_file(file)) if file.with_suffix(".json").exists() else read_state(file)
