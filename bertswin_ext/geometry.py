"""Points, grids and the field of view in space; world is RAS in mm, a voxel's index is that of its centre."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["FieldOfView", "Floats", "is_inside", "moved", "spacing_of"]

Floats = npt.NDArray[np.float64]


def moved(matrix: npt.ArrayLike, points: npt.ArrayLike) -> Floats:
    """Points (..., 3) under an affine matrix (4, 4).

    Example:
        >>> moved(np.diag([2.0, 2.0, 2.0, 1.0]), [1.0, 2.0, 3.0]).tolist()
        [2.0, 4.0, 6.0]
    """
    affine = np.asarray(matrix, dtype=np.float64)
    return np.asarray(np.asarray(points, dtype=np.float64) @ affine[:3, :3].T + affine[:3, 3])


def spacing_of(affine: npt.ArrayLike) -> Floats:
    """Edges of a voxel in mm along i, j, k, from an affine (4, 4)."""
    return np.asarray(np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0))


def is_inside(index_vox: npt.ArrayLike, shape: Sequence[int]) -> bool:
    """Whether an index (3,) lies in a volume of this shape, whose outer voxels reach half a voxel beyond their centres.

    Example:
        >>> is_inside([-0.4, 0.0, 3.4], (4, 4, 4)), is_inside([0.0, 0.0, 3.6], (4, 4, 4))
        (True, False)
    """
    index = np.asarray(index_vox, dtype=np.float64)
    return not bool((index < -0.5).any() or (index > np.array(shape) - 0.5).any())


@dataclass(frozen=True)
class FieldOfView:
    """What a cone-beam scanner sees of the patient: a cylinder, without its two ends; what lies outside is fill.

    Args:
        center_mm: a point on the axis, RAS world.
        radius_mm: radius of the cylinder, above 0.
        axis: direction of the axis in the RAS world, of any length above 0; stored as a unit vector.

    Raises:
        ValueError: a number is not finite, or the radius or the axis is 0.

    Source: arXiv 2512.21769, section 4: a vertical cylinder of 88 mm.

    Example:
        >>> fov = FieldOfView((0.0, 0.0, 0.0), 88.0)
        >>> fov.contains([[80.0, 0.0, 500.0], [80.0, 80.0, 0.0]]).tolist()
        [True, False]
    """

    center_mm: tuple[float, float, float]
    radius_mm: float
    axis: tuple[float, float, float] = (0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        center, axis = _point("center_mm", self.center_mm), np.array(_point("axis", self.axis))
        length = float(np.linalg.norm(axis))
        if length == 0:
            raise ValueError("The field of view's `axis` must not be 0. Use [0, 0, 1] for an upright scanner.")
        if not (isinstance(self.radius_mm, int | float | np.number) and 0 < self.radius_mm < np.inf):
            raise ValueError(f"The field of view's `radius_mm` must be above 0 mm, got {self.radius_mm!r}.")
        object.__setattr__(self, "center_mm", center)
        object.__setattr__(self, "radius_mm", float(self.radius_mm))
        object.__setattr__(self, "axis", tuple((axis / length).tolist()))

    @classmethod
    def of_item(cls, entry: Mapping[str, Any]) -> FieldOfView:
        """The field of view that a datalist gives as ``{"center_mm": [...], "radius_mm": r, "axis": [...]}``.

        Raises:
            ValueError: an entry is missing, unknown or wrong.
        """
        lacking = [key for key in ("center_mm", "radius_mm") if key not in entry]
        unknown = sorted(set(entry) - {"center_mm", "radius_mm", "axis"})
        if lacking or unknown:
            raise ValueError(
                'The field of view must be {"center_mm": [x, y, z], "radius_mm": r}, with an optional "axis"; '
                + f"missing: {', '.join(lacking) or 'nothing'}, unknown: {', '.join(unknown) or 'nothing'}."
            )
        return cls(entry["center_mm"], entry["radius_mm"], entry.get("axis", (0.0, 0.0, 1.0)))

    def to_item(self) -> dict[str, Any]:
        """The entry of a datalist, see `of_item`."""
        return {"center_mm": list(self.center_mm), "radius_mm": self.radius_mm, "axis": list(self.axis)}

    def across(self) -> Floats:
        """Two unit vectors across the axis, (2, 3), for distances from it in two coordinates."""
        axis = np.array(self.axis)
        first = np.cross(axis, np.eye(3)[int(np.argmin(np.abs(axis)))])
        first /= np.linalg.norm(first)
        return np.stack([first, np.cross(axis, first)])

    def distances_mm(self, points_mm: npt.ArrayLike) -> Floats:
        """Distances of points (..., 3) from the axis."""
        offsets = np.asarray(points_mm, dtype=np.float64) - np.array(self.center_mm)
        return np.asarray(np.linalg.norm(offsets @ self.across().T, axis=-1))

    def contains(self, points_mm: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Which of the points (..., 3) lie inside."""
        return np.asarray(self.distances_mm(points_mm) <= self.radius_mm)


def _point(name: str, values: Sequence[float]) -> tuple[float, float, float]:
    """Three finite numbers."""
    try:
        point = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        point = np.empty(0)
    if point.shape != (3,) or not np.isfinite(point).all():
        raise ValueError(f"The field of view's `{name}` must be 3 finite numbers, got {values!r}.")
    return float(point[0]), float(point[1]), float(point[2])
