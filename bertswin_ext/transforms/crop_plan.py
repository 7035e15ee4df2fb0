"""Where a crop lies in a volume: drawn in numbers first, cut and resampled later, perhaps in another process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bertswin_ext.errors import times
from bertswin_ext.geometry import FieldOfView, Floats, moved, spacing_of

__all__ = ["CropPlan", "bounds", "center_range", "crop_axes", "feasible_center", "plan_crop"]

Size = tuple[int, int, int]

_ROUNDING_VOX = 1e-6  # so much is noise: a crop on the voxel grid needs no voxel more than it has
_FITTING_ROUNDS = 8


@dataclass(frozen=True, eq=False)
class CropPlan:
    """Where the voxels of a crop lie in the volume that it is cut from.

    Of that volume only the voxels of `box` are needed; they are what is read, and what is resampled. The plan knows
    the whole volume all the same: what lies outside it, and how large the inverse is.

    Attributes:
        matrix: index in the crop -> index in the whole volume, (4, 4).
        size: voxels of the crop.
        shape: voxels of the volume.
        affine: index in the volume -> RAS world in mm, (4, 4).
        file: where the volume came from, for messages.

    Example:
        >>> plan = plan_crop((9, 9, 9), np.eye(4), (3, 3, 3), (4.0, 4.0, 7.5), mirror=True)
        >>> plan.box, plan.crop_affine[:3, 3].tolist()
        (((3, 3, 6), (6, 6, 9)), [5.0, 3.0, 6.5])
    """

    matrix: Floats
    size: Size
    shape: Size
    affine: Floats
    file: str | None = None

    @property
    def name(self) -> str:
        """The volume in a message."""
        return self.file or "the volume"

    @property
    def crop_affine(self) -> Floats:
        """Index in the crop -> RAS world in mm."""
        return np.asarray(self.affine @ self.matrix)

    @property
    def box(self) -> tuple[Size, Size]:
        """First voxel, and the one after the last, of the part of the volume that the crop is interpolated from.

        Raises:
            ValueError: the crop lies wholly outside the volume.
        """
        low, high = bounds(self.matrix, self.size)
        last = np.array(self.shape) - 1
        if (high < -0.5).any() or (low > last + 0.5).any():
            raise ValueError(
                f"{self.name}: the crop from ({_listed(low)}) to ({_listed(high)}) lies wholly outside the volume of "
                f"{times(self.shape)} voxels. Check the position it was centred at against the volume's affine."
            )
        start = np.clip(np.floor(low + _ROUNDING_VOX), 0, last)
        stop = np.clip(np.ceil(high - _ROUNDING_VOX), 0, last) + 1
        return _triple(start), _triple(stop)

    @property
    def box_matrix(self) -> Floats:
        """Index in the crop -> index in the box."""
        matrix = self.matrix.copy()
        matrix[:3, 3] -= self.box[0]
        return matrix

    @property
    def box_affine(self) -> Floats:
        """Index in the box -> RAS world in mm."""
        affine = self.affine.copy()
        affine[:3, 3] = moved(self.affine, self.box[0])
        return affine


def plan_crop(
    shape: Sequence[int],
    affine: npt.ArrayLike,
    size: Sequence[int],
    center_vox: npt.ArrayLike,
    rotation_deg: npt.ArrayLike = (0.0, 0.0, 0.0),
    scale: float = 1.0,
    mirror: bool = False,
    file: str | None = None,
) -> CropPlan:
    """Plan a crop around a point of a volume, see `crop_axes`.

    Args:
        shape: voxels of the volume.
        affine: index in the volume -> RAS world in mm, (4, 4).
        size: voxels of the crop.
        center_vox: index in the volume of the crop's middle.
        rotation_deg: turns about the volume's i, then j, then k axis.
        scale: above 1 enlarges the anatomy.
        mirror: flip the crop left-right.
        file: where the volume came from, for messages.

    Example:
        >>> plan = plan_crop((9, 9, 9), np.eye(4), (4, 4, 4), (4.0, 4.0, 4.0), scale=2.0)
        >>> moved(plan.matrix, [[0, 0, 0], [3, 3, 3]]).tolist()
        [[3.25, 3.25, 3.25], [4.75, 4.75, 4.75]]
    """
    whole = np.asarray(affine, dtype=np.float64)
    axes = crop_axes(spacing_of(whole), rotation_deg, scale, mirror)
    matrix = np.eye(4)
    matrix[:3, :3] = axes
    matrix[:3, 3] = np.asarray(center_vox, dtype=np.float64) - axes @ (np.array(_triple(size)) - 1) / 2
    return CropPlan(matrix, _triple(size), _triple(shape), whole, file)


def crop_axes(
    spacing_mm: Floats, rotation_deg: npt.ArrayLike = (0.0, 0.0, 0.0), scale: float = 1.0, mirror: bool = False
) -> Floats:
    """Steps in the volume, in its voxels, that a step along each axis of the crop makes: the columns of (3, 3).

    The crop has the volume's spacing divided by ``scale``. It is turned in mm, so the anatomy keeps its shape where
    voxels are not cubes. Mirroring comes first: the mirrored crop is the plain one with its i axis reversed.

    Example:
        >>> crop_axes(np.array([1.0, 2.0, 1.0]), (0.0, 0.0, 90.0)).round(6).tolist()
        [[0.0, -2.0, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    flip = np.array([-1.0 if mirror else 1.0, 1.0, 1.0])
    return np.asarray(_rotation(rotation_deg) * spacing_mm / spacing_mm[:, None] * flip / scale)


def bounds(matrix: Floats, size: Sequence[int]) -> tuple[Floats, Floats]:
    """Lowest and highest index along each axis that the voxels of a grid of this size are moved to.

    Example:
        >>> [ends.tolist() for ends in bounds(np.diag([-1.0, 1.0, 2.0, 1.0]), (4, 4, 4))]
        [[-3.0, 0.0, 0.0], [0.0, 3.0, 6.0]]
    """
    steps = matrix[:3, :3] * (np.array(size) - 1)
    return matrix[:3, 3] + np.minimum(steps, 0).sum(axis=1), matrix[:3, 3] + np.maximum(steps, 0).sum(axis=1)


def center_range(shape: Sequence[int], size: Sequence[int], scale: float = 1.0) -> tuple[Floats, Floats]:
    """Lowest and highest index of a crop's middle at which the crop, not turned, lies within the volume.

    Both are the volume's middle along an axis on which the crop does not fit.

    Example:
        >>> [ends.tolist() for ends in center_range((8, 8, 3), (4, 8, 4))]
        [[1.5, 3.5, 1.0], [5.5, 3.5, 1.0]]
    """
    middle = (np.array(shape) - 1) / 2
    room = np.maximum((np.array(shape) - np.array(size) / scale) / 2, 0.0)
    return middle - room, middle + room


def feasible_center(
    center_vox: npt.ArrayLike,
    shape: Sequence[int],
    affine: npt.ArrayLike,
    size: Sequence[int],
    scale: float = 1.0,
    fov: FieldOfView | None = None,
) -> Floats:
    """The point near ``center_vox`` at which a crop lies within the volume and its middle within the field of view.

    Where the two exclude each other the volume wins.

    Args:
        center_vox: index in the volume where the crop's middle should be.
        shape: voxels of the volume.
        affine: index in the volume -> RAS world in mm, (4, 4).
        size: voxels of the crop.
        scale: of the crop, see `plan_crop`; that it may be turned is not taken into account.
        fov: the scanner's field of view, None where it is not known.

    Source: arXiv 2512.21769, section 4, which does not say how; here the point is moved to the nearest one of either,
        in turns.

    Example:
        >>> feasible_center((1.0, 9.0, 5.0), (12, 12, 12), np.eye(4), (6, 6, 6)).tolist()
        [2.5, 8.5, 5.0]
    """
    low, high = center_range(shape, size, scale)
    center = np.clip(np.asarray(center_vox, dtype=np.float64), low, high)
    for _ in range(_FITTING_ROUNDS if fov is not None else 0):
        center = np.clip(_into(fov, center, np.asarray(affine, dtype=np.float64)), low, high)
    return np.asarray(center)


def _into(fov: FieldOfView | None, center_vox: Floats, affine: Floats) -> Floats:
    """A point, pulled straight to the axis until it lies in the field of view."""
    point = moved(affine, center_vox)
    if fov is None or fov.contains(point):
        return center_vox
    outward = fov.across().T @ (fov.across() @ (point - np.array(fov.center_mm)))
    excess = 1 - fov.radius_mm / np.linalg.norm(outward)
    return moved(np.linalg.inv(affine), point - excess * outward)


def _rotation(angles_deg: npt.ArrayLike) -> Floats:
    """Turn about i, then j, then k."""
    (ci, cj, ck), (si, sj, sk) = np.cos(np.deg2rad(angles_deg)), np.sin(np.deg2rad(angles_deg))
    about_i = np.array([[1, 0, 0], [0, ci, -si], [0, si, ci]])
    about_j = np.array([[cj, 0, sj], [0, 1, 0], [-sj, 0, cj]])
    about_k = np.array([[ck, -sk, 0], [sk, ck, 0], [0, 0, 1]])
    return np.asarray(about_k @ about_j @ about_i)


def _triple(values: npt.ArrayLike) -> Size:
    """Three whole numbers."""
    i, j, k = np.asarray(values).tolist()
    return int(i), int(j), int(k)


def _listed(indices: Floats) -> str:
    """Indices with a decimal."""
    return ", ".join(format(index, ".1f") for index in indices)
