"""What a table's runs need and this machine lacks, found out before anything starts."""

from collections.abc import Sequence

from snnrepro.config import RunConfig
from snnrepro.errors import DataError


def lacking(runs: Sequence[RunConfig]) -> list[str]:
    """Returns one sentence per thing that is missing here: a CUDA GPU, files of a dataset."""
    found = [] if _has_gpu() else ["no CUDA GPU"]
    for run in {run.dataset.name: run for run in runs}.values():
        # With download=true the first run fetches the files; asking here would start that.
        if not run.dataset.downloads():
            try:
                _load_data(run)
            except DataError as error:
                found.append(str(error))
    return found


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _load_data(run: RunConfig) -> None:
    from snnrepro.build import build_dataset

    build_dataset(run)
