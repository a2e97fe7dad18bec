"""``evaluate.py``: a finished run once more, from its own folder, at the same or at other timesteps."""

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snnrepro import stored
from snnrepro.checks import nearest, user_path
from snnrepro.config import RunConfig
from snnrepro.config_values import changed
from snnrepro.errors import ConfigError, StorageError
from snnrepro.overrides import plain_value
from snnrepro.runs import read_config, read_record

if TYPE_CHECKING:
    from torch import nn

WEIGHTS = ("final", "best")
# What may differ from the run that is evaluated: where things are and how it executes.
_MOVABLE = ("dataset.root", "runtime.device", "runtime.backend", "runtime.precision", "runtime.eval_batch_size",
            "runtime.threads", "runtime.workers")  # fmt: skip
KEYS = ("run", "checkpoint", "timesteps", "weights", "absorb", "runtime.output_dir", *_MOVABLE)

USAGE = f"""usage: python evaluate.py run=RUN_ID|checkpoint=FILE [timesteps=1,2,4] [weights=final|best] [absorb=true]

  absorb=true: absorbs the thresholds into the weights, writes that network into RUN/absorbed/ and evaluates it
  instead: spikes are 0 and 1, accuracy differs by rounding at most
  further keys: {", ".join(KEYS[5:])}"""


def main(words: list[str]) -> int:
    """Evaluates ``run=ID`` or ``checkpoint=FILE``, prints accuracy per timestep, and returns the exit code.

    Raises ConfigError for wrong words, StorageError for missing or damaged files.
    """
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    given = _parse(words)
    folder, file = _find(given)
    run = read_config(folder)
    record = read_record(folder)
    run = changed(run, {key: given[key] for key in _MOVABLE if key in given})
    if record is not None and run.runtime.threads is None:
        # The same number of threads sums in the same order: the logged numbers come back exactly.
        run.runtime.threads = record["provenance"]["threads"]
    timesteps = _timesteps(given.get("timesteps", str(run.timesteps)))
    target = folder / "absorbed" if given.get("absorb") == "true" else None
    # One pass serves all windows of an image; a recording of events is cut into other frames for each.
    passes = timesteps if run.dataset.events else [max(timesteps)]
    trained_on = None if record is None else record["data"]["digest"]
    headline = run.task.headline
    results = {t: _evaluate(run, file, t, target, trained_on)[f"{headline.key}_per_timestep"] for t in passes}
    found = {t: results[t if t in results else passes[0]][t - 1] for t in timesteps}
    print(f"{target or file} on {run.dataset.name}")
    for t in timesteps:
        print(f"timesteps={t}: {headline.text(found[t], '.4f')}")
    if record is not None and record["final"] is not None and given.get("weights") != "best" and "run" in given:
        logged: float = record["final"][headline.key]  # type: ignore[literal-required]
        if run.timesteps in timesteps:
            equal = "equal" if found[run.timesteps] == logged else "DIFFERENT"
            print(f"logged at timesteps={run.timesteps}: {logged:.4f}{headline.unit}, {equal}")
    return 0


