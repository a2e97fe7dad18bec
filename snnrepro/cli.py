"""The command line: checks the words, runs one job or a sweep, turns errors into one line."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from snnrepro.checks import nearest
from snnrepro.compose import CONFIG_DIR, CONFIG_NAME, check_names, compose_run, parse, to_run_config
from snnrepro.config import RunConfig
from snnrepro.errors import ConfigError, DivergedError, UserError, report
from snnrepro.launch import launch, launched, silence_others
from snnrepro.runs import read_record, run_path
from snnrepro.sweep import expand, launch_elsewhere, run_sweep

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
  wandb-push RUN_DIR|TABLE.json|FIGURE.png ...    replay finished runs, tables and figures into Weights & Biases"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``snnrepro COMMAND ...`` and returns the exit code (0 done, others: errors.py, 130 Ctrl-C)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    command, *rest = words
    try:
        if command not in COMMANDS:
            raise ConfigError(f"{command}: no such command{nearest(command, COMMANDS)}; snnrepro --help lists them")
        return COMMANDS[command](rest)
    except UserError as error:
        return report(error)
    except BrokenPipeError:
        # The reader (head, less) has enough. Python would complain again when it closes the stream at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted; the last checkpoint stands", file=sys.stderr)
        return 130


def _train(words: list[str]) -> int:
    args = get_args_parser().parse_args(words)
    overrides = parse(args.overrides)
    check_names(overrides)
    # Help, --cfg and foreign launchers (Slurm, joblib) are Hydra's; everything else needs only its composition.
    launcher = [override.value() for override in overrides if override.key_or_group == "hydra/launcher"]
    if args.help or args.hydra_help or args.cfg or args.info or args.shell_completion:
        _hydra(words)
        return 0
    if args.multirun and launched():
        raise ConfigError(
            "-m: a sweep starts the processes of its runs itself; without torchrun, add runtime.processes=N"
        )
    if args.multirun:
        jobs = expand([override for override in overrides if not override.key_or_group.startswith("hydra")])
        if launcher:
            launch_elsewhere(jobs, str(launcher[-1]), lambda: _hydra(words))
        else:
            run_sweep(jobs)
        return 0
    swept = [override.input_line for override in overrides if override.is_sweep_override()]
    if swept:
        raise ConfigError(f"{swept[0]}: several values make a sweep; add -m")
    return train_one(compose_run(args.overrides), args.overrides)


def _hydra(words: list[str]) -> None:
    sys.argv = ["train.py", *words]
    _hydra_main()


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=CONFIG_NAME)
def _hydra_main(tree: DictConfig) -> None:
    # One job of a sweep under another launcher. It does not exit: joblib would end the other jobs with it, and which
    # runs have a result is seen from their records.
    try:
        train_one(to_run_config(tree), list(HydraConfig.get().overrides.task))
    except UserError as error:
        report(error)


def train_one(run: RunConfig, words: Sequence[str]) -> int:
    """Makes the run exist, prints its summary and returns the exit code. words: the command line that names the run."""
    silence_others()
    path = run_path(run)
    record = read_record(path)
    if record is None:
        # torch takes seconds to import, which reporting a finished run need not pay.
        if run.runtime.processes > 1 and not launched():
            return launch(words, run.runtime.processes)
        from snnrepro.train.loop import train

        record = train(run)
    else:
        print(f"finished before: {path} (remove the folder to run it again)")
    from snnrepro.train.record import summary

    print(summary(record, path))
    return 0 if record["status"] == "done" else DivergedError.exit_code


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
}
