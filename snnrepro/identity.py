"""Which runs are one run: a name made of the options that were chosen and the keys that each of them has.

A key that is left out (None) is no part of it, nor is one that says where or how a run executes, nor one that was added
to an option later and has the value that means "as before" (``config.elsewhere``, ``config.later``). So new options and
new keys move no name.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any

from snnrepro import io, registry
from snnrepro.config import GROUPS, RunConfig, section_class
from snnrepro.config_values import of_today, to_plain
from snnrepro.errors import ConfigError
from snnrepro.schema import Option, section_of

# Raised whenever a change of the code changes results, so that an older result is never taken for a new one.
NUMERICS = 3
PRECISION = "runtime.precision"
# Under the first rule, every key of the schema was part of a name but these.
_ELSEWHERE_AT_FIRST = ("logger", "runtime", "dataset.root", "dataset.download")


def run_id(run: RunConfig) -> str:
    """Returns ``<dataset>-<model>-<family>-s<seed>-<10 hex digits>``; equal values give equal ids."""
    return id_of(to_plain(run))


def id_of(config: Mapping[str, Any], numerics: int = NUMERICS) -> str:
    """Returns the id of the run with this configuration, as plain values. Raises ConfigError for what is none."""
    return _named(config, {"numerics": numerics, "run": identity(RunConfig, of_today(config))})


def first_id(config: Mapping[str, Any], numerics: int = NUMERICS) -> str:
    """Returns the id under the first rule: over all keys that were stored, nulls included."""
    return _named(config, {"numerics": numerics, "config": _identity_at_first(config)})


def names_by_version(config: Mapping[str, Any]) -> dict[int, tuple[str, str]]:
    """Returns, by ``NUMERICS``, the names under the first rule and under today's that a run stored so may have.

    Nothing for what is no configuration, or has an option that is not installed here.
    """
    try:
        first, today = _identity_at_first(config), identity(RunConfig, of_today(config))
        return {
            numerics: (
                _named(config, {"numerics": numerics, "config": first}),
                _named(config, {"numerics": numerics, "run": today}),
            )
            for numerics in range(NUMERICS, 0, -1)
        }
    except (AttributeError, ConfigError, KeyError, TypeError, ValueError, RecursionError):
        return {}


def names_of(config: Mapping[str, Any]) -> set[str]:
    """Returns all names that the run with this stored configuration may have: of this version and of older ones."""
    return {name for pair in names_by_version(config).values() for name in pair}


def names_one_run(config: Mapping[str, Any], *names: str) -> bool:
    """Returns whether ``names`` are names of one run with this configuration; results of other numerics are another."""
    return any({*names} <= {*pair} for pair in names_by_version(config).values())


def _named(config: Mapping[str, Any], content: Any) -> str:
    neuron = config["neuron"]
    family = neuron.get("family") or neuron["kind"]
    name = f"{config['dataset']['name']}-{config['model']['name']}-{family}-s{config['seed']}"
    return f"{name}-{io.sha256(json.dumps(content, sort_keys=True).encode())[:10]}"


def identity(schema: type, values: Mapping[str, Any], inside: bool = True) -> dict[str, Any]:
    """Returns those of the plain ``values`` of a class that make a run this run and no other.

    inside: whether a field counts that does not say so itself.
    """
    kept: dict[str, Any] = {}
    for field in fields(schema):
        counts, value = field.metadata.get("identity", inside), values.get(field.name)
        section = section_of(field)
        if section is not None and issubclass(section, Option):
            section = section_class(field.name, value)
        if section is not None and isinstance(value, Mapping):
            if found := identity(section, value, counts):
                kept[field.name] = found
        elif counts and value is not None and value != field.metadata.get("as_before"):
            kept[field.name] = value
    return kept


@cache
def in_identity(key: str) -> bool:
    """Returns whether another value of the dotted ``key`` makes another run. The record says what any key was."""
    schemas: tuple[type, ...] = (RunConfig,)
    counts = True
    for name in key.split("."):
        found = [field for schema in schemas for field in fields(schema) if field.name == name]
        if not found:
            break
        counts = any(field.metadata.get("identity", counts) for field in found)
        section = section_of(found[0])
        if section is None:
            break
        schemas = tuple(registry.options(name).values()) if name in GROUPS else (section,)
    return counts


def _identity_at_first(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    kept = {}
    for name, value in plain.items():
        key = prefix + name
        if isinstance(value, dict):
            kept[name] = _identity_at_first(value, key + ".")
        elif key == PRECISION or not any(key == o or key.startswith(o + ".") for o in _ELSEWHERE_AT_FIRST):
            kept[name] = value
    return kept
