"""``snnrepro import-checkpoint``: another program's checkpoint as a folder that ``evaluate.py`` takes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from snnrepro import io
from snnrepro.checks import user_path
from snnrepro.compose import compose_run
from snnrepro.config import RunConfig
from snnrepro.config_values import to_yaml
from snnrepro.errors import ConfigError, StorageError
from snnrepro.importers.foreign import naming, read_state
from snnrepro.importers.official import convert_official, load_official
from snnrepro.importers.torchvision import convert_torchvision, load_torchvision
from snnrepro.runs import IMPORTED, write_config

USAGE = """usage: snnrepro import-checkpoint FILE [recalibrate=BATCHES] [GROUP=OPTION ...] [KEY=VALUE ...]

  FILE                 from the released code's snapshots/ or checkpoints/: ResNet-19;
                       with model=resnet34 or sew_resnet34 the weights of torchvision's resnet34
  GROUP=..., KEY=...   what the network was trained on and as, such as dataset=cifar100 timesteps=4
  recalibrate=BATCHES  the file holds no running means: fill them from so many batches of the training set"""

_LOADERS: dict[str, tuple[Callable, Callable]] = {
    "resnet19": (convert_official, load_official),
    "resnet34": (convert_torchvision, load_torchvision),
    "sew_resnet34": (convert_torchvision, load_torchvision),
}


def main(words: list[str]) -> int:
    """Imports a checkpoint, prints where it lies, and returns the exit code.

    Raises ConfigError for wrong words or a network that does not fit, StorageError for a file that is none of the
    released network's.
    """
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    file, rest = Path(user_path("FILE", words[0])), words[1:]
    batches = 0
    for word in [word for word in rest if word.startswith("recalibrate=")]:
        rest.remove(word)
        batches = _count(word)
    run = compose_run(rest)
    if run.model.arch not in _LOADERS or getattr(run.model, "head", "official") != "official":
        raise ConfigError(f"model={run.model.name}: the released network is model=resnet19 with model.head=official")
    checkpoint = _import(run, file, batches)
    print(f"{checkpoint}: imported from {file}")
    print(f"python evaluate.py checkpoint={checkpoint}")
    return 0


def _count(word: str) -> int:
    text = word.partition("=")[2]
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{word}: write a whole number of batches, at least 1")
    return int(text)


def _import(run: RunConfig, file: Path, batches: int) -> Path:
    """Writes ``imported/<name>-<digest>/`` with the configuration and the converted state; returns the checkpoint."""
    from snnrepro.build import build_model
    from snnrepro.train.checkpoint import Checkpoints

    convert, load = _LOADERS[run.model.arch]
    state = read_state(file)
    with naming(file):
        channels, num_classes = _sizes(convert(state))
        # The head pools globally, so the network needs the images' channels only, not their size.
        model = build_model(run, in_shape=(channels, 32, 32), num_classes=num_classes)
        load(model, state)
    if batches:
        _recalibrate(run, model, batches)
    folder = Path(run.runtime.output_dir) / IMPORTED / f"{file.name.partition('.')[0]}-{_digest(file, run, batches)}"
    write_config(folder, run)
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(0, {"run": folder.name, "model": model.state_dict()}, [])
    return checkpoints.file(0)


def _sizes(converted: dict[str, Any]) -> tuple[int, int]:
    """Returns channels and classes of a converted state. Raises StorageError where it does not tell."""
    sizes = []
    for name, ndim, axis in (("stem.conv.weight", 4, 1), ("head.fc.weight", 2, 0)):
        if name not in converted:
            raise StorageError(f"{name}: missing, the first convolution or the classifier")
        shape = tuple(converted[name].shape)
        if len(shape) != ndim or 0 in shape:
            raise StorageError(f"{name}: {shape} are not the sizes of its weights")
        sizes.append(shape[axis])
    return sizes[0], sizes[1]


def _digest(file: Path, run: RunConfig, batches: int) -> str:
    return io.sha256(file.read_bytes() + to_yaml(run).encode() + str(batches).encode())[:10]


def _recalibrate(run: RunConfig, model: Any, batches: int) -> None:
    from itertools import islice

    from snnrepro.build import build_dataset
    from snnrepro.data.loading import loader
    from snnrepro.data.order import EpochOrder
    from snnrepro.importers.recalibrate import recalibrate
    from snnrepro.runtime import place, set_up
    from snnrepro.train.evaluation import to_input

    device = set_up(run.runtime, run.seed)
    data = build_dataset(run)
    train, channels = data.train, model.stem.conv.in_channels
    if (data.in_shape[0], data.num_classes) != (channels, model.num_classes):
        raise ConfigError(
            f"dataset={run.dataset.name}: {data.in_shape[0]} channels and {data.num_classes} classes, "
            f"the checkpoint has {channels} and {model.num_classes}"
        )
    place(model, device, run.runtime.channels_last)
    order = EpochOrder(len(train), seed=run.seed, batch_size=run.batch_size)
    inputs = (
        to_input(train, images.to(device), run.runtime.channels_last)
        for images, _ in islice(loader(train, order, workers=run.runtime.workers, pin_memory=False), batches)
    )
    used = recalibrate(model, inputs, run.timesteps)
    print(f"running means filled from {used} batches of {run.batch_size}")