def _parse(words: list[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for word in words:
        key, separator, value = word.partition("=")
        if not separator or not value:
            raise ConfigError(f"{word!r}: write KEY=VALUE; the keys are {', '.join(KEYS)}")
        if key not in KEYS:
            raise ConfigError(f"{key}: no such key{nearest(key, KEYS)}")
        # Paths and settings are written as for train.py.
        if key.startswith(("dataset.", "runtime.")):
            plain = plain_value(word)
            value = "null" if plain is None else plain
        given[key] = value
    if ("run" in given) == ("checkpoint" in given):
        raise ConfigError("give either run=RUN_ID or checkpoint=FILE")
    if given.get("weights", "final") not in WEIGHTS:
        raise ConfigError(f"weights={given['weights']}: must be one of {', '.join(WEIGHTS)}")
    if given.get("absorb", "false") not in ("true", "false"):
        raise ConfigError(f"absorb={given['absorb']}: must be true or false")
    if "weights" in given and "checkpoint" in given:
        raise ConfigError("weights: checkpoint=FILE names the weights already")
    return given


def _find(given: dict[str, str]) -> tuple[Path, Path]:
    """Returns (run folder, checkpoint file)."""
    if "checkpoint" in given:
        file = Path(user_path("checkpoint", given["checkpoint"]))
        if not stored.exists(file):
            raise StorageError(f"checkpoint={file}: no such file")
        return file.absolute().parent.parent, file
    runs = Path(user_path("runtime.output_dir", given.get("runtime.output_dir", "outputs"))) / "runs"
    folder = runs / given["run"]
    known = [path.name for path in stored.listed(runs) if stored.exists(path / "config.yaml")]
    if given["run"] not in known:
        raise StorageError(f"run={given['run']}: no such run in {runs}{nearest(given['run'], known)}")
    record = read_record(folder)
    if record is None:
        raise StorageError(f"run={given['run']}: not finished; train it first, or give checkpoint=FILE")
    if record["final"] is None:
        raise StorageError(f"run={given['run']}: it diverged in its first epoch: nothing to evaluate")
    from snnrepro.train.checkpoint import Checkpoints

    checkpoints = Checkpoints(folder / "checkpoints")
    if given.get("weights") == "best":
        if record["best"] is None:
            raise StorageError(f"{folder / 'record.json'}: best: is missing; use weights=final, or train the run again")
        return folder, checkpoints.file(record["best"]["step"])
    steps = checkpoints.steps()
    if not steps:
        raise StorageError(f"{checkpoints.folder}: no checkpoint left to evaluate")
    return folder, checkpoints.file(steps[-1])


def _timesteps(text: str) -> list[int]:
    written = re.fullmatch(r"\[?([0-9]{1,9}(?:,[0-9]{1,9})*)\]?", text)
    values = [int(item) for item in written[1].split(",")] if written else [0]
    if min(values) < 1 or max(values) > 1024:
        raise ConfigError(f"timesteps={text}: write whole numbers from 1 to 1024, such as timesteps=1,2,4")
    return values


def _evaluate(
    run: RunConfig, file: Path, timesteps: int, absorbed: Path | None, trained_on: str | None
) -> dict[str, Any]:
    from snnrepro.build import build_dataset, build_model, build_task
    from snnrepro.runtime import place, set_up
    from snnrepro.train.checkpoint import load_weights
    from snnrepro.train.evaluation import evaluate

    device = set_up(run.runtime, run.seed)
    # Recordings of events are cut into as many frames as there are steps.
    data = build_dataset(replace(run, timesteps=timesteps))
    comparable = timesteps == run.timesteps or not run.dataset.events
    if comparable and trained_on is not None and trained_on != data.digest:
        print(
            f"warning: the data of this run have changed: digest {data.digest[:12]}, {trained_on[:12]} when it was "
            "trained: accuracies are not comparable"
        )
    task = build_task(run)
    model = build_model(run, in_shape=data.in_shape, num_classes=task.num_outputs(data))
    load_weights(model, file)
    return evaluate(
        place(model if absorbed is None else _absorb(model, absorbed, file), device, run.runtime.channels_last),
        data.test,
        task,
        timesteps=timesteps,
        device=device,
        runtime=run.runtime,
    )


def _absorb(model: "nn.Module", folder: Path, file: Path) -> "nn.Module":
    """Returns the absorbed network as read back from ``folder``, where it is written first; prints its report."""
    from snnrepro.deploy import absorb, load_absorbed, save_absorbed
    from snnrepro.deploy.report import table

    network = absorb(model)
    save_absorbed(network, folder, {"run": folder.parent.name, "checkpoint": file.name})
    print(table(network.report))
    return load_absorbed(folder)
