"""What is reported of one joint of a scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bertswin_ext.outputs.joint_space import JointSpace

__all__ = ["JointReport"]

Point = tuple[float, float, float]


@dataclass(frozen=True)
class JointReport:
    """One joint: where it is, who says so, and how narrow it is.

    Attributes:
        joint: ``"left"`` or ``"right"``, the patient's; None where nobody said.
        center_mm: its centre in the RAS world; None where the whole scan was segmented.
        confidence: how sure the locator is, from 0 to 1; None where the centre was given.
        space: the narrowest place; None if it was not measured.
        box_mm: edges of the box round the centre that was segmented, as far as the scan goes.

    Example:
        >>> JointReport("left", (-50.0, 12.0, 30.0), 0.9).origin
        'found'
    """

    joint: str | None
    center_mm: Point | None
    confidence: float | None = None
    space: JointSpace | None = None
    box_mm: Point | None = None

    @property
    def origin(self) -> str:
        """Where the centre comes from: ``"given"``, ``"found"``, or ``"none"`` for a whole scan."""
        if self.center_mm is None:
            return "none"
        return "given" if self.confidence is None else "found"

    @property
    def name(self) -> str:
        """The joint in a picture or a message."""
        return f"{self.joint} joint" if self.joint else "joint"

    def to_json(self) -> dict[str, Any]:
        """The joint in ``report.json``."""
        space = JointSpace(None, reason="not measured") if self.space is None else self.space
        return {
            "joint": self.joint,
            "center_mm": _rounded(self.center_mm),
            "center_origin": self.origin,
            "confidence": None if self.confidence is None else round(float(self.confidence), 4),
            "box_mm": _rounded(self.box_mm),
            "joint_space_mm": None if space.distance_mm is None else round(space.distance_mm, 3),
            "joint_space_at_mandible_mm": _rounded(space.mandible_mm),
            "joint_space_at_skull_mm": _rounded(space.skull_mm),
            "joint_space_missing_because": space.reason or None,
        }


def _rounded(point: Sequence[float] | None) -> list[float] | None:
    """A point to the thousandth of a mm."""
    return None if point is None else [round(float(value), 3) for value in point]
