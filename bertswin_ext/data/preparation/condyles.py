"""Where the joints of a scan are, from a label map: the tops of the mandibular condyles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bertswin_ext.connected_parts import connected_parts
from bertswin_ext.data.datalist import JOINTS
from bertswin_ext.data.preparation.landmarks import JointCenter
from bertswin_ext.errors import VolumeError
from bertswin_ext.geometry import Floats, moved, spacing_of

__all__ = ["find_condyles"]

_STEP_MM = 0.8  # finer maps are sampled at about this distance
_BOTH_MM = 60.0  # a mandible wider than this is more than one ramus
_LEVEL_MM = 30.0  # one of two condyles lies this much behind or above the other at most: a turn of 17 degrees
_NOTCH_MM = 5.0  # the edge of the mandible falls by this between the condyle and the coronoid process
_HEAD_MM = 4.0  # this much of the head below its top is averaged
_ROUNDING_MM = 1e-3
_TOP_MM3 = 3.0  # the top is where the head has this volume: a lone voxel is no top
_PART_MM3 = 100.0  # smaller parts are specks ...
_PART_SHARE = 0.05  # ... as are parts below this share of the largest one ...
_APART_SHARE, _APART_MM = 0.2, 5.0  # ... or of this share, if they are further away than this

_REMEDY = "Give the joint's position as a landmark"

Labels = npt.NDArray[Any]


def find_condyles(
    label: Labels,
    affine: npt.ArrayLike,
    mandible: int | Sequence[int] = 1,
    joint: str | None = None,
    origin: str = "label map",
) -> list[JointCenter]:
    """Find the top of each mandibular condyle in a label map.

    The centre of a joint is the middle, left-right and back-front, of the uppermost 4 mm of the condyle's head, at the
    height of its top. All is measured in the world, so the axes of the map may have any order and direction, but the
    patient must be roughly upright in the world. The condyle is the rearmost peak of the mandible's upper edge: the
    coronoid process before it, beyond the mandibular notch, may be higher.

    A mandible wider than 60 mm with level peaks on either side shows both joints, else only the one further back.
    Specks are left out. Maps finer than 0.8 mm are sampled at about this distance.

    Args:
        label: integer label map.
        affine: voxel to RAS world in mm.
        mandible: the label of the mandible, or several that make it up.
        joint: ``"left"`` or ``"right"`` to find this joint alone; needed where the map shows one joint only.
        origin: the label map in words, for messages and the result.

    Shape:
        ``label`` is ``(i, j, k)``; ``affine`` is ``(4, 4)``.

    Returns:
        One or two centres, left before right.

    Raises:
        VolumeError: there is no mandible, its side is unknown, the joint asked for is not shown, or a condyle is cut
            off by the edge of the map.
        ValueError: an argument is wrong; the message names it.

    Example:
        >>> label = np.zeros((20, 20, 20), dtype=np.uint8)
        >>> label[6:13, 8:13, :15] = 1
        >>> find_condyles(label, np.eye(4), joint="left")[0].center_mm
        (9.0, 10.0, 14.0)
    """
    array, matrix = np.asarray(label), np.asarray(affine, dtype=np.float64)
    labels = _checked(array, matrix, mandible, joint)
    bone = _without_specks(_sampled(array, matrix, labels))
    if not len(bone.points):
        found = ", ".join(f"{value:g}" for value in sorted(set().union(*map(np.unique, array))))
        raise VolumeError(
            f"{origin}: it shows no mandible (label {', '.join(map(str, labels))}) of at least {_PART_MM3:g} mm3; the "
            f"labels found are {found}. Say which label is the mandible, or give the joint as a landmark."
        )
    heads = _heads(bone, joint, origin)
    border = _border(array, matrix, labels)
    for side, head in heads.items():
        _check_whole(head, border, bone.step_mm, side, origin)
    return [JointCenter(side, _center(heads[side], bone.voxel_mm3), origin) for side in JOINTS if side in heads]


@dataclass(frozen=True)
class _Bone:
    """Voxels of bone.

    Args:
        points: their positions in the world, ``(n, 3)``.
        parts: number of the connected part to which each belongs, ``(n,)``.
        voxel_mm3: volume that each stands for.
        step_mm: largest distance to the next one along an axis.
    """

    points: Floats
    parts: Labels
    voxel_mm3: float
    step_mm: float

    def at(self, where: Labels) -> _Bone:
        """Take some of the voxels."""
        return replace(self, points=self.points[where], parts=self.parts[where])

    def with_parts(self, numbers: Labels) -> _Bone:
        """Take the voxels of some of the parts."""
        return self.at(np.isin(self.parts, numbers))


# --- from the map ---


def _checked(array: Labels, affine: Floats, mandible: int | Sequence[int], joint: str | None) -> tuple[int, ...]:
    """Check the arguments; return the labels of the mandible."""
    labels = (mandible,) if isinstance(mandible, int) else tuple(mandible)
    if array.ndim != 3 or not array.size:
        raise ValueError(f"`label` must be one volume (i, j, k), got shape {array.shape}.")
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or np.linalg.det(affine[:3, :3]) == 0:
        raise ValueError(f"`affine` must map voxels to mm, (4, 4), got {affine.tolist()}.")
    if not labels:
        raise ValueError("`mandible` must name at least one label, got none. Use 1, say.")
    if joint not in (None, *JOINTS):
        raise ValueError(f'`joint` must be "left", "right" or None, got {joint!r}.')
    return labels


def _sampled(array: Labels, affine: Floats, labels: tuple[int, ...]) -> _Bone:
    """Take the mandible's voxels, not much finer than needed."""
    strides = np.maximum(1, np.floor(_STEP_MM / spacing_of(affine) + 1e-6)).astype(int)
    mask = _is_mandible(array[:: strides[0], :: strides[1], :: strides[2]], labels)
    scaled = affine @ np.diag([*strides, 1.0])
    low, box = _box(mask)
    points = moved(scaled, np.argwhere(mask[box]) + low)
    volume = abs(float(np.linalg.det(scaled[:3, :3])))
    return _Bone(points, connected_parts(mask[box]), volume, float(spacing_of(scaled).max()))


