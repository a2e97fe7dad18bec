"""Checks of configuration values: each raises a ConfigError of one line that names the dotted key."""

import difflib
import math
from collections.abc import Collection, Iterable, Mapping

from snnrepro.errors import ConfigError


def nearest(word: str, candidates: Iterable[str]) -> str:
    """Returns a hint such as "; did you mean 'x'?", or nothing when no candidate is near."""
    close = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def one_of(key: str, value: str, allowed: Collection[str]) -> None:
    """Raises ConfigError unless ``value`` is allowed; names the nearest option."""
    if value not in allowed:
        hint = nearest(str(value), allowed)
        raise ConfigError(f"{key}={value}: must be one of {', '.join(allowed)}{hint}")


def in_range(key: str, value: float | None, low: float, high: float = math.inf, *, open_low: bool = False) -> None:
    """Raises ConfigError unless ``low <= value <= high`` (``low < value`` if open) and value is finite."""
    if value is None:
        raise ConfigError(f"{key}=null: a number is needed")
    above = value > low if open_low else value >= low
    if not (math.isfinite(value) and above and value <= high):
        bound = f"{'above' if open_low else 'at least'} {low:g}"
        top = f" and at most {high:g}" if math.isfinite(high) else ""
        raise ConfigError(f"{key}={value}: must be a finite number {bound}{top}")


def only_for(section: str, owner: str, values: Mapping[str, object], used: Collection[str]) -> None:
    """Raises ConfigError where a key that ``owner`` does not use is set, or one that it needs is null."""
    for name, value in values.items():
        if name in used and value is None:
            raise ConfigError(f"{section}.{name}=null: {owner} needs a value")
        if name not in used and value is not None:
            raise ConfigError(f"{section}.{name}={value}: {owner} does not use it; leave it null")
