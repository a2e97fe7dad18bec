"""From command-line words to a ``RunConfig``, by Hydra."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from copy import deepcopy
from dataclasses import fields
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from snnrepro import registry
from snnrepro.checks import nearest
from snnrepro.config import GROUPS, RunConfig
from snnrepro.config_values import explained, to_run_config
from snnrepro.errors import ConfigError
from snnrepro.overrides import SEARCH_PATH, is_text, line, parse, quoted, values
from snnrepro.plugins import plugins
from snnrepro.schema import Option, section_of

_PACKAGE = Path(__file__).resolve().parent
# An installed wheel carries the YAML files inside the package; a checkout has them at the top level.
CONFIG_DIR = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"
CONFIG_NAME = "train"


_told: dict[tuple[str, str], type] = {}


def _tell_hydra() -> None:
    """Stores the schema of a run, and of option ``name`` as ``_name``, from which its YAML files start."""
    store = ConfigStore.instance().store
    if not _told:
        store(name="_schema", node=RunConfig)
    for group in GROUPS:
        for name, schema in registry.options(group).items():
            if _told.get((group, name)) is not schema:
                store(group=group, name=f"_{name}", node=schema, package=group)
                _told[group, name] = schema


@cache
def groups(folders: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """Returns the config groups and the options of each, such as {"neuron": ["as_sg", "lif", ...]}.

    folders: the user's own, laid out as ``configs/`` is. Raises ConfigError for a file that is no text, or an option
    that exists twice.
    """
    found: dict[str, list[str]] = {}
    for folder in (str(CONFIG_DIR), *_folders_of_plugins(), *folders):
        for path in sorted(Path(folder).rglob("*.yaml")):
            group, _, option = path.relative_to(folder).with_suffix("").as_posix().partition("/")
            if not option or (folder != str(CONFIG_DIR) and group not in found):
                continue
            if option in found.setdefault(group, []):
                raise ConfigError(f"{path}: {group}={option} exists already; give the file another name")
            try:
                path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                raise ConfigError(f"{path}: not UTF-8 text") from None
            found[group].append(option)
    return found


def _folders_of_plugins() -> list[str]:
    # Modules that lie side by side have one, and one in a checkout of this project has its own.
    found = dict.fromkeys(plugin.folder.resolve() for plugin in plugins() if plugin.folder)
    return [str(folder) for folder in found if folder != CONFIG_DIR.resolve()]


class _PathOfPlugins(SearchPathPlugin):
    """Where Hydra finds the YAML files of plugins."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in _folders_of_plugins():
            search_path.append("snnrepro", f"file://{folder}")


Plugins.instance().register(_PathOfPlugins)


def folders_of(overrides: Sequence[Override]) -> tuple[str, ...]:
    """Returns the user's own folders of configuration files."""
    given = [override.value() for override in overrides if override.key_or_group == SEARCH_PATH]
    last = given[-1] if given else []
    assert isinstance(last, list), "parse has made it a list"
    return tuple(folder.removeprefix("file://") for folder in last)


def keys() -> tuple[str, ...]:
    """Returns every dotted key that some option has, sections included."""
    found = keys_of(RunConfig, "")
    for group in GROUPS:
        for schema in registry.options(group).values():
            found.extend(keys_of(schema, f"{group}."))
    return tuple(dict.fromkeys(found))


def keys_of(schema: type, prefix: str) -> list[str]:
    """Returns the dotted keys of one class, sections included."""
    found: list[str] = []
    for field in fields(schema):
        found.append(prefix + field.name)
        section = section_of(field)
        if section is not None and not issubclass(section, Option):
            found.extend(keys_of(section, f"{prefix}{field.name}."))
    return found


def check_names(overrides: Sequence[Override]) -> None:
    """Raises ConfigError for an unknown key or option, naming it and the nearest valid one."""
    known, every = groups(folders_of(overrides)), keys()
    for override in overrides:
        key = override.key_or_group
        if override.is_delete():
            raise ConfigError(f"~{key}: keys cannot be removed; set a value instead")
        if override.package is not None:
            raise ConfigError(f"{line(override)}: every group has its own place; leave out @{override.package}")
        if key == "hydra" or override.is_hydra_override():
            if key != SEARCH_PATH:
                raise ConfigError(f"{line(override)}: {_not_hydra(key)}")
        elif key in known:
            _check_option(key, override, known[key])
        elif key not in every:
            raise ConfigError(f"{key}: no such key{nearest(key, [*every, *known])}")
        elif override.is_add() and not override.is_force_add():
            raise ConfigError(f"+{key}: the key exists already; write it without '+'")
        elif override.is_sweep_override():
            values(override, None)


def _not_hydra(key: str) -> str:
    """Returns what to write instead of a key of Hydra's own."""
    if key in ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.output_subdir"):
        return "not used here; runtime.output_dir=FOLDER says where runs are kept"
    if key in ("hydra.mode", "hydra/sweeper") or key.startswith("hydra.sweeper"):
        return "not used here; train.py -m KEY=VALUE,VALUE runs every combination"
    if key.startswith(("hydra/launcher", "hydra.launcher")):
        return "a launcher starts the runs of a sweep: train.py -m hydra/launcher=NAME"
    return "not used here; of Hydra's own keys hydra/launcher, hydra.launcher.* and hydra.searchpath are"