def _is_mandible(array: Labels, labels: tuple[int, ...]) -> Labels:
    """Mark the mandible; much faster than ``np.isin`` for a few labels."""
    return np.logical_or.reduce([array == value for value in labels])


def _box(mask: Labels) -> tuple[Labels, tuple[slice, ...]]:
    """Find the first index and the slices of the smallest box around a mask."""
    hit = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    ends = [(int(h[0]), int(h[-1]) + 1) if len(h) else (0, 0) for h in hit]
    return np.array([low for low, _ in ends]), tuple(slice(low, high) for low, high in ends)


def _border(array: Labels, affine: Floats, labels: tuple[int, ...]) -> Floats:
    """Find where the mandible touches the edge of the map, in the world, (n, 3)."""
    faces = []
    for axis, size in enumerate(array.shape):
        for index in (0, size - 1):
            hits = np.argwhere(_is_mandible(array.take(index, axis), labels))
            faces.append(moved(affine, np.insert(hits, axis, index, axis=1)))
    return np.concatenate(faces)


# --- parts ---


def _without_specks(bone: _Bone) -> _Bone:
    """Leave out parts that are small, or small against the largest one."""
    numbers, volumes = _volumes(bone)
    return bone.with_parts(numbers[volumes >= max(_PART_MM3, _PART_SHARE * volumes.max(initial=0.0))])


def _near_largest(bone: _Bone) -> _Bone:
    """Leave out parts that are not large and apart from the largest one, such as another bone with its label."""
    numbers, volumes = _volumes(bone)
    largest = bone.with_parts(numbers[volumes == volumes.max(initial=0.0)]).points
    near = [_gap(bone.with_parts(number).points, largest) <= _APART_MM for number in numbers]
    return bone.with_parts(numbers[near | (volumes >= _APART_SHARE * volumes.max(initial=0.0))])


def _volumes(bone: _Bone) -> tuple[Labels, Floats]:
    """Numbers of the parts and their volumes in mm3."""
    numbers, counts = np.unique(bone.parts, return_counts=True)
    return numbers, np.asarray(counts * bone.voxel_mm3, dtype=np.float64)


