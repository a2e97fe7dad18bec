"""The command line: checks the words, runs one job or a sweep, turns errors into one line."""

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path

from snnrepro import io
from snnrepro.checks import nearest
from snnrepro.command_line import help_text, read, version
from snnrepro.compose import complete, compose_run, folders_of, groups, show
from snnrepro.config_values import to_yaml
from snnrepro.ending import answered
from snnrepro.errors import ConfigError, Stopped, report
from snnrepro.launch import launched
from snnrepro.overrides import line, parse
from snnrepro.plugins import take
from snnrepro.sweep import conclude, expand, run_sweep
from snnrepro.system import require_posix
from snnrepro.train.one import train_one

USAGE = """usage: snnrepro COMMAND ...

  train [-m] [GROUP=OPTION ...] [KEY=VALUE ...]   train one run, or with -m every combination; train --help lists keys
  evaluate run=RUN_ID [timesteps=1,2,4]           evaluate a run again, at other timesteps
  claims --scale mini|paper [--run]               the paper's claims on our runs: supported, contradicted, inconclusive
  figure N|all --scale mini|paper                 figures of the paper from our runs, its values beside them
  table NAME --scale mini|paper                   plan, run and render a table of the paper
  plan [PART ...] --scale mini|paper              runs and hours that are still needed
  report --scale mini|paper                       tables, claims and figures that exist, on one HTML page
  doctor [KEY=VALUE ...]                          what this machine has, what is missing, and the fix
  data check|prepare|preview NAME [KEY=VALUE ...] read a dataset as a run would; download it; a picture of frames
  import-checkpoint FILE [KEY=VALUE ...]          take over weights of the released ResNet-19 or torchvision's ResNet-34
  wandb-push RUN_DIR|TABLE.json|FIGURE.png ...    replay finished runs, tables and figures into Weights & Biases
  rename-runs [runtime.output_dir=FOLDER]         runs of an older version get the names that this one looks for"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``snnrepro COMMAND ...`` and returns the exit code (0 done, others: errors.py)."""
    words = list(sys.argv[1:] if argv is None else argv)
    _open_streams()

    def command() -> int:
        io.require_working_folder()
        code = _command(words)
        sys.stdout.flush()
        return code

    try:
        return answered(command)
    except BrokenPipeError:
        # The reader (head, less) has enough. Python would complain again when it closes the stream at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if not words or {"-h", "--help"} & set(words) or words[0] not in COMMANDS:
            return 0
        return report(Stopped("nobody reads the output any more; the last checkpoint stands, the same command resumes"))


def _command(words: list[str]) -> int:
    require_posix()
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if words == ["--version"]:
        print(version())
        return 0
    for word in words:
        _require_text(word)
    command, *rest = take(words)
    if command not in COMMANDS:
        raise ConfigError(f"{command}: no such command{nearest(command, COMMANDS)}; snnrepro --help lists them")
    if launched() and command != "train":
        raise ConfigError(
            f"{command}: runs in one process; start it without torchrun, or unset RANK and WORLD_SIZE of this shell"
        )
    return COMMANDS[command](rest)


def _open_streams() -> None:
    """Opens what the shell closed (``>&-``), so that no file of a run gets the number of an output."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r"))  # noqa: SIM115 - to the end
    # A name that the terminal has no letters for is no reason to stop.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _require_text(word: str) -> None:
    try:
        word.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{word!a}: not UTF-8, in which runs keep their names and paths; rename it") from None


def _train(words: list[str]) -> int:
    args = read(words)
    if args.version:
        print(version())
    elif args.shell_completion:
        complete(args.overrides)
    elif args.help:
        _help(args.overrides)
    elif args.multirun:
        _sweep(args.overrides)
    else:
        run = compose_run(args.overrides)
        if not (args.cfg or args.info):
            return train_one(run, args.overrides)
        show(args.overrides, args.cfg, args.package, args.resolve, args.info)
    return 0


def _help(words: Sequence[str]) -> None:
    overrides = [override for override in parse(words) if not override.is_sweep_override()]
    run = compose_run([line(override) for override in overrides])
    print(help_text(groups(folders_of(overrides)), to_yaml(run)))


def _sweep(words: Sequence[str]) -> None:
    from snnrepro.launchers import launch_elsewhere, split

    if launched():
        raise ConfigError(
            "-m: a sweep starts the processes of its runs itself; without torchrun, add runtime.processes=N"
        )
    launcher, of_launcher, overrides = split(parse(words))
    jobs = expand(overrides)
    if launcher is None:
        run_sweep(jobs)
    else:
        launch_elsewhere(jobs, launcher, of_launcher)
    conclude(jobs)


def _evaluate(words: list[str]) -> int:
    from snnrepro.evaluate import main as evaluate

    return evaluate(words)


def _table(words: list[str]) -> int:
    from snnrepro.report import main as table

    return table(words)


def _plan(words: list[str]) -> int:
    from snnrepro.report.plan import main as plan

    return plan(words)


def _claims(words: list[str]) -> int:
    from snnrepro.analysis.command import main as claims

    return claims(words)


def _figure(words: list[str]) -> int:
    from snnrepro.analysis.figures import main as figure

    return figure(words)


def _report(words: list[str]) -> int:
    from snnrepro.report.page import main as page

    return page(words)


def _doctor(words: list[str]) -> int:
    from snnrepro.doctor import doctor

    return doctor(words)


def _data(words: list[str]) -> int:
    from snnrepro.doctor import data

    return data(words)


def _import(words: list[str]) -> int:
    from snnrepro.importers.command import main as import_checkpoint

    return import_checkpoint(words)


def _rename_runs(words: list[str]) -> int:
    from snnrepro.renaming import main as rename_runs

    return rename_runs(words)


def _push(words: list[str]) -> int:
    from snnrepro.replay import push

    return push([Path(word) for word in words])


COMMANDS = {
    "train": _train,
    "evaluate": _evaluate,
    "table": _table,
    "plan": _plan,
    "claims": _claims,
    "figure": _figure,
    "report": _report,
    "doctor": _doctor,
    "data": _data,
    "import-checkpoint": _import,
    "wandb-push": _push,
    "rename-runs": _rename_runs,
}
