"""Boxes of a scan in the network's voxels: turned to RAS axes and resampled along each axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from bertswin_ext.errors import VolumeError
from bertswin_ext.geometry import Floats, moved, spacing_of

__all__ = ["Box", "OrientedScan", "WorkingGrid", "orient"]

Array = npt.NDArray[Any]
Box = tuple[tuple[int, int, int], tuple[int, int, int]]

_SQUARE_TOLERANCE_DEG = 0.1
_SAME_POSITION_VOX = 1e-3


@dataclass(frozen=True)
class OrientedScan:
    """A scan whose axes run, as closely as its grid allows, to the right, to the front and up.

    Attributes:
        voxels: (i, j, k), a view of what was read.
        affine: voxel to RAS world in mm, (4, 4).
    """

    voxels: Array
    affine: Floats


def orient(voxels: Array, affine: Floats, name: str) -> OrientedScan:
    """Flip and swap the axes of a scan; no voxel is copied.

    Args:
        voxels: (i, j, k) in any orientation.
        affine: voxel to RAS world in mm.
        name: the file, for the message.

    Raises:
        VolumeError: the axes of the grid are not perpendicular.
    """
    directions = affine[:3, :3] / spacing_of(affine)
    off = float(np.degrees(np.arcsin(np.abs(directions.T @ directions - np.eye(3)).max().clip(max=1.0))))
    if off > _SQUARE_TOLERANCE_DEG:
        raise VolumeError(
            f"{name}: the axes of the grid are {off:.1f} degrees away from perpendicular (a tilted gantry, converted "
            "without correction). Give the DICOM series instead, or resample the volume onto an upright grid."
        )
    orientation = nib.orientations.io_orientation(affine)
    turned = affine @ nib.orientations.inv_ornt_aff(orientation, voxels.shape)
    return OrientedScan(nib.orientations.apply_orientation(voxels, orientation), np.asarray(turned))


@dataclass(frozen=True)
class WorkingGrid:
    """The voxels that a scan is stored in: its own axes and its own first voxel, another spacing.

    A scan that has the spacing already is cut, not interpolated. A coarser grid averages over its voxels (a tent of
    their width), so that fine structures and noise do not alias.

    Args:
        shape: voxels of the oriented scan.
        own: its voxels to the RAS world in mm, (4, 4).
        spacing_mm: edge of a working voxel, isotropic.
    """

    shape: tuple[int, int, int]
    own: Floats
    spacing_mm: float

    @property
    def steps(self) -> Floats:
        """Voxels of the scan per working voxel, along each axis."""
        return np.asarray(self.spacing_mm / spacing_of(self.own))

    @property
    def size(self) -> tuple[int, int, int]:
        """Working voxels along each axis, all within the scan."""
        i, j, k = (
            int(np.floor((n - 1) / step + _SAME_POSITION_VOX)) + 1
            for n, step in zip(self.shape, self.steps, strict=True)
        )
        return i, j, k

    def affine(self, start: Sequence[int] = (0, 0, 0)) -> Floats:
        """Working voxel to RAS world in mm, of the box that begins at ``start``."""
        affine = self.own @ np.diag([*self.steps, 1.0])
        affine[:3, 3] += affine[:3, :3] @ np.asarray(start, dtype=np.float64)
        return np.asarray(affine)

    def index_of(self, point_mm: Sequence[float]) -> Floats:
        """Where a point of the world lies in the grid, in working voxels."""
        return moved(np.linalg.inv(self.affine()), point_mm)

    def box_around(self, point_mm: Sequence[float], size: int) -> Box:
        """The cube of ``size`` voxels around a point, cut off where the scan ends."""
        first = np.rint(self.index_of(point_mm)).astype(int) - size // 2
        start, stop = np.maximum(first, 0), np.minimum(first + size, self.size)
        return tuple(start.tolist()), tuple(stop.tolist())

    def values(self, voxels: Array, box: Box) -> npt.NDArray[np.float32]:
        """Interpolate the voxels of the oriented scan linearly in a box: float32 (i, j, k)."""
        out = voxels
        # the axis that shrinks most goes first
        spans = [(stop - start) / n for start, stop, n in zip(*box, self.shape, strict=True)]
        for axis in np.argsort(spans):
            out = _along(out, int(axis), self.steps[axis] * np.arange(box[0][axis], box[1][axis]), self.steps[axis])
        return np.asarray(out, dtype=np.float32)

    def labels(self, voxels: Array, box: Box) -> Array:
        """The nearest voxels of the oriented label map in a box, type unchanged."""
        rows = [
            np.rint(step * np.arange(start, stop)).astype(int).clip(max=n - 1)
            for step, start, stop, n in zip(self.steps, *box, self.shape, strict=True)
        ]
        return np.asarray(voxels[np.ix_(*rows)])


def _along(voxels: Array, axis: int, positions: Floats, step: float) -> Array:
    """Sample one axis at fractional positions, with a tent of the step's width or of one voxel."""
    nearest = np.rint(positions).astype(int)
    if step <= 1.0 + _SAME_POSITION_VOX and np.abs(positions - nearest).max() < _SAME_POSITION_VOX:
        return voxels.take(nearest, axis)
    width, n = max(1.0, step), voxels.shape[axis]
    first = np.floor(positions - width).astype(int) + 1
    taps = [first + tap for tap in range(int(np.ceil(2 * width)))]
    weights = [np.clip(1.0 - np.abs(positions - tap) / width, 0.0, None) * ((tap >= 0) & (tap < n)) for tap in taps]
    total = np.sum(weights, axis=0)
    form = [1, 1, 1]
    form[axis] = len(positions)
    out = np.zeros([*voxels.shape[:axis], len(positions), *voxels.shape[axis + 1 :]], dtype=np.float32)
    for tap, weight in zip(taps, weights, strict=True):
        if weight.any():
            part = voxels.take(tap.clip(0, n - 1), axis).astype(np.float32)
            part *= (weight / total).astype(np.float32).reshape(form)
            out += part
    return out