def _gap(points: Floats, others: Floats) -> float:
    """Distance between the boxes around two parts."""
    apart = np.maximum(points.min(axis=0) - others.max(axis=0), others.min(axis=0) - points.max(axis=0))
    return float(np.linalg.norm(np.maximum(apart, 0.0)))


# --- condyles ---


def _heads(bone: _Bone, joint: str | None, origin: str) -> dict[str, Floats]:
    """Find the head of each condyle that is asked for."""
    shown = _by_side(bone)
    if not shown and joint is None:
        raise VolumeError(
            f"{origin}: it shows one condyle, of a side that is unknown. Say which with `joint`, "
            '"left" or "right" (the patient\'s).'
        )
    if not shown:
        return {str(joint): _head(bone)}
    if joint not in (None, *shown):
        raise VolumeError(
            f"{origin}: it shows no {joint} condyle, only the {next(iter(shown))} one. {_REMEDY}, or correct the side."
        )
    return {side: head for side, head in shown.items() if joint in (None, side)}


def _by_side(bone: _Bone) -> dict[str, Floats]:
    """Find the heads of a mandible wide enough to tell left from right; none of one that is not."""
    x = bone.points[:, 0]
    middle, extent = (x.min() + x.max()) / 2, float(np.ptp(x))
    if extent <= _BOTH_MM:
        return {}
    heads = {"left": _head(bone.at(x < middle)), "right": _head(bone.at(x >= middle))}
    heads = {side: head for side, head in heads.items() if len(head)}
    if len(heads) == 2 and not _are_level(heads["left"], heads["right"], extent):
        # one half is the body alone, which lies before the rami
        rear = min(heads, key=lambda side: float(heads[side][:, 1].mean()))
        return {rear: heads[rear]}
    return heads


def _are_level(left: Floats, right: Floats, extent: float) -> bool:
    """Tell whether two heads can be the two of one mandible: far apart, one beside the other."""
    apart, depth, height = np.abs(right.mean(axis=0) - left.mean(axis=0))
    return bool(apart > extent / 2 and np.hypot(depth, height) < _LEVEL_MM)


def _head(bone: _Bone) -> Floats:
    """Find the uppermost part of the condyle's head, (n, 3); empty where there is no bone."""
    bone = _near_largest(_without_specks(bone))
    if not len(bone.points):
        return bone.points
    behind = bone.points[bone.points[:, 1] < _notch(bone)]
    return behind[behind[:, 2] >= _top(behind, bone.voxel_mm3) - _HEAD_MM - _ROUNDING_MM]


def _notch(bone: _Bone) -> float:
    """Follow the mandible's upper edge from the back over the first peak: where it has fallen from it clearly."""
    y, z = bone.points[:, 1], bone.points[:, 2]
    width = max(1.0, bone.step_mm)
    rows = ((y - y.min() + _ROUNDING_MM) / width).astype(int)
    edge = np.full(rows.max() + 1, -np.inf)
    np.maximum.at(edge, rows, z)
    fallen = np.isfinite(edge) & (edge < np.maximum.accumulate(edge) - _NOTCH_MM)
    return float(y.min() - _ROUNDING_MM + width * fallen.argmax()) if fallen.any() else np.inf


def _top(points: Floats, voxel_mm3: float) -> float:
    """Height at which bone begins, from above."""
    lone = min(int(_TOP_MM3 / voxel_mm3), len(points) - 1)
    return float(np.partition(points[:, 2], -1 - lone)[-1 - lone])


def _center(head: Floats, voxel_mm3: float) -> tuple[float, float, float]:
    """Take the middle of the head at the height of its top."""
    x, y, _ = head.mean(axis=0)
    return float(x), float(y), _top(head, voxel_mm3)


def _check_whole(head: Floats, border: Floats, step_mm: float, side: str, origin: str) -> None:
    """Refuse a condyle that reaches the edge of the map: its top may lie beyond."""
    near = (border > head.min(axis=0) - step_mm) & (border < head.max(axis=0) + step_mm)
    if near.all(axis=1).any():
        raise VolumeError(
            f"{origin}: the {side} condyle is cut off by the edge of the label map. {_REMEDY}, or leave this joint out."
        )
