"""How narrow a joint is: the least distance between the bone of the mandible and of the skull."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bertswin_ext.geometry import Floats, moved
from bertswin_ext.outputs.nearest_pair import nearest_pair
from bertswin_ext.outputs.surface_mesh import SurfaceMesh, class_surface

__all__ = ["RADIUS_MM", "JointSpace", "minimal_joint_space"]

RADIUS_MM = 15.0
"""How far from a joint's centre is looked: the condyle and its fossa, not the coronoid process and the teeth."""

_MARGIN_VOX = 4  # what the cut bone does at the end of the box stays outside

Labels = npt.NDArray[np.uint8]
Point = tuple[float, float, float]


@dataclass(frozen=True)
class JointSpace:
    """The narrowest place of a joint.

    Attributes:
        distance_mm: how narrow it is, 0 where the bones touch; None if it cannot be measured.
        mandible_mm: where on the mandible, in the RAS world.
        skull_mm: where on the skull.
        reason: why there is no distance; empty where there is one.
    """

    distance_mm: float | None
    mandible_mm: Point | None = None
    skull_mm: Point | None = None
    reason: str = ""


def minimal_joint_space(
    label: Labels,
    affine: npt.ArrayLike,
    center_mm: npt.ArrayLike,
    joint: str | None = None,
    mandible: int = 1,
    skull: int = 2,
    radius_mm: float = RADIUS_MM,
) -> JointSpace:
    """The least distance between mandible and skull near the centre of a joint.

    It is measured in the world between the two surfaces of `class_surface`, from vertex to vertex, so it is right on
    uneven, tilted and sheared grids. Where voxels of both bones share a face it is 0. For flat bones of known distance
    it is a fifth of the longest edge of a voxel too small at most, for a ball in a cup less than one edge and mostly
    less than half of it: the least of many distances is rather too small than too large. Sharp edges, which swell a
    little when surfaces are smoothed, make it up to 0.4 voxels too small. What the label gets wrong comes on top.

    Args:
        label: label map (i, j, k).
        affine: voxel to RAS world in mm, (4, 4).
        center_mm: the joint in the RAS world.
        joint: its name in the reason, ``"left"`` or ``"right"``.
        mandible: the class of the mandible.
        skull: the class of the skull.
        radius_mm: the surfaces are looked at up to so far from the centre; 0 < ``radius_mm``.

    Returns:
        The narrowest place; without a distance, and with a reason, if one of the bones is not near.

    Raises:
        ValueError: the centre is not three finite numbers, or the radius not above 0.

    Example:
        >>> label = np.zeros((40, 40, 40), dtype=np.uint8)
        >>> label[:, :, :15], label[:, :, 20:] = 1, 2  # a gap of 5 voxels of 0.4 mm
        >>> space = minimal_joint_space(label, np.diag([0.4, 0.4, 0.4, 1.0]), (8.0, 8.0, 7.0), radius_mm=5)
        >>> round(space.distance_mm, 2)
        2.0
        >>> minimal_joint_space(label * 0, np.eye(4), (20.0, 20.0, 20.0), "left").reason
        'no mandible and no skull within 15 mm of the left joint'
    """
    matrix, center = np.asarray(affine, dtype=np.float64), np.asarray(center_mm, dtype=np.float64)
    if center.shape != (3,) or not np.isfinite(center).all() or not 0 < radius_mm < np.inf:
        raise ValueError(
            "A joint's centre must be 3 finite numbers in mm and `radius_mm` above 0, got "
            f"{center_mm!r} and {radius_mm!r}."
        )
    near, matrix = _cut_out(label, matrix, center, radius_mm)
    surfaces = [_points_near(class_surface(near, matrix, value), center, radius_mm) for value in (mandible, skull)]
    absent = [f"no {name}" for name, points in zip(("mandible", "skull"), surfaces, strict=True) if not len(points)]
    if absent:
        return JointSpace(None, reason=f"{' and '.join(absent)} within {radius_mm:g} mm of {_name(joint)}")
    contact = _contact(near, matrix, center, radius_mm, (mandible, skull))
    if contact is not None:
        return JointSpace(0.0, contact, contact)
    first, second = nearest_pair(*surfaces)
    return JointSpace(float(np.linalg.norm(first - second)), _point(first), _point(second))


def _name(joint: str | None) -> str:
    """The joint in a sentence."""
    return f"the {joint} joint" if joint else "the joint"


def _point(values: Floats) -> Point:
    """A point as Python's own numbers."""
    x, y, z = values.tolist()
    return x, y, z


def _cut_out(label: Labels, affine: Floats, center: Floats, radius_mm: float) -> tuple[Labels, Floats]:
    """The box of voxels that holds a ball with a margin, as a view, and its own affine."""
    inverse = np.linalg.inv(affine)
    middle = moved(inverse, center)
    reach = radius_mm * np.linalg.norm(inverse[:3, :3], axis=1) + _MARGIN_VOX
    sizes = np.array(label.shape)
    low = np.clip(np.floor(middle - reach), 0, sizes).astype(int)
    high = np.clip(np.ceil(middle + reach) + 1, low, sizes).astype(int)
    box = affine.copy()
    box[:3, 3] = moved(affine, low)
    return label[tuple(slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True))], box


def _points_near(mesh: SurfaceMesh | None, center: Floats, radius_mm: float) -> Floats:
    """The vertices of a surface within a ball."""
    if mesh is None:
        return np.empty((0, 3))
    points = mesh.vertices_mm.astype(np.float64)
    return points[np.linalg.norm(points - center, axis=1) <= radius_mm]


def _contact(label: Labels, affine: Floats, center: Floats, radius_mm: float, classes: tuple[int, int]) -> Point | None:
    """The middle of the face between voxels of both classes that is nearest to the centre, if there is one."""
    faces = [places for axis in range(3) for places in _faces_between(label, axis, classes)]
    places = moved(affine, np.concatenate(faces))
    distances = np.linalg.norm(places - center, axis=1)
    if not len(places) or distances.min() > radius_mm:
        return None
    return _point(places[distances.argmin()])


def _faces_between(label: Labels, axis: int, classes: tuple[int, int]) -> list[Floats]:
    """Middles of the faces across an axis, in voxels, that have one class on one side and the other on the other."""
    voxels = np.moveaxis(label, axis, 0)
    half = np.zeros(3)
    half[axis] = 0.5
    found = []
    for one, other in (classes, classes[::-1]):
        index = np.argwhere((voxels[:-1] == one) & (voxels[1:] == other))
        found.append(np.insert(index[:, 1:], axis, index[:, 0], axis=1) + half)
    return found
