"""What a run leaves behind in words of types: its record, and one line per epoch. Also the record's end as text."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from snnrepro.config import section_class
from snnrepro.errors import ConfigError
from snnrepro.stored import Count, Fault, Kind, Name, NotNegative, Share, exact, open_ended, require
from snnrepro.tasks.base import TaskOption

REPAIR = "remove the run's folder and train it again"


@exact
class Scalars(TypedDict):
    """What a spiking layer learned."""

    v_threshold: float
    tau: float
    u_init: float


@exact
class LastScalars(TypedDict):
    """The same at the end of a run, where a diverged one may have left no number."""

    v_threshold: float | None
    tau: float | None
    u_init: float | None


@exact
class Rate(TypedDict, total=False):
    """Firing rate of the whole network; empty for one without spiking layers."""

    by_neuron: Share
    by_layer: Share


@open_ended
class Final(TypedDict):
    """The evaluation after an epoch (from 1); firing rates by layer and step. The task adds its metrics."""

    epoch: Annotated[Count, Field(ge=1)]
    loss: float
    firing_rate: dict[str, list[Share]]
    firing_rate_mean: Rate


@open_ended
class Best(Final):
    """The best of them, and the step of its checkpoint."""

    step: Count


@open_ended
class Line(Best):
    """One line of metrics.jsonl: what an epoch did, and what the evaluation behind it found. The task adds metrics."""

    lr: NotNegative
    train_loss: float
    train_firing_rate: NotRequired[float]
    train_rmp: NotRequired[float]
    learned: dict[str, Scalars]


@open_ended
class _Named(TypedDict):
    name: Name


@open_ended
class _Neuron(TypedDict):
    kind: NotRequired[Name]
    family: NotRequired[Name]


@open_ended
class _Logger(TypedDict):
    name: Name
    project: NotRequired[str | None]
    entity: NotRequired[str | None]
    group: NotRequired[str | None]


@open_ended
class Config(TypedDict):
    """The configuration as plain values: what is read of it. The run's id is a hash of the whole."""

    task: NotRequired[_Named]
    dataset: _Named
    model: _Named
    neuron: _Neuron
    logger: _Logger
    runtime: dict
    seed: Count
    epochs: Annotated[Count, Field(ge=1)]
    timesteps: Annotated[Count, Field(ge=1)]


@exact
class DataOfRun(TypedDict):
    """What a run was trained and tested on."""

    name: Name
    split: str
    digest: str
    train: Count
    test: Count
    embedded: bool


@exact
class Provenance(TypedDict):
    """What produced a result."""

    snnrepro: str
    commit: str | None
    python: str
    torch: str
    numpy: str
    platform: str
    processor: str
    device: str
    processes: Annotated[Count, Field(ge=1)]
    threads: Annotated[Count, Field(ge=1, le=1024)]
    backend: str
    precision: str
    deterministic: bool
    channels_last: bool
    plugins: NotRequired[dict[str, str]]


@exact
class Timing(TypedDict):
    """Seconds in the training loop, images per second, and the share spent waiting for data."""

    train_seconds: NotNegative
    images_per_second: NotNegative
    data_wait_share: NotNegative


@exact
class Diverged(TypedDict):
    """Why and where a run's numbers became non-finite."""

    message: str
    epoch: Count
    step: Count


@exact
class Record(TypedDict):
    """``record.json``. Without a finished epoch final and best are None; so are best and timing where an older version
    did not write them."""

    id: Name
    status: Literal["done", "diverged"]
    final: Final | None
    best: Best | None
    learned: dict[str, LastScalars]
    config: Config
    data: DataOfRun
    provenance: Provenance
    timing: Timing | None
    diverged: NotRequired[Diverged]


def _upgrade(content: dict, _format: int) -> dict:
    """Returns a record of a version without format numbers, with what the first of them did not write."""
    content = {"best": None, "timing": None, **content}
    added: dict[str, dict] = {"final": {"firing_rate_mean": {}}, "best": {"firing_rate_mean": {}}}
    for key, values in (added | {"provenance": {"processes": 1}}).items():
        if isinstance(content.get(key), dict):
            content[key] = {**values, **content[key]}
    return content


def task_of(config: Mapping[str, Any]) -> type[TaskOption]:
    """Returns the option of a stored configuration's task. Raises Fault where it is not installed here."""
    try:
        return section_class("task", config.get("task", {}))
    except ConfigError as error:
        raise Fault(f"config.{error}; an option with which it was trained is not here") from None


def check_metrics(content: Mapping[str, Any], schema: type, *known: type, key: str = "") -> None:
    """Raises Fault unless what ``content`` has beside the keys of ``known`` fits the schema of a task."""
    others = {name for each in known for name in each.__annotations__}
    require(schema, {name: value for name, value in content.items() if name not in others}, key)


def line_of(task: type[TaskOption]) -> Kind[Line]:
    """Returns what a line of metrics.jsonl holds for a task."""

    def check(line: Line) -> None:
        own = {name: value for name, value in line.items() if name in task.trained.__annotations__}
        require(task.trained, own)
        check_metrics(line, task.tested, Line, task.trained)

    return Kind(Line, REPAIR, check=check)


def _check_final(final: Final, record: Record, task: type[TaskOption]) -> None:
    key, steps = task.headline.key, record["config"]["timesteps"]
    check_metrics(final, task.tested, Final, key="final")
    by_step = final[f"{key}_per_timestep"]  # type: ignore[literal-required]
    if len(by_step) != steps or by_step[-1] != final[key]:  # type: ignore[literal-required]
        raise Fault(f"final.{key}_per_timestep: {steps} values are needed, the last as final.{key}")
    if set(final["firing_rate"]) != set(record["learned"]):
        raise Fault("learned: other layers than in final.firing_rate")
    if record["status"] == "done" and final["epoch"] != record["config"]["epochs"]:
        raise Fault(f"final.epoch: {final['epoch']}, the run has {record['config']['epochs']}")


def _check(record: Record) -> None:
    if record["status"] == "done" and record["final"] is None:
        raise Fault("final: is missing, and status says done")
    task = task_of(record["config"])
    if record["final"] is not None:
        _check_final(record["final"], record, task)
    if record["best"] is not None:
        check_metrics(record["best"], task.tested, Best, key="best")
    if record["status"] == "diverged" and "diverged" not in record:
        raise Fault("diverged: is missing, and status says diverged")


RECORD: Kind[Record] = Kind(Record, REPAIR, upgrade=_upgrade, check=_check)


def summary(record: Record, path: Path) -> str:
    """Returns the end of a run as text for people."""
    final, best, timing = record["final"], record["best"], record["timing"]
    headline = task_of(record["config"]).headline
    lines = []
    if "diverged" in record:
        lines.append(f"diverged: {record['diverged']['message']}")
    elif final is not None:
        found: dict[str, Any] = {**final}
        by_step = found[f"{headline.key}_per_timestep"]
        best_text = f", best {headline.of(best)} after epoch {best['epoch']}" if best is not None else ""
        lines += [
            f"done: {record['id']}",
            f"{headline.of(final)} on {record['data']['name']} ({record['data']['test']} test samples){best_text}",
            f"{headline.label} at t = 1..{len(by_step)}: {', '.join(f'{value:.2f}' for value in by_step)}",
        ]
    if timing is not None:
        lines.append(f"trained {timing['train_seconds']:.1f} s, {timing['images_per_second']:.0f} images/s, "
                     f"{100 * timing['data_wait_share']:.1f} % waiting for data")  # fmt: skip
    lines.append(f"record: {path}/record.json")
    return "\n".join(lines)
