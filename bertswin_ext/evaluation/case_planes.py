"""Three planes through a segmented volume: what a picture needs of it, without the volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bertswin_ext.errors import times

__all__ = ["MARGIN_MM", "CasePlanes", "Plane", "cut_planes", "largest_error", "most_anatomy"]

Labels = npt.NDArray[np.uint8]
Voxel = tuple[int, int, int]

_BLOCK_MM = 4.0

MARGIN_MM = 10.0
"""What pictures show around the labels of a volume that is much larger."""


@dataclass(frozen=True)
class Plane:
    """One plane, its axes in the order i, j, k of the volume without the one that is cut.

    Attributes:
        axis: which axis is cut.
        image_hu: HU, int16.
        prediction: label map.
        reference: label map, or None.
    """

    axis: int
    image_hu: npt.NDArray[np.int16]
    prediction: Labels
    reference: Labels | None


@dataclass(frozen=True)
class CasePlanes:
    """The planes of a case.

    Attributes:
        planes: one for each axis: sagittal, coronal, axial.
        focus_vox: the voxel in which they meet.
        spacing_mm: edges of a voxel along i, j, k.
        title: what is written above them.
    """

    planes: tuple[Plane, ...]
    focus_vox: Voxel
    spacing_mm: tuple[float, ...]
    title: str = ""


def cut_planes(
    image_hu: npt.NDArray[np.generic],
    prediction: Labels,
    reference: Labels | None,
    spacing_mm: Sequence[float],
    focus_vox: Voxel,
    title: str = "",
    margin_mm: float | None = None,
) -> CasePlanes:
    """Cut a sagittal, a coronal and an axial plane out of a volume, as copies.

    Args:
        image_hu: HU.
        prediction: label map.
        reference: label map, or None where there is none.
        spacing_mm: edges of a voxel along i, j, k.
        focus_vox: the voxel in which the planes meet.
        title: what is written above them.
        margin_mm: show no more than so much around the labels; None shows the whole volume.

    Shape:
        The volumes are (i, j, k), in RAS order.

    Raises:
        ValueError: the volumes are not (i, j, k) on one grid.

    Example:
        >>> volume = np.zeros((4, 5, 6), dtype=np.uint8)
        >>> [plane.image_hu.shape for plane in cut_planes(volume, volume, None, (1, 1, 1), (2, 2, 2)).planes]
        [(5, 6), (4, 6), (4, 5)]
    """
    for name, volume in (("prediction", prediction), ("reference", reference)):
        if volume is not None and (volume.shape != image_hu.shape or volume.ndim != 3):
            raise ValueError(
                f"The {name} must be (i, j, k) on the grid of the image, got {times(volume.shape)} voxels for an image "
                f"of {times(image_hu.shape)}."
            )
    if margin_mm is not None:
        box = _box_of_labels(prediction, reference, np.ceil(margin_mm / np.asarray(spacing_mm)))
        image_hu, prediction = image_hu[box], prediction[box]
        reference = None if reference is None else reference[box]
        inside = np.subtract(focus_vox, [part.start for part in box])
        focus_vox = _voxel(inside.clip(0, np.array(image_hu.shape) - 1))
    planes = []
    for axis, at in enumerate(focus_vox):
        hu = np.nan_to_num(image_hu.take(at, axis).astype(np.float32), nan=-32768.0)
        truth = None if reference is None else np.asarray(reference.take(at, axis))
        shown = np.rint(hu).clip(-32768, 32767).astype(np.int16)
        planes.append(Plane(axis, shown, np.asarray(prediction.take(at, axis)), truth))
    return CasePlanes(tuple(planes), focus_vox, tuple(float(mm) for mm in spacing_mm), title)


def _box_of_labels(
    prediction: Labels, reference: Labels | None, margin_vox: npt.NDArray[np.floating]
) -> tuple[slice, ...]:
    """The voxels of all labels with a margin; the whole volume if there are none."""
    found = prediction > 0 if reference is None else (prediction > 0) | (reference > 0)
    box = []
    for axis, margin in enumerate(margin_vox.astype(int).tolist()):
        places = np.flatnonzero(found.any(axis=tuple(other for other in range(3) if other != axis)))
        low, high = (places[0], places[-1] + 1) if len(places) else (0, found.shape[axis])
        box.append(slice(max(0, int(low) - margin), min(found.shape[axis], int(high) + margin)))
    return tuple(box)


def largest_error(prediction: Labels, reference: Labels, spacing_mm: Sequence[float]) -> Voxel:
    """The middle of the largest error: the wrong voxel nearest to the middle of the block that has most of them.

    The volume is cut into blocks of about 4 mm. A speck far from the anatomy does not hide what went wrong in it. Where
    nothing is wrong it is the voxel that shows most of the anatomy.

    Args:
        prediction: label map (i, j, k).
        reference: label map on the same grid.
        spacing_mm: edges of a voxel along i, j, k.

    Example:
        >>> reference = np.zeros((20, 20, 20), dtype=np.uint8)
        >>> prediction = reference.copy()
        >>> prediction[1, 1, 1], prediction[12:15, 12:15, 12:15] = 1, 1
        >>> largest_error(prediction, reference, (1.0, 1.0, 1.0))
        (13, 13, 13)
    """
    wrong = np.argwhere(prediction != reference)
    if not len(wrong):
        return most_anatomy(reference)
    block_vox = np.maximum(1, np.rint(_BLOCK_MM / np.asarray(spacing_mm))).astype(np.intp)
    _, owner, counts = np.unique(wrong // block_vox, axis=0, return_inverse=True, return_counts=True)
    members = wrong[owner.reshape(-1) == counts.argmax()]
    nearest = np.linalg.norm((members - members.mean(axis=0)) * spacing_mm, axis=1).argmin()
    return _voxel(members[nearest])


def most_anatomy(label: Labels) -> Voxel:
    """The voxel whose three planes show most of every class together; the middle of a volume without any.

    Args:
        label: label map (i, j, k).

    Example:
        >>> label = np.zeros((9, 9, 9), dtype=np.uint8)
        >>> label[2:5, 3, 3], label[4:8, 6, 3] = 1, 2
        >>> most_anatomy(label)[::2]
        (4, 3)
    """
    values = [value for value in np.unique(label) if value]
    if not values:
        return _voxel(np.array(label.shape) // 2)
    # a class that a plane lacks costs more than a larger cut of another one gains
    shown = [np.zeros(size) for size in label.shape]
    for value in values:
        for axis, beside in enumerate(((1, 2), (0, 2), (0, 1))):
            area = (label == value).sum(axis=beside)
            shown[axis] += np.sqrt(area / area.max())
    return _voxel(np.array([profile.argmax() for profile in shown]))


def _voxel(index: npt.NDArray[np.intp]) -> Voxel:
    """An index as Python's own numbers."""
    i, j, k = index.tolist()
    return i, j, k