def _check_option(group: str, override: Override, options: list[str]) -> None:
    if override.is_add():
        raise ConfigError(f"+{group}: the group exists already; write it without '+'")
    given = override.value()
    single = "null" if given is None else str(given)
    for value in values(override, options) if override.is_sweep_override() else [single]:
        if value not in options:
            raise ConfigError(f"{group}={value}: must be one of {', '.join(options)}{nearest(value, options)}")


# What Hydra raises for wrong words and wrong files.
_REFUSALS = (HydraException, OmegaConfBaseException, YAMLError, RecursionError)


@contextmanager
def hydra_loaded() -> Iterator[tuple[Any, Callable[..., DictConfig]]]:
    """Yields Hydra and ``compose_tree(words, **options)``; both raise ConfigError for what they refuse."""
    GlobalHydra.instance().clear()
    _tell_hydra()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):

        def compose_tree(words: Sequence[str], **options: bool) -> DictConfig:
            try:
                return compose(CONFIG_NAME, list(words), **options)
            except _REFUSALS as error:
                raise explained(error) from None

        try:
            yield GlobalHydra.instance().hydra, compose_tree
        except _REFUSALS as error:
            raise explained(error) from None


@contextmanager
def composer() -> Iterator[Callable[[Sequence[str]], RunConfig]]:
    """Yields ``make(words) -> RunConfig``, for many compositions in a row."""
    with hydra_loaded() as (_, compose_tree):
        # Reading the files is what takes time, and most runs of a sweep or table differ in values of keys only.
        trees: dict[tuple[str, ...], DictConfig] = {}

        def make(words: Sequence[str]) -> RunConfig:
            overrides = parse(words)
            check_names(overrides)
            for word, override in zip(words, overrides, strict=True):
                if override.is_sweep_override():
                    key, _, text = word.partition("=")
                    one = f", or as one text {quoted(key, text)}" if is_text(key) else ""
                    raise ConfigError(f"{word}: several values make a sweep; with train.py add -m{one}")
            known = groups(folders_of(overrides))
            files = tuple(line(o) for o in overrides if o.key_or_group in known or o.is_hydra_override())
            if files not in trees:
                trees[files] = compose_tree(files)
            tree = deepcopy(trees[files])
            of_keys = [override for override in overrides if line(override) not in files]
            for override in of_keys:
                _require_key(tree, override)
            try:
                ConfigLoaderImpl._apply_overrides_to_config(of_keys, tree)
            except _REFUSALS as error:
                raise explained(error) from None
            return to_run_config(tree)

        yield make


def _require_key(tree: DictConfig, override: Override) -> None:
    """Raises ConfigError where the chosen option of a group does not have the key, naming those that do."""
    key = override.key_or_group
    group, _, name = key.partition(".")
    schema = OmegaConf.get_type(tree, group)
    if not name or group not in GROUPS or schema is None or key in keys_of(schema, f"{group}."):
        return
    chosen = f"{group}.{GROUPS[group].selector}={tree[group][GROUPS[group].selector]}"
    others = [other for other, each in registry.options(group).items() if key in keys_of(each, f"{group}.")]
    raise ConfigError(f"{line(override)}: {chosen} does not use it, {' and '.join(others)} would; leave it out")


def sweep_of(words: Sequence[str]) -> list[str]:
    """Returns the sweep that the configuration of ``words`` brings, such as ["neuron.v_threshold=0.5,1.0,2.0"]."""
    with hydra_loaded() as (_, compose_tree):
        params = compose_tree(words, return_hydra_config=True).hydra.sweeper.params
    return [f"{key}={value}" for key, value in (params or {}).items()]


def compose_run(words: Sequence[str]) -> RunConfig:
    """Returns the configuration that the command line ``train.py WORDS`` would run with."""
    with composer() as make:
        return make(words)


def show(words: Sequence[str], cfg: str | None, package: str | None, resolve: bool, info: str | None) -> None:
    """Prints the configuration of ``words`` (cfg: job, hydra, all), or how it is composed (info)."""
    lines = [line(override) for override in parse(words)]
    with hydra_loaded() as (hydra, _):
        if cfg is None:
            hydra.show_info(info, CONFIG_NAME, lines)
            return
        try:
            with redirect_stderr(StringIO()):
                hydra.show_cfg(CONFIG_NAME, lines, cfg, package, resolve)
        except SystemExit:
            raise ConfigError(f"--package {package}: no such part of the configuration") from None


def complete(words: Sequence[str]) -> None:
    """Answers a shell that completes words: ``install=SHELL``, ``uninstall=SHELL``, ``query=SHELL``."""
    with hydra_loaded() as (hydra, _):
        try:
            hydra.shell_completion(CONFIG_NAME, list(words))
        except (ValueError, HydraException) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"--shell-completion: {reason}; write install=bash, zsh or fish") from None
