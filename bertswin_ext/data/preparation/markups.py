"""What the points of a 3D Slicer markups file say: which joint, and where."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertswin_ext.data.datalist import JOINTS

__all__ = ["Mark", "as_finite", "in_ras", "read_label", "read_markups", "read_system"]

Point = tuple[float, float, float]

_PLACED = "defined"
_SYSTEMS = {"RAS": "RAS", "LPS": "LPS", "0": "RAS", "1": "LPS"}  # the numbers are those of old files

_NOUN = r"condyles?|condylion|condylar|condylus|cond|tmj|joint"
_LEFT, _RIGHT = r"left|lt|l", r"right|rt|r"
# What a whole word of a label says: the side, and whether it names the joint. "Co" glued to a side behind it keeps its
# case, because "Cor" is short for the coronoid process.
_WORDS: tuple[tuple[str, str | None, bool], ...] = (
    (rf"(?i:{_LEFT})", "left", False),
    (rf"(?i:{_RIGHT})", "right", False),
    (rf"(?i:({_LEFT})({_NOUN}|co)|({_NOUN})({_LEFT}))|Co(L|Left)", "left", True),
    (rf"(?i:({_RIGHT})({_NOUN}|co)|({_NOUN})({_RIGHT}))|Co(R|Right)", "right", True),
    (rf"(?i:{_NOUN}|co)", None, True),
    (r"(?i:points?|cent(er|re)|middle|landmark|side)", None, False),
)
_UNDERSTOOD = (
    "Understood is a side (left, right, L, R) with or without a word for the joint (condyle, condylion, Co, TMJ, "
    'joint), as in "L_condyle", "TMJ right" or "RCo"'
)


@dataclass(frozen=True)
class Mark:
    """A point that marks a joint.

    Args:
        joint: the patient's side, ``"left"`` or ``"right"``.
        label: what the point is called.
        is_named: the label names the joint, not the side alone.
        position_mm: position in the RAS world; None if the point is not placed.
        status: ``"defined"`` for a point that is placed, else why it is not.
    """

    joint: str
    label: str
    is_named: bool
    position_mm: Point | None
    status: str


def read_label(label: str) -> tuple[str, bool] | None:
    """Say which joint a label means.

    The label's words, without digits, must name one side. They must also name the joint or else be no more than the
    side and words like "point": "L_gonion" is no joint.

    Args:
        label: name of a point.

    Returns:
        The side, and whether the label names the joint and not the side alone; None for a label that is no joint.

    Example:
        >>> read_label("L_condyle"), read_label("Right-1"), read_label("L_gonion"), read_label("Condyle")
        (('left', True), ('right', False), None, None)
    """
    words = re.findall(r"[^\W\d_]+", label)
    said = [next(((side, noun) for form, side, noun in _WORDS if re.fullmatch(form, word)), None) for word in words]
    sides = {meaning[0] for meaning in said if meaning} - {None}
    is_named = any(meaning[1] for meaning in said if meaning)
    side = sides.pop() if len(sides) == 1 else None
    return (side, is_named) if side and (is_named or all(said)) else None


def read_markups(path: Path) -> list[Mark]:
    """Read the joints of one markups file.

    Of several points of one side the only one whose label names the joint is taken. Points that are no joint may be
    there as long as the file has both joints; else one of them may be a joint with a misspelt label.

    Args:
        path: a ``.mrk.json`` file with coordinates in mm, in RAS or LPS (the default, as in 3D Slicer).

    Returns:
        One placed mark for each joint, left before right; at least one.

    Raises:
        ValueError: the file is damaged, has no joint, or it is unclear which point is which joint. The text does not
            name the file.
    """
    marks, strange = [], []
    for label, position, status in _control_points(path):
        meaning = read_label(label)
        if meaning is None:
            strange.append(label)
        else:
            marks.append(Mark(meaning[0], label, meaning[1], position, status))
    if strange and {mark.joint for mark in marks} != set(JOINTS):
        raise ValueError(
            f"no joint is told by the label{'s' * (len(strange) > 1)} {_quoted(strange)}. {_UNDERSTOOD}. "
            "Rename the points, or delete those that are no joint."
        )
    placed = [mark for mark in marks if mark.position_mm]
    if not placed:
        unplaced = "".join(f'; "{mark.label}" is not placed (positionStatus "{mark.status}")' for mark in marks)
        raise ValueError(f"it has no joint{unplaced}. Place the points in 3D Slicer, or delete the file.")
    sides = [[mark for mark in placed if mark.joint == joint] for joint in JOINTS]
    return [_only_one(joint, side) for joint, side in zip(JOINTS, sides, strict=True) if side]


def _only_one(joint: str, marks: list[Mark]) -> Mark:
    """Choose the mark of a joint: the only one, or the only one that names the joint."""
    named = [mark for mark in marks if mark.is_named]
    for choice in (marks, named):
        if len(choice) == 1:
            return choice[0]
    labels = _quoted([mark.label for mark in marks])
    raise ValueError(f"{len(marks)} points mark the {joint} joint: {labels}. Keep the one in the middle of the joint.")


def _quoted(labels: Sequence[str]) -> str:
    """Labels in quotes."""
    return ", ".join(f'"{label}"' for label in labels)


# --- the file ---


def _control_points(path: Path) -> Iterator[tuple[str, Point | None, str]]:
    """Yield label, RAS position (None if not placed) and status of the points of a file."""
    for markup in _objects(_content(path), "markups", "the file"):
        system = read_system(markup.get("coordinateSystem", "LPS"))
        _check_unit(markup.get("coordinateUnits", "mm"))
        for point in _objects(markup, "controlPoints", "a markup"):
            label, status = str(point.get("label", "")), str(point.get("positionStatus", _PLACED))
            # what stands as the position of a point that was never placed means nothing
            yield label, in_ras(_position(label, point), system) if status == _PLACED else None, status


def _content(path: Path) -> object:
    """Parse a file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"it is not a JSON file ({error}). Save it again in 3D Slicer.") from error


