"""Sweeps through Hydra's launchers, such as joblib and Slurm: they start the jobs, records say how those ended."""

import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, open_dict

from snnrepro import io
from snnrepro.checks import nearest
from snnrepro.compose import CONFIG_NAME, hydra_loaded
from snnrepro.config_values import to_run_config
from snnrepro.ending import answered
from snnrepro.errors import ConfigError
from snnrepro.jobs import Job
from snnrepro.overrides import SEARCH_PATH, line, quoted_list

# Hydra's launchers, the package each needs, and the extra that installs it.
LAUNCHERS = {
    "basic": ("hydra", ""),
    "joblib": ("hydra_plugins.hydra_joblib_launcher", "joblib"),
    "submitit_local": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    "submitit_slurm": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
}


def split(overrides: Sequence[Override]) -> tuple[str | None, list[str], list[Override]]:
    """Returns (launcher or None, the words that set it up, all other overrides).

    Raises ConfigError for a launcher that is unknown or lacks its package, and for several values.
    """
    ours = [o for o in overrides if o.is_hydra_override() and _of_launcher(o.key_or_group)]
    for override in ours:
        if override.is_sweep_override() or override.is_delete():
            raise ConfigError(f"{line(override)}: a launcher takes one value for each of its keys")
    names = [str(override.value()) for override in ours if override.key_or_group == "hydra/launcher"]
    if ours and not names:
        raise ConfigError(f"{line(ours[0])}: set for which launcher? add hydra/launcher=NAME")
    if names:
        _require(names[-1])
    return (names[-1] if names else None), [line(o) for o in ours], [o for o in overrides if o not in ours]


def _of_launcher(key: str) -> bool:
    return key in ("hydra/launcher", "hydra.sweep.dir") or key.startswith("hydra.launcher.")


def _require(launcher: str) -> None:
    module, extra = LAUNCHERS.get(launcher, ("", ""))
    if module and (find_spec(module.partition(".")[0]) is None or find_spec(module) is None):
        raise ConfigError(f"hydra/launcher={launcher}: needs a package: pip install 'snnrepro[{extra}]'")
    with hydra_loaded() as (hydra, _):
        known = hydra.config_loader.get_group_options("hydra/launcher")
    if launcher not in known:
        names = sorted({*known, *LAUNCHERS})
        raise ConfigError(f"hydra/launcher={launcher}: must be one of {', '.join(names)}{nearest(launcher, names)}")


def launch_elsewhere(jobs: Sequence[Job], launcher: str, words: Sequence[str]) -> None:
    """Hands the jobs to one of Hydra's launchers and waits for them; their status is read from their records.

    words: those that set up the launcher. Raises ConfigError where it does not take them.
    """
    output = Path(jobs[0].run.runtime.output_dir)
    folder = output.absolute() / "sweeps" / time.strftime("%Y-%m-%d_%H-%M-%S")
    searched = [word for word in jobs[0].words if word.startswith(f"{SEARCH_PATH}=")]
    place = [f"hydra.sweep.dir={quoted_list([str(folder)])[1:-1]}"]
    with hydra_loaded() as (hydra, _):
        tree = hydra.compose_config(CONFIG_NAME, [*searched, *place, *words], RunMode.MULTIRUN, from_shell=False)
        with open_dict(tree):
            tree.hydra.mode = RunMode.MULTIRUN
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(tree))
        plugin = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=_job, config=tree)
        io.make_dir(output / "runs")
        try:
            for ended in plugin.launch(
                [[w for w in job.words if w not in searched] for job in jobs], initial_job_idx=0
            ):
                _ = ended.return_value
        except (Exception, SystemExit) as error:
            # A launcher may give up at the first job that fails. What counts is which records exist.
            print(f"hydra/launcher={launcher}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
    for job in jobs:
        job.refresh()


def _job(tree: DictConfig) -> None:
    # It does not exit: joblib would end the other jobs with it.
    from snnrepro.train.one import train_one

    given = HydraConfig.get().overrides
    words = [*(word for word in given.hydra if word.startswith(f"{SEARCH_PATH}=")), *given.task]
    answered(lambda: train_one(to_run_config(tree), words))
