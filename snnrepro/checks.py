"""Checks of configuration values: each raises a ConfigError of one line that names the dotted key."""

import difflib
import errno
import os
import sys
from collections.abc import Collection, Iterable

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


# The largest values of keys without a bound of their own: float32 and counters of 32 bits hold them with room to
# spare, so that no product with them overflows where nobody looks.
LARGEST_NUMBER, LARGEST_COUNT = 1e30, 10**9
# Systems end a path at 1024 (macOS) or 4096 bytes, and a run's own names come behind.
LONGEST_PATH, DEEPEST_PATH = 700 if sys.platform == "darwin" else 3500, 200


def in_range(key: str, value: float | None, low: float, high: float | None = None, *, open_low: bool = False) -> None:
    """Raises ConfigError unless ``low <= value <= high`` (``low < value`` if open) and value is finite.

    high: LARGEST_COUNT for whole numbers and LARGEST_NUMBER for others where none is given.
    """
    if value is None:
        raise ConfigError(f"{key}=null: a number is needed")
    if high is None:
        high = LARGEST_COUNT if isinstance(value, int) else LARGEST_NUMBER
    above = value > low if open_low else value >= low
    # Python's integers have no end: comparing is exact where a conversion to a float would overflow.
    if not (above and value <= high):
        bound = f"{'above' if open_low else 'at least'} {low:g} and at most {high:g}"
        raise ConfigError(f"{key}={_short(value)}: must be a finite number {bound}")


def _short(value: float) -> str:
    text = str(value)
    return text if len(text) < 30 else f"{text[:12]}... ({len(text)} digits)"


def user_path(key: str, text: str) -> str:
    """Returns a path as its user meant it: ``~`` is the home folder. Raises ConfigError naming ``key``."""
    if not text.strip():
        raise ConfigError(f"{key}={text}: the name of a file or folder is needed")
    path = os.path.expanduser(text)
    if len(os.fsencode(path)) > LONGEST_PATH or path.count("/") > DEEPEST_PATH:
        raise ConfigError(f"{key}={path[:60]}...: too long for the file system ({len(path)} characters)")
    if path.startswith("~") and text.startswith("~"):
        raise ConfigError(
            f"{key}={text}: no such user, or HOME is not set; for a name that begins with ~ write ./{text}"
        )
    try:
        os.stat(path)
    except ValueError:
        raise ConfigError(f"{key}={text!r}: a path has no null character") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ConfigError(f"{key}={path[:60]}...: too long for the file system ({len(path)} characters)") from None
    return path
