"""Find faults in a bundle's configuration before anything heavy is built."""

from __future__ import annotations

import difflib
import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from pydoc import ErrorDuringImport, locate
from types import FrameType
from typing import Any

from monai.bundle import ComponentLocator, ConfigComponent, ConfigParser, ReferenceResolver

from bertswin_ext.errors import listed

__all__ = ["check_config", "config_problems", "current_config", "known_ids"]

# the second is what MONAI Label writes for several GPUs
_NOT_CONFIGS = ("metadata.json", "monailabel_train.json")
_COUNTS = (
    "epochs",
    "steps_per_epoch",
    "crops_per_volume",
    "batch_size",
    "accumulation_steps",
    "val_interval",
    "val_batch_size",
    "patience",
    "checkpoint_interval",
    "log_interval",
    "num_images",
)


def check_config(bundle_root: str | Path) -> None:
    """Check the configuration that is being run.

    MONAI takes a mistyped override such as ``--epoch 5`` for a new entry and carries on; here it is an error.

    Args:
        bundle_root: folder of the bundle, whose ``configs`` tell which entries exist.

    Raises:
        ValueError: the faults, all of them.
    """
    config = current_config()
    problems = config_problems(config, known_ids(bundle_root))
    if problems:
        raise ValueError(listed(problems, f"the configuration of {Path(bundle_root).name}"))


def current_config() -> dict[str, Any]:
    """The configuration that is being resolved: files, overlays and overrides together.

    Raises:
        RuntimeError: called from outside a configuration.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, ConfigParser):
            return dict(owner.config)
        parser = getattr(owner, "parser", None)
        if isinstance(parser, ConfigParser):
            return dict(parser.config)
        frame = frame.f_back
    raise RuntimeError("`current_config` reads the configuration it is called from; call it inside one.")


def known_ids(bundle_root: str | Path) -> set[str]:
    """Entries that the bundle's configuration files know: ``epochs``, ``train``, ``train::dataloader``, ...

    Raises:
        ValueError: the folder has no configurations.
    """
    files = [path for path in (Path(bundle_root) / "configs").glob("*.json") if path.name not in _NOT_CONFIGS]
    if not files:
        raise ValueError(f"No configurations in {bundle_root}/configs. `bundle_root` must be the bundle's folder.")
    parser = ConfigParser({})
    for path in files:
        for key, value in json.loads(path.read_text(encoding="utf-8")).items():
            parser.set(value, key.lstrip("+"), recursive=True)
    return set(_entries(parser.config))


def config_problems(config: Mapping[str, Any], known: set[str]) -> list[str]:
    """Every fault of a configuration, in words.

    Args:
        config: the configuration as MONAI merged it.
        known: entries that exist, as `known_ids` gives them.

    Returns:
        Unknown entries, numbers that count nothing, components that do not exist, arguments that they do not take,
        references to nothing.
    """
    referenced = {name for _, value in _strings(config) for name in _references(value)}
    referenced |= {name.split("::")[0] for name in referenced}
    problems = []
    for entry in _entries(config):
        if entry not in known and entry not in referenced:
            near = difflib.get_close_matches(entry, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else " See the knobs at the top of the configuration."
            problems.append(f"the entry {entry!r} does not exist.{hint}")
    for name in _COUNTS:
        count = config.get(name, 1)
        if not isinstance(count, str) and (type(count) is not int or count < 1):
            problems.append(f"`{name}` must be a whole number from 1 on, got {count}")
    parser = ConfigParser(dict(config))
    for where, value in _strings(config):
        if value.lower() in ("false", "no", "off"):
            problems.append(f"{where}: {value} on the command line is a text, which counts as true. Write False")
        problems += [f"{where}: @{name} refers to nothing" for name in _references(value) if not _exists(parser, name)]
    locator = ComponentLocator()
    for where, component in _components(config):
        problems += [f"{where}: {problem}" for problem in _component_problems(component, locator)]
    return problems


def _component_problems(component: Mapping[str, Any], locator: ComponentLocator) -> list[str]:
    """Whether a component exists and takes its arguments; one that is switched off may be anything."""
    item = ConfigComponent(config=dict(component), id="", locator=locator)
    if item.is_disabled():
        return []
    name = item.resolve_module_name()
    try:
        target = locate(name) if isinstance(name, str) else name
    except ErrorDuringImport as error:
        return [f"{name} cannot be loaded: {error}"]
    if target is None:
        return [f"{name} does not exist. Is its package installed?"]
    arguments = item.resolve_args()
    try:
        signature = inspect.signature(target)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return []
    try:
        # a mistyped argument is told apart from one that is missing because of it
        signature.bind_partial(**arguments)
        if component.get("_mode_") != "callable":
            signature.bind(**arguments)
    except TypeError as error:
        return [f"{name}: {error}"]
    return []


def _entries(config: Mapping[str, Any]) -> Iterator[str]:
    """Top-level entries, and those one level down in groups of components such as ``train``."""
    for key, value in config.items():
        if key == "_meta_":
            continue
        yield key
        is_group = isinstance(value, Mapping) and "_target_" not in value
        if is_group and any(isinstance(child, Mapping) for child in value.values()):
            yield from (f"{key}::{child}" for child in value)


def _walk(node: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Every node of a configuration with its id."""
    yield where, node
    children: Any = ()
    if isinstance(node, Mapping):
        children = node.items()
    elif isinstance(node, list):
        children = enumerate(node)
    for key, child in children:
        yield from _walk(child, f"{where}::{key}" if where else str(key))


def _strings(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every string of a configuration with its id."""
    return ((where, node) for where, node in _walk(config) if isinstance(node, str))


def _components(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every component of a configuration with its id."""
    return ((where, node) for where, node in _walk(config) if isinstance(node, Mapping) and "_target_" in node)


def _references(value: str) -> set[str]:
    """Ids that a string refers to."""
    return {name.replace("#", "::") for name in ReferenceResolver.match_refs_pattern(value)}


def _exists(parser: ConfigParser, name: str) -> bool:
    """Whether an id exists."""
    try:
        parser[name]
    except (KeyError, IndexError, TypeError, ValueError):
        return False
    return True
