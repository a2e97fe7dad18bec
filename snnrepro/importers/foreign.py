"""Checkpoints that somebody else wrote: read without executing anything, checked before anything is made of them."""

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snnrepro.errors import StorageError
from snnrepro.state import unusable


def read_state(file: Path) -> dict[str, Tensor]:
    """Returns the tensors that another program saved in ``file``, by their names there. Raises StorageError."""
    with naming(file):
        _require_plain(file)
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            # torch raises many types here; the first line says which content was refused.
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise StorageError(f"refused: {lines[0]}") from None
        return tensors_of(content)


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Puts the file's name in front of every StorageError raised inside, and makes one of what the system refuses."""
    try:
        yield
    except StorageError as error:
        raise StorageError(f"{file}: {error}") from None
    except OSError as error:
        raise StorageError(f"{file}: cannot read: {error.strerror or error}") from None


def _require_plain(file: Path) -> None:
    """Raises StorageError unless ``file`` is one of ordinary size; what torch saves is never compressed."""
    if not file.is_file():
        file.stat()
        raise StorageError("not a file that holds data")
    size = file.stat().st_size
    if size == 0:
        raise StorageError("empty")
    if zipfile.is_zipfile(file):
        try:
            entries = zipfile.ZipFile(file).infolist()
        except (zipfile.BadZipFile, ValueError) as error:
            raise StorageError(f"refused: {error}") from None
        if any(entry.compress_type for entry in entries) or sum(entry.file_size for entry in entries) > size:
            raise StorageError("refused: its parts are larger than the file, torch.save writes none that are")


def tensors_of(content: Any) -> dict[str, Tensor]:
    """Returns the state in what was saved: itself, or what lies under ``state_dict``.

    Raises StorageError, naming the key, for what is not a dictionary of dense tensors of real numbers, each with all of
    its values: what would be changed by copying it into a network, or take more memory there than in its file.
    """
    state = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping):
        raise StorageError(f"holds a {type(state).__name__}, not a dictionary of tensors")
    for key, value in state.items():
        if not isinstance(key, str):
            raise StorageError(f"{key!r}: a key of type {type(key).__name__}, not a name")
        reason = _not_dense(key, value)
        if reason is not None:
            raise StorageError(f"{key}: {reason}")
    return dict(state)


def _not_dense(key: str, value: Any) -> str | None:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}, not a tensor"
    if value.is_meta or value.layout != torch.strided or value.is_nested:
        return "a tensor without values" if value.is_meta else "a sparse or nested tensor"
    if not value.is_floating_point() and not key.endswith("num_batches_tracked"):
        return f"a tensor of {value.dtype}, not of floating point numbers"
    if value.dtype.is_complex or value.is_quantized:
        return f"a tensor of {value.dtype}"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"a tensor {tuple(value.shape)} of fewer values than it has places"
    return None


def load_checked(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Loads ``state`` into ``model``. Raises StorageError where the network could compute nothing with it."""
    model.load_state_dict(state, strict=False)
    reason = unusable(model.state_dict(), model)
    if reason is not None:
        raise StorageError(reason)
