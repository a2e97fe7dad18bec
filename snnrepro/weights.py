"""Where weights of another run, or of another program, lie. Imports no torch: their digest is part of a name."""

from pathlib import Path

from snnrepro import io, stored
from snnrepro.checks import nearest
from snnrepro.errors import StorageError

# Of a file of weights, in bytes.
LARGEST = 1 << 33
_REPAIR = "give init_from=RUN_ID of a finished run, or a file of weights"


def weights_file(name: str, output_dir: str) -> Path:
    """Returns the file of weights that ``init_from`` names: itself, or the last checkpoint of a run in ``output_dir``.

    Raises StorageError where neither is there.
    """
    if name.endswith((".pt", ".pth", ".safetensors")) or "/" in name:
        return Path(name)
    folder = Path(output_dir) / "runs" / name
    if not stored.exists(folder / "record.json"):
        known = [path.name for path in stored.listed(folder.parent) if stored.exists(path / "record.json")]
        raise StorageError(f"init_from={name}: no finished run in {folder.parent}{nearest(name, known)}; {_REPAIR}")
    # One without its digest beside it does not exist, see train/checkpoint.py.
    files = [file for file in (folder / "checkpoints").glob("*.pt") if file.with_suffix(".json").exists()]
    if not files:
        raise StorageError(f"init_from={name}: {folder / 'checkpoints'} holds no checkpoint; {_REPAIR}")
    return max(files, key=lambda file: (len(file.name), file.name))


def digest_of(file: Path) -> str:
    """Returns the sha256 of a file. Raises StorageError where there is none."""
    return io.sha256(stored.read_bytes(file, _REPAIR, LARGEST))
