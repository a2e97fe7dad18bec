"""From command-line words to a ``RunConfig``: with ``cli.py`` the only code that imports Hydra and OmegaConf."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from snnrepro.checks import nearest
from snnrepro.config import RunConfig
from snnrepro.errors import ConfigError, StorageError

_PACKAGE = Path(__file__).resolve().parent
# An installed wheel carries the YAML files inside the package; a checkout has them at the top level.
CONFIG_DIR = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"
CONFIG_NAME = "train"
ConfigStore.instance().store(name="_schema", node=RunConfig)


@cache
def groups() -> dict[str, list[str]]:
    """Returns the config groups and the options of each, such as {"neuron": ["as_sg", "lif", ...]}."""
    found: dict[str, list[str]] = {}
    for path in sorted(CONFIG_DIR.rglob("*.yaml")):
        group, _, option = path.relative_to(CONFIG_DIR).with_suffix("").as_posix().partition("/")
        if option:
            found.setdefault(group, []).append(option)
    return found


@cache
def keys(schema: type = RunConfig, prefix: str = "") -> tuple[str, ...]:
    """Returns every dotted key of the schema, sections included."""
    hints = get_type_hints(schema)
    found: list[str] = []
    for field in fields(schema):
        name = prefix + field.name
        found.append(name)
        if is_dataclass(hints[field.name]):
            found.extend(keys(hints[field.name], name + "."))
    return tuple(found)


def parse(words: Sequence[str]) -> list[Override]:
    """Returns the parsed overrides. Raises ConfigError for a word that is not GROUP=OPTION or KEY=VALUE."""
    parser = OverridesParser.create()
    parsed = []
    for word in words:
        try:
            parsed.append(parser.parse_override(word))
        except HydraException:
            raise ConfigError(f"{word!r}: not understood; write GROUP=OPTION or KEY=VALUE") from None
    return parsed


def check_names(overrides: Sequence[Override]) -> None:
    """Raises ConfigError for an unknown key or option, naming it and the nearest valid one."""
    for override in overrides:
        key = override.key_or_group
        if key.startswith("hydra.") or key.startswith("hydra/"):
            continue
        if override.is_delete():
            raise ConfigError(f"~{key}: keys cannot be removed; set a value instead")
        if key in groups():
            _check_option(key, override)
        elif key not in keys():
            raise ConfigError(f"{key}: no such key{nearest(key, [*keys(), *groups()])}")
        elif override.is_add() and not override.is_force_add():
            raise ConfigError(f"+{key}: the key exists already; write it without '+'")


def _check_option(group: str, override: Override) -> None:
    options = groups()[group]
    for value in override.sweep_iterator() if override.is_sweep_override() else [override.value()]:
        if value is None and group == "experiment":
            continue
        if override.is_add():
            raise ConfigError(f"+{group}: the group exists already; write it without '+'")
        if str(value) not in options:
            hint = nearest(str(value), options)
            raise ConfigError(f"{group}={value}: must be one of {', '.join(options)}{hint}")


def to_run_config(tree: DictConfig) -> RunConfig:
    """Returns the typed, range-checked configuration. Raises ConfigError naming the dotted key."""
    try:
        run = OmegaConf.to_object(tree)
    except OmegaConfBaseException as error:
        raise _explain(error) from None
    assert isinstance(run, RunConfig)
    return run


def _explain(error: BaseException) -> ConfigError:
    """Returns the ConfigError for an exception of Hydra or OmegaConf."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, ConfigError):
        return error
    text = str(error)
    found = re.search(r"full_key: (\S+)", text)
    first = text.strip().splitlines()[0]
    return ConfigError(f"{found.group(1)}: {first}" if found else first)


@contextmanager
def _composing() -> Iterator[Callable[..., DictConfig]]:
    """Yields ``compose_tree(words, **options)``, which raises ConfigError for what Hydra or OmegaConf refuse."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):

        def compose_tree(words: Sequence[str], **options: bool) -> DictConfig:
            try:
                return compose(CONFIG_NAME, list(words), **options)
            except (HydraException, OmegaConfBaseException) as error:
                raise _explain(error) from None

        yield compose_tree


@contextmanager
def composer() -> Iterator[Callable[[Sequence[str]], RunConfig]]:
    """Yields ``make(words) -> RunConfig``, for many compositions in a row."""
    with _composing() as compose_tree:

        def make(words: Sequence[str]) -> RunConfig:
            check_names(parse(words))
            return to_run_config(compose_tree(words))

        yield make


def sweep_of(words: Sequence[str]) -> list[str]:
    """Returns the sweep that the configuration of ``words`` brings, such as ["neuron.v_threshold=0.5,1.0,2.0"]."""
    with _composing() as compose_tree:
        params = compose_tree(words, return_hydra_config=True).hydra.sweeper.params
    return [f"{key}={value}" for key, value in (params or {}).items()]


def compose_run(words: Sequence[str]) -> RunConfig:
    """Returns the configuration that the command line ``train.py WORDS`` would run with."""
    with composer() as make:
        return make(words)


def to_plain(run: RunConfig) -> dict[str, Any]:
    """Returns the configuration as nested dicts of plain values."""
    return asdict(run)


def to_yaml(run: RunConfig) -> str:
    """Returns the configuration as YAML text."""
    return OmegaConf.to_yaml(OmegaConf.structured(run))


def from_yaml(path: Path) -> RunConfig:
    """Returns the configuration of a run folder's ``config.yaml``. Raises StorageError where there is none."""
    try:
        return from_plain(OmegaConf.to_container(OmegaConf.load(path)))
    except OSError as error:
        raise StorageError(f"{path}: cannot read: {error.strerror}") from None


def from_plain(plain: Any) -> RunConfig:
    """Returns the configuration stored as plain values. Raises ConfigError where it does not fit the schema."""
    try:
        tree = OmegaConf.merge(OmegaConf.structured(RunConfig), plain)
        assert isinstance(tree, DictConfig)
        return to_run_config(tree)
    except OmegaConfBaseException as error:
        raise _explain(error) from None
