"""A configuration as a typed object, as plain values, and as YAML text."""

import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from snnrepro.config import GROUPS, RunConfig, section_class
from snnrepro.errors import ConfigError

_DEPTH = 5  # of sections and lists in a configuration; the schema needs three


def to_run_config(tree: DictConfig) -> RunConfig:
    """Returns the typed, range-checked configuration. Raises ConfigError naming the dotted key."""
    try:
        run = OmegaConf.to_object(tree)
    except OmegaConfBaseException as error:
        raise explained(error) from None
    assert isinstance(run, RunConfig)
    return run


def explained(error: BaseException) -> ConfigError:
    """Returns the ConfigError for an exception of Hydra or OmegaConf."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, ConfigError):
        return error
    text = str(error)
    if isinstance(error, YAMLError):
        return ConfigError(f"not YAML: {' '.join(text.split())}")
    found = re.search(r"full_key: (\S+)", text)
    first = (text.strip() or type(error).__name__).splitlines()[0]
    return ConfigError(f"{found.group(1)}: {first}" if found else first)


def changed(run: RunConfig, values: Mapping[str, str]) -> RunConfig:
    """Returns ``run`` with other values, by dotted key, as typed. Raises ConfigError as a command line would."""
    tree = OmegaConf.structured(run)
    try:
        for key, text in values.items():
            OmegaConf.update(tree, key, None if text == "null" else text)
    except OmegaConfBaseException as error:
        raise explained(error) from None
    return to_run_config(tree)


def to_plain(run: RunConfig) -> dict[str, Any]:
    """Returns the configuration as nested dicts of plain values."""
    return asdict(run)


def to_yaml(run: RunConfig) -> str:
    """Returns the configuration as YAML text."""
    return OmegaConf.to_yaml(OmegaConf.structured(run))


def from_plain(plain: dict[str, Any]) -> RunConfig:
    """Returns the configuration stored as plain values. Raises ConfigError where it does not fit the schema.

    Nothing in it is evaluated: text that refers to other keys or to the environment is refused.
    """
    if not isinstance(plain, dict):
        raise ConfigError(f"a configuration is a mapping of keys, not a {type(plain).__name__}")
    _refuse_strange(plain)
    plain = of_today(plain)
    try:
        tree = OmegaConf.structured(RunConfig)
        for group in GROUPS:
            tree[group] = OmegaConf.structured(section_class(group, plain.get(group)))
        return to_run_config(OmegaConf.merge(tree, plain))  # type: ignore[arg-type]
    except OmegaConfBaseException as error:
        raise explained(error) from None
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ConfigError(f"a value does not fit its key: {' '.join(str(error).split())[:200]}") from None


def of_today(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a stored configuration as it would be stored now.

    Before options had keys of their own, those that one did not use were stored as null.
    """
    came_later = {each.name: each.metadata["as_before"] for each in fields(RunConfig) if "as_before" in each.metadata}
    found = {**came_later, **plain}
    for group in GROUPS:
        section = found.get(group)
        if isinstance(section, dict):
            known = {field.name for field in fields(section_class(group, section))}
            found[group] = {key: value for key, value in section.items() if value is not None or key in known}
    return found


def _refuse_strange(value: Any, key: str = "", depth: int = 0) -> None:
    # OmegaConf explains what is nested deeply in exceptions of its own.
    if depth > _DEPTH:
        raise ConfigError(f"{key}: nested too deeply")
    if isinstance(value, dict | list):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            _refuse_strange(item, f"{key}.{name}" if key else str(name), depth + 1)
    elif isinstance(value, str) and "${" in value:
        raise ConfigError(f"{key}: {value!r} refers to something else, which is not looked up")
