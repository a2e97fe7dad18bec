"""Modules that bring options of their own: of installed distributions, or files beside the user.

A distribution names its module behind the entry point group ``snnrepro.plugins``; ``plugins=[my.module]`` on any
command line names one that Python finds from the current folder. It registers its options when it is imported
(``snnrepro.registry``); a folder ``configs`` beside it, laid out as this project's own, holds their YAML files. What
lies in this package has no privilege over them.
"""

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from snnrepro import io
from snnrepro.errors import ConfigError

GROUP = "snnrepro.plugins"
# Where the names of modules are handed to the processes that a command starts.
VARIABLE = "SNNREPRO_PLUGINS"
_WORD = re.compile(r"plugins=\[?((?:[A-Za-z_][\w.]*)(?:,\s*[A-Za-z_][\w.]*)*)\]?")


@dataclass(frozen=True, slots=True)
class Plugin:
    """What brings options: a distribution, or a module, whose version may be its digest. folder: its YAML files."""

    distribution: str
    version: str
    folder: Path | None


def take(words: Sequence[str]) -> list[str]:
    """Returns the words without ``plugins=[MODULE,...]``, whose modules this process and those it starts will import.

    Raises ConfigError for what names no modules.
    """
    rest = []
    for word in words:
        if not word.startswith("plugins="):
            rest.append(word)
            continue
        found = _WORD.fullmatch(word)
        if found is None:
            raise ConfigError(f"{word}: names of modules are needed, such as plugins=[my.module]")
        given = [*os.environ.get(VARIABLE, "").split(","), *re.split(r",\s*", found[1])]
        os.environ[VARIABLE] = ",".join(dict.fromkeys(filter(None, given)))
    return rest


@cache
def plugins() -> tuple[Plugin, ...]:
    """Returns the plugins of this process, imported. Raises ConfigError naming one that cannot be imported."""
    found = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        module, plugin = _installed(entry)
        found[module] = plugin
    for name in filter(None, os.environ.get(VARIABLE, "").split(",")):
        module, plugin = _beside(name)
        found.setdefault(module, plugin)
    return tuple(found.values())


def _installed(entry: EntryPoint) -> tuple[ModuleType, Plugin]:
    name, version = (entry.dist.name, entry.dist.version) if entry.dist else (entry.name, "unknown")
    try:
        module = entry.load()
    except Exception as error:
        # Anything may go wrong in a module that is not ours; the user can take it out.
        raise ConfigError(
            f"plugin {name} {version}: {_said(error)}; update it, or remove it: pip uninstall {name}"
        ) from None
    return module, Plugin(name, version, _folder(module))


def _beside(name: str) -> tuple[ModuleType, Plugin]:
    # Last: a file beside the user must not stand in for a module of Python's.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = import_module(name)
    except Exception as error:
        raise ConfigError(
            f"plugins=[{name}]: {_said(error)}; name a module that Python can import from this folder"
        ) from None
    file = Path(module.__file__ or "")
    digest = f"sha256 {io.sha256(file.read_bytes())[:12]}" if file.is_file() else "unknown"
    return module, Plugin(name, getattr(module, "__version__", digest), _folder(module))


def _folder(module: ModuleType) -> Path | None:
    folder = Path(module.__file__ or "").parent / "configs"
    return folder if folder.is_dir() else None


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