def _objects(parent: object, key: str, where: str) -> list[dict[str, Any]]:
    """Return a list of JSON objects."""
    found = parent.get(key) if isinstance(parent, dict) else None
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise ValueError(f'{where} has no list "{key}", so it was not written by 3D Slicer. Save it again there.')
    return found


def _position(label: str, point: dict[str, Any]) -> Point:
    """Check the position of a point."""
    value = point.get("position")
    numbers = [as_finite(entry) for entry in value] if isinstance(value, list) else []
    finite = [number for number in numbers if number is not None]
    if len(numbers) != 3 or len(finite) != 3:
        raise ValueError(f'the position of "{label}" must be three finite numbers, got {value}. Place the point again.')
    return finite[0], finite[1], finite[2]


def _check_unit(unit: object) -> None:
    """Refuse all but mm; a unit may come as a code with its meaning."""
    code = unit[0] if isinstance(unit, list) and unit else unit
    if code != "mm":
        raise ValueError(f'its coordinateUnits must be "mm", got {unit!r}. Save it in mm.')


# --- coordinates ---


def as_finite(value: object) -> float | None:
    """Read a number, also from a text; None if it is none or not finite."""
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def read_system(value: object) -> str:
    """Read the name of a coordinate system as ``"RAS"`` or ``"LPS"``."""
    system = _SYSTEMS.get(str(value).strip().upper())
    if system is None:
        raise ValueError(f"the coordinate system must be RAS or LPS, got {value!r}. Correct it.")
    return system


def in_ras(position: Point, system: str) -> Point:
    """Turn a position into RAS; the two systems differ in the signs of the first two axes."""
    x, y, z = position
    return (-x, -y, z) if system == "LPS" else position
