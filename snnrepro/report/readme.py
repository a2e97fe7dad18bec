"""The tables a text quotes: blocks between markers, written from the documents and checked against them."""

import re
from pathlib import Path

from snnrepro import io, stored
from snnrepro.errors import ConfigError

_END = "<!-- end -->"


def _marker(table: str, scale: str) -> str:
    return f"<!-- {table} {scale} -->"


def replace_block(text: str, table: str, scale: str, content: str) -> str:
    """Returns ``text`` with ``content`` between ``<!-- table10 mini -->`` and the next ``<!-- end -->``.

    Raises ConfigError unless the opening marker is there once, with an end before the next opening marker.
    """
    start = _marker(table, scale)
    if text.count(start) != 1:
        raise ConfigError(f"the marker {start} must occur once, found {text.count(start)}; close it with {_END}")
    before, after = text.split(start)
    body, end, rest = after.partition(_END)
    if not end or re.search(r"<!-- \w+ (paper|mini) -->", body):
        raise ConfigError(f"the block {start} is not closed; add a line {_END}")
    return f"{before}{start}\n{content.strip()}\n{_END}{rest}"


def update(path: Path, table: str, scale: str, content: str) -> None:
    """Writes the block into the file ``path``. Raises ConfigError for missing markers, StorageError for the file."""
    io.write_atomic(path, replaced(path, table, scale, content))


def is_current(path: Path, table: str, scale: str, content: str) -> bool:
    """Returns whether the block in the file ``path`` says what ``content`` says. Raises as ``update`` does."""
    return replaced(path, table, scale, content) == _read(path)


def replaced(path: Path, table: str, scale: str, content: str) -> str:
    """Returns the text of the file ``path`` with the block replaced."""
    try:
        return replace_block(_read(path), table, scale, content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _read(path: Path) -> str:
    return stored.read_text(path, "name a text file with the marker of the table")
