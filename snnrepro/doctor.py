"""``snnrepro doctor`` and ``snnrepro data``: what this machine has, what is missing, and the exact fix."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

from snnrepro import __version__
from snnrepro.checks import nearest
from snnrepro.compose import compose_run
from snnrepro.errors import ConfigError, DataError
from snnrepro.plugins import plugins
from snnrepro.registry import options
from snnrepro.system import usable_cores

# Packages that only some commands need: what for, and how to get them.
_OPTIONAL = {
    "aedat": ("AEDAT 4 recordings", "pip install 'snnrepro[dvs]'"),
    "matplotlib": ("figures", "pip install 'snnrepro[figures]'"),
    "spikingjelly": ("make bench", "pip install 'snnrepro[bench]'"),
    "triton": ("kernels on GPUs", "pip install triton"),
}
_LITTLE_GB = 2.0


class Finding(NamedTuple):
    """One line of the report. fix: None where nothing is wrong. fatal: whether the default run fails without it."""

    what: str
    found: str
    fix: str | None = None
    fatal: bool = False


def doctor(words: Sequence[str]) -> int:
    """Prints what was found and what to do about it; returns 1 where the default run cannot work. words: overrides."""
    findings = list(examine(words))
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        mark = "ok     " if finding.fix is None else "FAILED " if finding.fatal else "missing"
        print(f"{mark} {finding.what.ljust(width)}  {finding.found}" + (f"; {finding.fix}" if finding.fix else ""))
    return int(any(finding.fatal and finding.fix for finding in findings))


def examine(words: Sequence[str]) -> Iterator[Finding]:
    """Yields the findings, for the output folder and data root of a run with these overrides."""
    import torch

    from snnrepro.neurons.kernels.cpu.cache import cache_folder, compiler

    run = compose_run(words)
    yield Finding("snnrepro", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    for plugin in plugins():
        yield Finding(f"plugin {plugin.distribution}", plugin.version)
    yield Finding("torch", torch.__version__)
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        yield Finding("GPUs", ", ".join(names))
    else:
        fix = "for one of the paper's runs install torch with CUDA" if run.runtime.device == "cuda" else None
        yield Finding("GPUs", "none", fix, fatal=fix is not None)
    yield Finding("CPU", f"{usable_cores()} cores")
    found = compiler()
    fix = None if found else "install g++: LIF layers run on the slower reference backend without it"
    yield Finding("C++ compiler", str(found or "none"), fix)
    for package, (purpose, command) in _OPTIONAL.items():
        if importlib.util.find_spec(package):
            yield Finding(package, importlib.metadata.version(package))
        else:
            yield Finding(package, f"not installed, for {purpose}", command)
    for what, folder in (("outputs", Path(run.runtime.output_dir)), ("kernel cache", cache_folder())):
        yield _disk(what, folder)
    yield _data(run.dataset.name, run.dataset.folder())


def _disk(what: str, folder: Path) -> Finding:
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        return Finding(
            what, str(folder), f"{place} cannot be written to: change its rights or choose another", fatal=True
        )
    free = shutil.disk_usage(place).free / 1e9
    fix = None if free > _LITTLE_GB else f"less than {_LITTLE_GB:g} GB: free some space"
    return Finding(what, f"{folder}, {free:.1f} GB free", fix)


def _data(name: str, root: Path | None) -> Finding:
    if root is None:
        return Finding(f"dataset {name}", "comes with the package")
    fix = None if root.is_dir() else f"snnrepro data prepare {name} dataset.root={root}"
    return Finding(f"dataset {name}", str(root.absolute()), fix)


def data(words: list[str]) -> int:
    """``data check NAME`` reads a dataset as a run would; ``data prepare NAME`` downloads it first.

    ``data preview NAME`` also writes a picture of frames, of event datasets. Prints the split and digest, and returns
    the exit code. Raises ConfigError for wrong words, DataError naming the first file that is missing or damaged.
    """
    if len(words) < 2 or words[0] not in ("check", "prepare", "preview"):
        raise ConfigError("write: snnrepro data check|prepare|preview NAME [dataset.root=FOLDER]")
    action, name, *overrides = words
    known = options("dataset")
    if name not in known:
        raise ConfigError(f"{name}: no such dataset{nearest(name, known)}; there are {', '.join(known)}")
    if action == "preview" and not known[name].events:
        of_events = ", ".join(each for each, option in known.items() if option.events)
        raise ConfigError(f"data preview {name}: made for events: {of_events}")
    if action == "prepare" and any(field.name == "download" for field in fields(known[name])):
        overrides.append("dataset.download=true")
    run = compose_run([f"dataset={name}", *overrides])
    from snnrepro.build import build_dataset

    found = build_dataset(run)
    if not len(found.train) or not len(found.test):
        raise DataError(f"dataset={name}: an empty split: {found.split}")
    shape = "x".join(map(str, found.in_shape))
    print(f"{name}: {found.split}; {found.num_classes} classes, {shape}; digest {found.digest[:12]}")
    if action == "preview":
        from snnrepro.data.events.preview import write_png

        images, _ = found.test.__getitems__([(0, index) for index in range(min(5, len(found.test)))])
        file = Path(run.runtime.output_dir) / f"preview_{name}.png"
        write_png(images.numpy(), file)
        print(f"written: {file}: a recording per row, a frame per column; red brighter, blue darker")
    return 0
