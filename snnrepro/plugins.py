"""Distributions that bring options of their own: modules behind the entry point group ``snnrepro.plugins``.

Such a module registers its options when it is imported (``snnrepro.registry``); a folder ``configs`` beside it, laid
out as this project's own, holds their YAML files. What lies in this package has no privilege over them.
"""

from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from snnrepro.errors import ConfigError

GROUP = "snnrepro.plugins"


@dataclass(frozen=True, slots=True)
class Plugin:
    """An installed distribution that brings options. folder: its YAML files, None where it has none."""

    distribution: str
    version: str
    folder: Path | None


@cache
def plugins() -> tuple[Plugin, ...]:
    """Returns the plugins that are installed, imported. Raises ConfigError naming one that cannot be imported."""
    return tuple(_imported(entry) for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name))


def _imported(entry: EntryPoint) -> Plugin:
    name, version = (entry.dist.name, entry.dist.version) if entry.dist else (entry.name, "unknown")
    try:
        module = entry.load()
    except Exception as error:
        # Anything may go wrong in a module that is not ours; the user can take it out.
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ConfigError(f"plugin {name} {version}: {reason}; update it, or remove it: pip uninstall {name}") from None
    folder = Path(module.__file__ or "").parent / "configs"
    return Plugin(name, version, folder if folder.is_dir() else None)
