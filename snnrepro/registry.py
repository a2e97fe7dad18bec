"""Options by name: which typed class stands behind ``GROUP=OPTION``.

An option is a slotted dataclass with exactly the keys that it reads and a method that builds what it names. It lies in
a module whose name ends in ``_options``, beside that thing; every such module of the package is imported before a
command line is read, so none imports torch: what is built imports it when it is built. A new option is new files only,
here or in another distribution (``plugins.py``).
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from snnrepro.errors import ConfigError
from snnrepro.plugins import plugins

T = TypeVar("T", bound=type)

_PACKAGE = Path(__file__).resolve().parent
_registered: dict[str, dict[str, type[Any]]] = {}


def register(group: str, *names: str) -> Callable[[T], T]:
    """Returns a class decorator: the class is the schema of the options ``names`` of ``group``.

    Raises ConfigError for a name that another class has.
    """

    def keep(option: T) -> T:
        for name in names:
            other = _registered.setdefault(group, {}).setdefault(name, option)
            if other is not option:
                raise ConfigError(f"{group}={name}: registered twice, by {other.__module__} and {option.__module__}")
        return option

    return keep


def options(group: str) -> dict[str, type[Any]]:
    """Returns the classes of a group by the name they are registered under."""
    _load()
    return dict(_registered.get(group, {}))


@cache
def _load() -> None:
    for path in sorted(_PACKAGE.rglob("*_options.py")):
        import_module(".".join((_PACKAGE.name, *path.relative_to(_PACKAGE).with_suffix("").parts)))
    plugins()
