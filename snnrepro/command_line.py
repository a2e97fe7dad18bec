"""The options of ``train``: all of Hydra's own command line, each followed or refused by name."""

import argparse
from collections.abc import Sequence
from string import Template
from typing import Any, NoReturn

from snnrepro import __version__
from snnrepro.errors import ConfigError
from snnrepro.overrides import SEARCH_PATH, quoted_list

HELP = Template("""snnrepro: direct training of spiking neural networks with MP-Init and TrSG

usage: python train.py [-m] [GROUP=OPTION ...] [KEY=VALUE ...]

Examples
  python train.py                                              embedded digits, CPU, about a minute
  python train.py neuron=trsg dataset=cifar100                 one run of the paper
  python train.py neuron=lif neuron.mp_init.enabled=true       the paper's baseline with MP-Init
  python train.py -m neuron=as_sg,rs_sg,trsg neuron.v_threshold=0.5,1.0,2.0     a sweep
  python train.py -m 'neuron=glob(*)' 'seed=range(0,3)'        every neuron with seeds 0, 1, 2
  python train.py experiment=table2/mpinit_trsg                one row of a table
  python evaluate.py run=RUN_ID timesteps=1,2,4,6              accuracy at other timesteps
  make table10 SCALE=mini                                      a table of the paper on embedded data

Groups and their options (GROUP=OPTION)
$groups

Keys and their values with these arguments (KEY=VALUE)
$config
Options
$options

The same command finds its own run again: finished runs are reported, unfinished ones resumed.""")

# Hydra's options that mean nothing here, and what to do instead.
REFUSED = {
    "--hydra-help": "--help lists what works here",
    "--config-path": "--config-dir FOLDER adds your own options to the groups",
    "--config-name": "there is one configuration; experiment=NAME or --config-dir FOLDER change it",
    "--experimental-rerun": "the same command finds its run again",
}
_SHORT = {"--config-path": "-cp", "--config-name": "-cn"}
_WITH_VALUE = ("--config-path", "--config-name", "--experimental-rerun")
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; python train.py --help lists the options")


def parser() -> argparse.ArgumentParser:
    """Returns the parser of ``train``. Wrong words raise ConfigError."""
    made = _Parser(prog="train.py", add_help=False, allow_abbrev=False)
    add = made.add_argument
    add("overrides", nargs="*")
    add("--help", "-h", action="store_true", help="this text, with the values that the other arguments give")
    add("--version", action="store_true", help="print the version and stop")
    add("--multirun", "-m", action="store_true", help="run every combination of the values")
    add("--run", "-r", action="store_true", help="train one run; the default")
    add("--cfg", "-c", choices=("job", "hydra", "all"), help="print the configuration and stop")
    add("--resolve", action="store_true", help="with --cfg: values in the place of ${...}")
    add("--package", "-p", metavar="KEY", help="with --cfg: only this part, such as neuron")
    add("--config-dir", "-cd", metavar="FOLDER", action="append", help="your own options, as FOLDER/neuron/NAME.yaml")
    add("--info", "-i", nargs="?", const="all", choices=INFO, help="how Hydra composes the configuration")
    add("--shell-completion", "-sc", action="store_true", help="install=bash, zsh or fish: prints what to evaluate")
    for option in REFUSED:
        kind: dict[str, Any] = {} if option in _WITH_VALUE else {"action": "store_true"}
        add(*filter(None, (option, _SHORT.get(option))), **kind, help=argparse.SUPPRESS)
    return made


def read(words: Sequence[str]) -> argparse.Namespace:
    """Returns the options and, as ``overrides``, the other words. Raises ConfigError for what cannot be followed."""
    made = parser()
    args = made.parse_intermixed_args(list(words))
    for option, instead in REFUSED.items():
        if getattr(args, option.strip("-").replace("-", "_")) not in (None, False):
            raise ConfigError(f"{option}: not used here; {instead}")
    if args.run and args.multirun:
        raise ConfigError("--run and --multirun exclude each other")
    if args.multirun and (shown := _shows(args)):
        raise ConfigError(f"{shown}: shows one configuration; leave out -m")
    for option in ("resolve", "package"):
        if getattr(args, option) and not args.cfg:
            raise ConfigError(f"--{option}: only with --cfg")
    if args.config_dir:
        if any(word.startswith(f"{SEARCH_PATH}=") for word in args.overrides):
            raise ConfigError(f"--config-dir: {SEARCH_PATH} is given too; write --config-dir once for each folder")
        # As a word, the processes of a sweep understand it too.
        args.overrides.insert(0, f"{SEARCH_PATH}={quoted_list(args.config_dir)}")
    return args


def _shows(args: argparse.Namespace) -> str | None:
    return next((f"--{name}" for name in ("cfg", "info", "shell_completion") if getattr(args, name)), None)


def help_text(groups: dict[str, list[str]], config: str) -> str:
    """Returns what ``train.py --help`` prints. config: YAML of the configuration."""
    options = [(", ".join(a.option_strings), a.help) for a in parser()._actions if a.option_strings]
    return HELP.substitute(
        groups="\n".join(f"{group}: {', '.join(options)}" for group, options in sorted(groups.items())),
        config=config,
        options="\n".join(f"  {names:24}{text}" for names, text in options if text != argparse.SUPPRESS),
    )


def version() -> str:
    """Returns the program's name and version."""
    return f"snnrepro {__version__}"
