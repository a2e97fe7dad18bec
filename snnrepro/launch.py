"""Starting the processes of a run, and knowing that one is among several. Nothing here imports torch early."""

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from snnrepro.errors import LauncherError, RankError, Stopped, report

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

# What torchrun tells each process. The numbers, and the place where they meet.
_NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
_NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# How many processes other launchers started, which do not know of each other.
_OTHERS = ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


def launched() -> bool:
    """Returns whether torchrun, or another launcher with its environment, started this process as one of several.

    Raises LauncherError naming the variables where they contradict each other, as those that a launcher left behind.
    """
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        return False
    numbers = {name: _number(name) for name in _NUMBERS if name in os.environ}
    world = numbers.get("WORLD_SIZE", 0)
    if world == 1 and numbers.get("RANK", 0) == 0:
        return False
    if missing := [name for name in _NEEDED if not os.environ.get(name)]:
        raise _left(f"without {', '.join(missing)}", world)
    local = numbers.get("LOCAL_WORLD_SIZE", world)
    if not (numbers["RANK"] < world and numbers["LOCAL_RANK"] < local <= world and 0 < numbers["MASTER_PORT"] < 65536):
        raise _left("contradict each other", world)
    return True


def _number(name: str) -> int:
    text = os.environ[name].strip()
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise _left(f"{name} must be a whole number", 0)
    return int(text)


def _left(fault: str, world: int) -> LauncherError:
    given = {name: os.environ[name] for name in (*_NUMBERS, "MASTER_ADDR") if name in os.environ}
    return LauncherError(
        f"{' '.join(f'{name}={text[:40]}' for name, text in given.items())}: {fault}; "
        f"if a launcher left them behind: unset {' '.join(given)}; "
        f"to start several processes: torchrun --nproc-per-node={max(2, min(world, 8))} train.py ..."
    )


def processes_here() -> int:
    """Returns how many processes of the run share this machine, as far as the launcher says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if launched() else 1


def note_other_launchers() -> None:
    """Says in one line that processes which Slurm or MPI started do not share a run."""
    name = next((name for name in _OTHERS if os.environ.get(name, "1") not in ("", "0", "1")), None)
    if name is not None and "RANK" not in os.environ:
        print(
            f"{name}={os.environ[name]}: this process trains by itself; for one run in several processes use torchrun "
            "on each machine, or runtime.processes=N"
        )


def silence_others() -> None:
    """Leaves printing to rank 0; errors still go to stderr."""
    if not launched():
        return
    # Where processes do not find each other, torch's log prints stack traces; what is wrong is said without it.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    if os.environ["RANK"] != "0":
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the life of the process


def end_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """Asks Linux to send this process a signal where its parent is killed: it saves and stops, and is no orphan."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, number)


def launch(words: Sequence[str], processes: int) -> int:
    """Runs ``snnrepro train WORDS`` on this machine in so many processes; returns the exit code of what went wrong.

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
    # What it has to say is said by the ranks and below, in one line.
    logging.disable(logging.ERROR)
    try:
        elastic_launch(config, sys.executable)("-m", "snnrepro", "train", *words)
    except ChildFailedError as error:
        return _code_of(error)
    except SignalException as error:
        # What was saved, rank 0 has said.
        return report(Stopped(f"stopped by {error.sigval.name}; the same command resumes"))
    return 0


def _code_of(error: "ChildFailedError") -> int:
    """Returns the exit code of the rank that knew what was wrong, rather than of one that was killed or missed others.

    A rank that was killed cannot say so itself.
    """
    codes = {rank: failure.exitcode for rank, failure in sorted(error.failures.items())}
    killed = {rank: signal.Signals(-code).name for rank, code in codes.items() if code < 0}
    knew = [code for code in codes.values() if code > 0 and code != RankError.exit_code]
    # Those that are left when one has failed are asked to end by SIGTERM.
    if knew or not (first := {rank: name for rank, name in killed.items() if name != "SIGTERM"}):
        return knew[0] if knew else RankError.exit_code
    names = ", ".join(f"rank {rank} was ended by {name}" for rank, name in first.items())
    why = ", as where memory is short" if "SIGKILL" in first.values() else ""
    return report(RankError(f"{names}{why}; the same command resumes"))
