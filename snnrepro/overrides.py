"""The words of a command line, by Hydra's grammar; paths and names are taken as they are typed."""

import math
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    IntervalSweep,
    Override,
    Quote,
    QuotedString,
    RangeSweep,
    Sweep,
)
from hydra.errors import HydraException

from snnrepro.checks import user_path
from snnrepro.errors import ConfigError

# Keys whose value is free text: characters that Hydra's grammar keeps for itself belong to it.
TEXT_KEYS = ("dataset.root", "runtime.output_dir", "init_from", "logger.project", "logger.entity", "logger.group")
# Where Hydra looks for the user's own options; --config-dir is short for it.
SEARCH_PATH = "hydra.searchpath"
# More combinations than anybody trains, and few enough to list.
MAX_RUNS = 5_000
_CALL = re.compile(r"(choice|glob|interval|range|shuffle|sort|tag|str|int|float|bool|json_str|extend_list)\(")


def parse(words: Sequence[str]) -> list[Override]:
    """Returns the parsed overrides. Raises ConfigError for a word that is not GROUP=OPTION or KEY=VALUE."""
    return [_parse(word) for word in words]


def _parse(word: str) -> Override:
    key, separator, text = word.partition("=")
    if separator and is_text(key):
        word = f"{key}={_as_typed(text)}"
    try:
        override = OverridesParser.create().parse_override(word)
        if override.key_or_group != SEARCH_PATH:
            return override
        return OverridesParser.create().parse_override(f"{SEARCH_PATH}={_folders(override)}")
    # Numbers of thousands of digits, and brackets of thousands of levels.
    except (HydraException, ValueError, RecursionError) as error:
        shown = word if len(word) < 100 else f"{word[:100]}..."
        hint = f"; as one text: {quoted(key, text)}" if is_text(key) else ""
        # What is wrong inside choice(...) and its like, Hydra says in the first line.
        hint += f"; {str(error).splitlines()[0]}" if "while evaluating" in str(error) else ""
        raise ConfigError(f"{shown!r}: not understood; write GROUP=OPTION or KEY=VALUE{hint}") from None


def _folders(override: Override) -> str:
    """Returns the user's own folders of configuration files, absolute, for processes in any folder."""
    value = override.value()
    if override.is_sweep_override() or not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise ConfigError(f"{line(override)}: write --config-dir FOLDER")
    folders = [Path(user_path("--config-dir", folder.removeprefix("file://"))).absolute() for folder in value]
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"--config-dir {folder}: no such folder; it holds files such as neuron/NAME.yaml")
    return quoted_list([f"file://{folder}" for folder in folders])


def plain_value(word: str) -> str | None:
    """Returns the one value of a word as text, None for null. Raises ConfigError for several values."""
    (override,) = parse([word])
    if override.is_sweep_override() or override.is_add() or override.is_delete():
        raise ConfigError(f"{word}: write one value")
    value = override.value()
    return None if value is None else str(value)


def line(override: Override) -> str:
    """Returns the word of an override, as Hydra takes it."""
    assert override.input_line is not None
    return override.input_line


def is_text(key: str) -> bool:
    """Returns whether the value of ``key`` is free text, such as a path."""
    return key.lstrip("+") in TEXT_KEYS


def _as_typed(text: str) -> str:
    """Returns free text in Hydra's quotes; a comma separates values, and what the user quoted stays."""
    if text in ("", "null") or text[0] in "'\"" or _CALL.match(text):
        return text
    parts = [text] if text[0] in "[{" else text.split(",")
    return ",".join(QuotedString(part, Quote.double).with_quotes() for part in parts)


def quoted(key: str, text: str) -> str:
    """Returns the word for a shell that sets ``key`` to this text, whatever characters are in it."""
    return shlex.quote(f"{key}={QuotedString(text, Quote.double).with_quotes()}")


def _count(value: ChoiceSweep | RangeSweep) -> float:
    """Returns how many values there are, without listing them; inf where they do not end."""
    if not isinstance(value, RangeSweep):
        return len(value.list)
    assert value.start is not None and value.stop is not None
    try:
        return max(0, math.ceil((float(value.stop) - float(value.start)) / float(value.step)))
    except (ZeroDivisionError, OverflowError, ValueError):
        return math.inf


def quoted_list(texts: Sequence[str]) -> str:
    """Returns the texts as a list in Hydra's grammar."""
    return f"[{','.join(QuotedString(text, Quote.double).with_quotes() for text in texts)}]"


def values(override: Override, options: Sequence[str] | None) -> Iterator[str]:
    """Returns the values that a swept word stands for, each as it is written behind ``=``.

    options: those of the group that the word names, None for a key. Raises ConfigError where there is no value, no
    end, or nobody to choose them.
    """
    word, value = line(override), override.value()
    if isinstance(value, IntervalSweep):
        raise ConfigError(
            f"{word}: an interval needs a program that picks values from it; write them: a,b or range(...)"
        )
    if isinstance(value, Glob):
        if options is None:
            raise ConfigError(f"{word}: glob picks options of a group, and this is a key; write its values")
        found = value.filter(list(options))
        if not found:
            raise ConfigError(f"{word}: matches none of {', '.join(options)}")
        return iter(found)
    if any(isinstance(item, Sweep) for item in getattr(value, "list", ())):
        raise ConfigError(f"{word}: a sweep inside a list of values; write all values, or one range")
    assert isinstance(value, ChoiceSweep | RangeSweep), "what else Hydra's grammar has for several values is above"
    number = _count(value)
    if not 0 < number <= MAX_RUNS:
        many = "does not end" if number == math.inf else f"stands for {number:,} values" if number else "is empty"
        raise ConfigError(f"{word}: {many}; at least 1 and at most {MAX_RUNS:,} values make a sweep")
    return override.sweep_string_iterator()
