"""Configurations of a bundle: its programs, what may be set in them, and what overlays change."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from markdown_text import tables_in

__all__ = ["MISSING", "Bundle", "Config", "Knob", "meanings_of", "plain"]

MISSING: Final = object()

_FIRST = ("train", "inference")
# not for a user to set
_ABOUT = ("_desc_", "imports", "bundle_root")


@dataclass(frozen=True)
class Knob:
    """What a user may set: a plain value at the top of a program.

    Attributes:
        name: its id.
        default: the value in the file.
        meaning: what the model card says about it; empty where it says nothing.
    """

    name: str
    default: Any
    meaning: str = ""


@dataclass(frozen=True)
class Config:
    """One JSON file.

    Attributes:
        name: name of the file without .json.
        content: what it holds.
    """

    name: str
    content: Mapping[str, Any]

    @property
    def description(self) -> str:
        """What it is, in words."""
        return str(self.content.get("_desc_", ""))

    @property
    def is_program(self) -> bool:
        """Whether it can be run alone."""
        return "bundle_root" in self.content

    def at_the_top(self) -> dict[str, Any]:
        """The values before the first object."""
        names = list(self.content)
        first = next((k for k, name in enumerate(names) if _is_object(self.content[name])), len(names))
        return {name: self.content[name] for name in names[:first] if name not in _ABOUT}

    def value(self, key: str) -> Any:
        """The value at an id such as ``train::trainer``; `MISSING` where there is none."""
        found: Any = self.content
        for part in key.lstrip("+").split("::"):
            found = found.get(part, MISSING) if isinstance(found, Mapping) else MISSING
        return found


class Bundle:
    """The configurations of a bundle and its card.

    Args:
        folder: the bundle.
    """

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        paths = sorted((folder / "configs").glob("*.json"))
        self.paths = [path for path in paths if path.stem != "metadata"]
        configs = [Config(path.stem, json.loads(path.read_text(encoding="utf-8"))) for path in self.paths]
        self.programs = sorted((c for c in configs if c.is_program), key=_rank)
        self._overlays = [c for c in configs if not c.is_program]
        self.card = folder / "docs" / "README.md"
        self.meanings = meanings_of(self.card.read_text(encoding="utf-8")) if self.card.is_file() else {}

    def knobs(self, program: Config) -> list[Knob]:
        """What may be set in a program."""
        top = program.at_the_top().items()
        return [Knob(k, v, self.meanings.get(k, "")) for k, v in top if self._is_knob(k, v)]

    def others(self, program: Config) -> list[Knob]:
        """Values at the top that follow from the knobs, or that overlays set, and that the card does not explain."""
        return [Knob(k, v) for k, v in program.at_the_top().items() if not self._is_knob(k, v)]

    def _is_knob(self, name: str, value: Any) -> bool:
        return name in self.meanings or not (value is None or is_computed(value))

    def overlays(self, program: Config) -> list[Config]:
        """The overlays that belong to a program."""
        return [overlay for overlay in self._overlays if self._program_of(overlay) is program]

    def _program_of(self, overlay: Config) -> Config:
        """The program that the overlay's description names, or else the one that has most of its ids."""
        named = [p for p in self.programs if f"configs/{p.name}.json" in overlay.description]
        parts = [key.lstrip("+").split("::")[0] for key in overlay.content]
        return max(named or self.programs, key=lambda p: sum(part in p.content for part in parts))


def _rank(program: Config) -> int:
    """What a user reads first comes first."""
    return _FIRST.index(program.name) if program.name in _FIRST else len(_FIRST)


def is_computed(value: Any) -> bool:
    """Whether a value is an expression or a reference."""
    return isinstance(value, str) and value.startswith(("$", "@"))


def meanings_of(card: str) -> dict[str, str]:
    """What a model card says about each knob.

    Args:
        card: Markdown with tables whose first column is called "knob" and whose last is the meaning. A name outside of
            these tables is explained by the brackets behind it, as in "`seed` (of the random draws)".

    Returns:
        Meaning by name.
    """
    loose = dict(re.findall(r"`(\w+)` \(((?:[^()`]|`[^`]*`)+)\)", card))
    listed = {}
    for header, *rows in tables_in(card):
        if header[0].lower() == "knob":
            listed |= {name: cells[-1] for cells in rows for name in re.findall(r"`([^`]+)`", cells[0])}
    return loose | listed


def plain(value: Any) -> str:
    """A value in one line: expressions as they stand, objects by their class alone."""
    if is_computed(value):
        return str(value)
    if isinstance(value, list) and any(map(_is_object, value)):
        return f"[{', '.join(map(plain, value))}]"
    if _is_object(value):
        return f"{str(value['_target_']).rpartition('.')[2]}({'…' if len(value) > 1 else ''})"
    return json.dumps(value, ensure_ascii=False)


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" in value
