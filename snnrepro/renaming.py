"""``snnrepro rename-runs``: runs of an older version, and their ids in stored tables, get their names of today.

Nothing else changes: what a run wrote keeps the name that it was trained under, and is known by it
(``identity.names_of``). Every step stands by itself, so the command can be interrupted and started again.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from snnrepro import io, stored
from snnrepro.compose import composer
from snnrepro.errors import ConfigError, StorageError
from snnrepro.identity import NUMERICS, names_by_version, run_id
from snnrepro.overrides import plain_value
from snnrepro.runs import CONFIG_FORMAT, REPAIR, RunLock

USAGE = """usage: snnrepro rename-runs [runtime.output_dir=FOLDER]

  gives the folders in FOLDER/runs, and the ids in FOLDER/tables, the names that this version looks for"""
_ID = re.compile(r"[\w.-]+-s\d+-[0-9a-f]{10}\b")


def main(words: Sequence[str]) -> int:
    """Renames, says what it did, and returns the exit code: 1 where a folder could not be renamed.

    Raises ConfigError for wrong words, StorageError where the disk refuses.
    """
    if set(words) & {"-h", "--help"}:
        print(USAGE)
        return 0
    output = Path("outputs")
    for word in words:
        if not word.startswith("runtime.output_dir="):
            raise ConfigError(f"{word!r}: write runtime.output_dir=FOLDER")
        output = Path(plain_value(word) or "outputs")
    if not stored.is_folder(output / "runs") and not stored.is_folder(output / "tables"):
        raise StorageError(
            f"{output}: neither runs/ nor tables/ is in it; name the folder with runtime.output_dir=FOLDER"
        )
    names: dict[str, str] = {}
    outcomes = [_rename(folder, names) for folder in stored.listed(output / "runs") if stored.is_folder(folder)]
    moved, left = outcomes.count("renamed"), outcomes.count("left")
    tables = sum(_rewrite(file, names) for file in sorted((output / "tables").glob("*.json")))
    print(f"{moved} folders renamed, {outcomes.count('kept')} had their names already, {left} left as they are; "
          f"{tables} tables rewritten")  # fmt: skip
    return int(left > 0)


def _rename(folder: Path, names: dict[str, str]) -> str:
    """Returns renamed, kept or left; adds what the run may have been called to ``names``: former to today's."""
    try:
        config = stored.read_yaml(folder / "config.yaml", REPAIR, CONFIG_FORMAT)
        # Results of other numerics keep being told from those of today.
        pairs = names_by_version(config).values()
        name = next((today for first, today in pairs if folder.name in (first, today)), None)
        if name is None:
            raise StorageError(f"{folder}: not the configuration of this run")
        names |= dict(pairs)
        if name == folder.name:
            return "kept"
        with RunLock(folder):
            if os.path.lexists(folder.with_name(name)):
                raise StorageError(f"{folder}: {name} is there already; remove one of them")
            os.rename(folder, folder.with_name(name))
    except (ConfigError, StorageError) as error:
        print(f"left: {error}")
        return "left"
    except OSError as error:
        raise StorageError(f"{folder}: cannot rename: {error.strerror}; check the folder and its rights") from None
    print(f"{folder.name} -> {name}")
    return "renamed"


def _rewrite(table: Path, names: dict[str, str]) -> bool:
    """Writes a table's files with the names of today; returns whether that changed any of them."""
    text = stored.read_text(table, "make the table again")
    if not stored.has_key(text, "rows"):
        return False
    known = names | dict(_of_cells(text))
    changed = False
    for file in (table.with_suffix(suffix) for suffix in (".csv", ".md", ".json")):
        if stored.exists(file):
            before = stored.read_text(file, "make the table again")
            after = _ID.sub(lambda found: known.get(found[0], found[0]), before)
            if after != before:
                io.write_atomic(file, after)
                changed = True
    return changed


def _of_cells(text: str) -> Iterator[tuple[str, str]]:
    """Yields (id in the table, name of today) for runs whose folders may be elsewhere, by the words that made them."""
    from snnrepro.report.document import TABLE

    document = TABLE.parse(text, "table")
    if document["numerics"] != NUMERICS:
        return
    with composer() as make:
        for row in document["rows"]:
            for cell in row["cells"]:
                try:
                    made = make(cell["words"])
                except ConfigError:
                    continue
                for run in cell["runs"]:
                    name = run_id(replace(made, seed=run["seed"]))
                    if name.rpartition("-")[0] == run["run"].rpartition("-")[0]:
                        yield run["run"], name
