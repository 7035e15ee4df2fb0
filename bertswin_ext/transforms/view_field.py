"""Random fields of view: upright boxes and cylinders about a joint, both joints, or anything."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from bertswin_ext.geometry import Floats

__all__ = ["ViewField", "draw_field", "seen_depth"]

_WHOLE, _BOTH, _ONE = 0.35, 0.6, 0.85  # shares of the kinds, added up; the rest is anything


@dataclass(frozen=True)
class ViewField:
    """A box, with upright rounded sides if it is a cylinder.

    Attributes:
        center: mm from the view's first voxel.
        half: half of its extent along each axis, in mm.
        is_round: a cylinder, whose radius is the smaller one of the first two.
    """

    center: Floats
    half: Floats
    is_round: bool

    def holds(self, steps: Tensor) -> Tensor:
        """Which voxels at these positions along every axis are inside, (n, n, n)."""
        x, y, z = ((steps - c).abs() for c in self.center.tolist())
        if self.is_round:
            across = (x.square()[:, None] + y.square()) <= float(self.half[:2].min()) ** 2
        else:
            across = (x <= self.half[0])[:, None] & (y <= self.half[1])
        return across[:, :, None] & (z <= self.half[2])


def seen_depth(field: ViewField, place: Floats) -> float:
    """How far a point is inside the field, in mm; negative outside.

    Example:
        >>> box = ViewField(np.zeros(3), np.array([10.0, 20.0, 30.0]), is_round=False)
        >>> seen_depth(box, np.array([4.0, 0.0, 0.0])), seen_depth(box, np.array([0.0, 0.0, 31.0]))
        (6.0, -1.0)
    """
    offset = np.abs(place - field.center)
    if field.is_round:
        inside = min(float(field.half[:2].min() - np.hypot(*offset[:2])), float(field.half[2] - offset[2]))
    else:
        inside = float((field.half - offset).min())
    return inside


def draw_field(rng: np.random.RandomState, extent_mm: float, places: list[Floats]) -> ViewField:
    """Draw what a scanner sees of a view.

    Args:
        rng: source of every number.
        extent_mm: edge of the view.
        places: where the joints are in it, mm from its first voxel.

    Returns:
        The whole view, a field about both joints, about one of them, or anywhere.
    """
    kind, middle = rng.random_sample(), np.full(3, extent_mm / 2)
    half, shift = np.full(3, 2.0 * extent_mm), np.zeros(3)
    if kind < _WHOLE:
        half = half * np.where(rng.random_sample(3) < 0.3, rng.uniform(0.15, 0.3, 3), 1.0)
        shift = rng.uniform(-30.0, 30.0, 3)
    elif kind < _BOTH or not places:
        half, shift = rng.uniform((60.0, 45.0, 25.0), (105.0, 105.0, 95.0)), rng.uniform(-1, 1, 3) * (15.0, 40.0, 30.0)
    elif kind < _ONE:
        middle = places[rng.randint(len(places))]
        half, shift = rng.uniform((18.0, 22.0, 18.0), (50.0, 50.0, 50.0)), rng.uniform(-16.0, 16.0, 3)
    else:
        half, shift = rng.uniform(25.0, 80.0, 3), rng.uniform(-70.0, 70.0, 3)
    return ViewField(middle + shift, half, bool(rng.random_sample() < 0.4))
