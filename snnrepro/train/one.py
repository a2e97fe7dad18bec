"""Making one run exist: found finished, resumed or started, in one process or several."""

from collections.abc import Sequence

from snnrepro.config import RunConfig
from snnrepro.errors import DivergedError, StorageError
from snnrepro.launch import launch, launched, note_other_launchers, silence_others
from snnrepro.overrides import quoted
from snnrepro.records import summary
from snnrepro.runs import read_record, run_path, under_former_name, with_other_epochs


def train_one(run: RunConfig, words: Sequence[str]) -> int:
    """Makes the run exist, prints its summary and returns the exit code. words: the command line that names the run."""
    silence_others()
    note_other_launchers()
    path = run_path(run)
    record = read_record(path)
    if record is None:
        # torch takes seconds to import, which reporting a finished run need not pay.
        if run.runtime.processes > 1 and not launched():
            return launch(words, run.runtime.processes)
        if not path.exists():
            _require_todays_name(run)
            _name_other_epochs(run)
        from snnrepro.train.loop import train

        record = train(run)
    else:
        print(f"finished before: {path} (remove the folder to run it again)")
    print(summary(record, path))
    return 0 if record["status"] == "done" else DivergedError.exit_code


def _require_todays_name(run: RunConfig) -> None:
    """Raises StorageError where an older version has made this run, whose folder has its former name."""
    older = under_former_name(run)
    if older is not None:
        raise StorageError(
            f"{older}: an older version made this run and named it otherwise; use snnrepro rename-runs "
            f"{quoted('runtime.output_dir', run.runtime.output_dir)}, then the same command finds it"
        )


def _name_other_epochs(run: RunConfig) -> None:
    """Says that a run with other epochs is another run."""
    for id, epochs in with_other_epochs(run):
        print(
            f"epochs={run.epochs}: starts from zero, although {id} has the same settings with epochs={epochs}: "
            "the learning rate of every epoch depends on their number"
        )
