"""The one reader of stored files: it returns what fits a known shape, or says in one line what does not.

A ``Kind`` is what a file may hold; it lies beside the code that writes the file. Whatever is met in a file's place (a
folder, a pipe, another encoding, values of other types) ends in a StorageError that names file, key and repair.
"""

import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config

from snnrepro import io
from snnrepro.errors import StorageError

T = TypeVar("T")

# Texts, not arrays: the largest that are written are a few megabytes.
TEXT_BYTES = 1 << 26

# For TypedDicts: no other keys, no other types, no NaN.
exact = with_config(ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
# The same where further keys are somebody else's to judge.
open_ended = with_config(ConfigDict(extra="allow", strict=True, allow_inf_nan=False))
Count = Annotated[int, Field(ge=0, lt=2**63)]
NotNegative = Annotated[float, Field(ge=0)]
Percent = Annotated[float, Field(ge=0, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(min_length=1, max_length=250, pattern=r"^[^/\x00]+$")]


class Fault(ValueError):
    """What is wrong with a content, as ``dotted.key: plain words``."""


class Newer(Fault):
    """The content has a format that this version does not know."""


@dataclass(frozen=True)
class Kind(Generic[T]):
    """What one kind of JSON file holds.

    schema: a TypedDict. repair: what to do about a file that does not fit. format: the number that is written;
    a content without one is from before there were numbers, 0. upgrade: makes this format of an older content, given
    its number. check: raises Fault for what types cannot say.
    """

    schema: Any
    repair: str
    format: int = 1
    upgrade: Callable[[dict[str, Any], int], dict[str, Any]] = lambda content, _: content
    check: Callable[[Any], None] = lambda _: None

    def read(self, path: Path) -> T:
        """Returns the content of a file. Raises StorageError naming file, key and repair."""
        return self.parse(read_text(path, self.repair), path)

    def parse(self, text: str, where: object) -> T:
        """Returns the content of a JSON text, which ``where`` names. Raises StorageError."""
        try:
            content = _json(text)
        except Fault as fault:
            raise StorageError(f"{where}: {fault}; {self.repair}") from None
        return self.accept(content, where)

    def accept(self, content: Any, where: object) -> T:
        """Returns a content as ``fitting`` does. Raises StorageError, in which ``where`` names it."""
        try:
            return self.fitting(content)
        except Fault as fault:
            repair = "update snnrepro" if isinstance(fault, Newer) else self.repair
            raise StorageError(f"{where}: {fault}; {repair}") from None

    def fitting(self, content: Any) -> T:
        """Returns a content in this format, without the number, otherwise as it was stored. Raises Fault."""
        if not isinstance(content, dict):
            raise Fault(f"keys and values are needed, found {_shown(content)}")
        content = dict(content)
        number = content.pop("format", 0)
        if type(number) is not int or number < 0:
            raise Fault(f"format: must be a whole number, found {_shown(number)}")
        if number > self.format:
            raise Newer(f"format {number} is not {self.format}, the newest that this version reads")
        if number < self.format:
            content = self.upgrade(content, number)
        require(self.schema, content)
        self.check(content)
        return content

    def numbered(self, content: T) -> dict[str, Any]:
        """Returns the content as it is written: the number of its format first."""
        return {"format": self.format, **content}  # type: ignore[dict-item]

    def write(self, path: Path, content: T) -> None:
        """Writes the content as JSON, atomically. Raises StorageError."""
        io.write_json(path, self.numbered(content))


@cache
def _adapter(schema: Any) -> TypeAdapter:
    return TypeAdapter(schema)


def require(schema: Any, content: Any, key: str = "") -> None:
    """Raises Fault, behind the dotted ``key`` of the content, unless it fits the schema."""
    try:
        _adapter(schema).validate_python(content)
    except ValidationError as error:
        raise Fault(f"{key}.{_words(error, content)}" if key else _words(error, content)) from None


def _words(error: ValidationError, content: Any) -> str:
    """Returns the first problem in plain words, behind the dotted key."""
    first = error.errors(include_url=False)[0]
    keys: list[str] = []
    value = content
    for part in first["loc"]:
        # Behind the key itself, a location may name the alternatives of its type.
        if not (isinstance(value, dict) and part in value) and not (isinstance(value, list) and isinstance(part, int)):
            if first["type"] == "missing" and part == first["loc"][-1]:
                keys.append(str(part))
            break
        value = value[part]  # type: ignore[index]
        keys.append(str(part))
    known = {"missing": "is missing", "extra_forbidden": "no such key", "recursion_loop": "nested too deeply"}
    text = first["msg"].replace("Input should be ", "must be ").replace("valid dictionary", "section of keys")
    return f"{'.'.join(keys)}: {known.get(first['type'], f'{text}, found {_shown(value)}')}"


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "a section of keys" if isinstance(value, dict) else "a list"
    text = repr(value) if isinstance(value, str) else str(value).lower() if value is not None else "null"
    return text if len(text) <= 40 else f"{text[:37]}..."


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise Fault(f"{next(name for name in names if names.count(name) > 1)}: stands there twice")
    return found


def _json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise Fault("nested too deeply") from None
    except json.JSONDecodeError as error:
        raise Fault(f"not JSON, line {error.lineno}, column {error.colno}") from None
    except ValueError as error:
        # Fault, and what Python says to numbers of thousands of digits.
        raise error if isinstance(error, Fault) else Fault("a number has too many digits") from None


def has_key(text: str, key: str) -> bool:
    """Returns whether a text is a JSON object with this key, which may tell its kind."""
    try:
        content = _json(text)
    except Fault:
        return False
    return isinstance(content, dict) and key in content


def exists(path: Path) -> bool:
    """Returns whether anything is at ``path``. Raises StorageError where that cannot be seen, as for a long name."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
    return True


def is_folder(path: Path) -> bool:
    """Returns whether ``path`` is a folder. Raises StorageError as ``exists`` does."""
    return exists(path) and path.is_dir()


def unreadable(path: Path, error: Exception, repair: str = "check the path and its rights") -> StorageError:
    """Returns the StorageError of a file that the system does not let us read."""
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return StorageError(f"{path}: cannot read: {reason or error}; {repair}")


def _without_waiting(path: str, flags: int) -> int:
    # A pipe would wait for a writer.
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def read_bytes(path: Path, repair: str, limit: int = TEXT_BYTES) -> bytes:
    """Returns the bytes of an ordinary file that holds some, up to ``limit``. Raises StorageError; never waits."""
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                kind = "a named pipe" if stat.S_ISFIFO(found.st_mode) else "a device"
                raise StorageError(f"{path}: {kind}, not a file; {repair}")
            data = file.read(limit + 1) if found.st_size <= limit else bytes(1)
    except (OSError, ValueError) as error:
        raise unreadable(path, error, repair) from None
    if max(found.st_size, len(data)) > limit:
        raise StorageError(f"{path}: {found.st_size} bytes, larger than what is written there; {repair}")
    if not data:
        raise StorageError(f"{path}: empty; {repair}")
    return data


def read_text(path: Path, repair: str) -> str:
    """Returns the text of a file. Raises StorageError as ``read_bytes`` does, and for another encoding than UTF-8."""
    try:
        return read_bytes(path, repair).decode()
    except UnicodeDecodeError:
        raise StorageError(f"{path}: not text in UTF-8; {repair}") from None


def listed(folder: Path) -> list[Path]:
    """Returns what is in a folder, sorted by name, nothing where there is none. Raises StorageError."""
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError) as error:
        raise unreadable(folder, error) from None


class _Loader(yaml.SafeLoader):
    """YAML as our own files have it: each key once, no aliases, which can make a small file a huge tree."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise Fault(f"line {self.peek_event().start_mark.line + 1}: aliases are not read")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if not isinstance(key, str):
                raise Fault(f"{key}: a key must be text")
        if len(set(keys)) < len(keys):
            raise Fault(f"{next(key for key in keys if keys.count(key) > 1)}: stands there twice")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, repair: str, format: int) -> dict[str, Any]:
    """Returns the keys and values of a YAML file whose first line may be ``# format N``. Raises StorageError."""
    text = read_text(path, repair)
    first = text.partition("\n")[0]
    number = first.removeprefix("# format ") if first.startswith("# format ") else "0"
    try:
        if not number.isdecimal() or len(number) > 9:
            raise Fault(f"format: must be a whole number, found {_shown(number)}")
        if int(number) > format:
            raise Newer(f"format {number} is not {format}, the newest that this version reads")
        content = _Loader(text).get_single_data()
        if not isinstance(content, dict):
            raise Fault(f"keys and values are needed, found {_shown(content)}")
        return content
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise StorageError(f"{path}: not YAML, line {line}; {repair}") from None
    except (yaml.YAMLError, RecursionError, OverflowError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else "not YAML"
        raise StorageError(f"{path}: {reason}; {repair}") from None
    except ValueError as error:
        fault = error if isinstance(error, Fault) else "a value that YAML cannot hold"
        raise StorageError(f"{path}: {fault}; {'update snnrepro' if isinstance(error, Newer) else repair}") from None
