"""Starting the processes of a run, and knowing that one is among several. Nothing here imports torch early."""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

from snnrepro.errors import Stopped, report


def launched() -> bool:
    """Returns whether torchrun, or another launcher with its environment, started this process as one of several."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def silence_others() -> None:
    """Leaves printing to rank 0; errors still go to stderr."""
    if launched() and os.environ["RANK"] != "0":
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the life of the process


def end_with_parent() -> None:
    """Asks Linux to send this process SIGTERM where its parent is killed: it saves and stops, and is no orphan."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def launch(words: Sequence[str], processes: int) -> int:
    """Runs ``snnrepro train WORDS`` on this machine in so many processes; returns the exit code of the first to fail.

    What ``torchrun --standalone --nproc-per-node=N train.py WORDS`` does, with this program's exit codes.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=str(os.getpid()),
        max_restarts=0,
        monitor_interval=0.1,
    )
    sys.stdout.flush()
    try:
        elastic_launch(config, sys.executable)("-m", "snnrepro", "train", *words)
    except ChildFailedError as error:
        return error.get_first_failure()[1].exitcode
    except SignalException as error:
        return report(Stopped(f"stopped by {error.sigval.name}, state saved; the same command resumes"))
    return 0
