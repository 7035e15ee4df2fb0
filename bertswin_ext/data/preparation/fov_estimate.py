"""The scanner's field of view from the voxels alone: a cylinder with a constant around it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from bertswin_ext.data.preparation.fov_circle import depths_mm, fit_circle, separate
from bertswin_ext.geometry import FieldOfView, Floats, moved, spacing_of

__all__ = ["estimate_field_of_view", "fill_value"]

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

_MOST_VOXELS = (512, 512, 64)  # looked at along i, j, k
_MOST_PAIRS = 200_000
_FILL_SHARE = 0.2  # of one vertical edge of the volume
_SEEN_SHARE = 0.02  # of the voxels over a cell
_AGREEMENT = 0.99
_OUTSIDE_SHARE = 0.01
_WALL_CELLS = (0.5, 1.5)  # inside the circle
_DEEPER_CELLS = (4.0, 6.0)
_WALL_SHARE = 0.3
_STEEPNESS = 0.8


def estimate_field_of_view(volume: Array, affine: npt.ArrayLike) -> FieldOfView | None:
    """Find the cylinder outside of which a volume holds one constant.

    Many scanners fill what they did not see with a constant: the most common value of a vertical edge of the volume.
    The volume is projected along its axis: a cell of the plane across the axis is seen if 2 % of the voxels over it
    differ from the constant. A circle is fitted to the outline of the seen cells. It is the field of view if

    - seen and unseen agree with it on 99 % of the cells, those beside it apart, and 1 % are unseen;
    - 90 % of the outline lies within a cell of it, on an arc that is bent by three cells at least;
    - just inside it at least 30 % of the voxels differ from the constant, and about as many as a few cells deeper. The
      wall of a cylinder is upright, while a head in air that was clipped to a constant reaches its outline in a few
      slices only.

    The axis is the volume's own vertical; in an oblique grid also the world's, and the sharper wall wins. What passes
    for a field of view by chance, an upright pillar in clipped air for example, does no harm: nothing but a constant
    lies outside.

    The wall is right to a voxel where it lies in the volume. The less of it does, the less certain is the rest of the
    circle: on an arc that is bent by six cells, the radius is right to some hundredths of it.

    Args:
        volume: (i, j, k) as stored, integers or floats, axes in any order.
        affine: voxel to RAS world in mm, (4, 4).

    Returns:
        The field of view, or None if none shows: there is no constant outside, it has another form, or too little of
        the cylinder's rim lies in the volume.

    Raises:
        ValueError: the volume has other than three axes.

    Source: our own; arXiv 2512.21769 gives the form of the field of view (section 4), not how to find it.

    Example:
        >>> i, j, _ = np.indices((40, 40, 8))
        >>> scan = np.where(np.hypot(i - 20, j - 18) < 15, 40, -1000)
        >>> fov = estimate_field_of_view(scan, np.eye(4))
        >>> np.round(fov.center_mm).tolist(), round(fov.radius_mm)
        ([20.0, 18.0, 4.0], 15)
    """
    if volume.ndim != 3:
        raise ValueError(f"The volume must be (i, j, k), got {volume.shape}.")
    sample, sampled_affine = _upright(volume, np.asarray(affine, dtype=np.float64))
    found = [
        cylinder
        for fill in _fill_candidates(sample)
        for plane in _planes(sample != fill, sampled_affine)
        if (cylinder := _cylinder(plane)) is not None
    ]
    return max(found, key=lambda pair: pair[0])[1] if found else None


def fill_value(volume: Array, affine: npt.ArrayLike, fov: FieldOfView) -> float | None:
    """The value of most voxels outside a field of view, or None if the whole volume lies inside.

    Example:
        >>> scan = np.where(np.indices((40, 40, 8))[0] < 30, 40, -1000)
        >>> fill_value(scan, np.eye(4), FieldOfView((0.0, 20.0, 0.0), 35.0))
        -1000.0
    """
    sample, sampled_affine = _upright(volume, np.asarray(affine, dtype=np.float64), (128, 128, 64))
    indices = np.stack(np.meshgrid(*[np.arange(n) for n in sample.shape], indexing="ij"), axis=-1)
    outside = sample[~fov.contains(moved(sampled_affine, indices))]
    return _most_common(outside)[0] if outside.size else None


# --- the volume and what is constant in it ---


def _upright(volume: Array, affine: Floats, most: tuple[int, int, int] = _MOST_VOXELS) -> tuple[Array, Floats]:
    """A view of the volume with axes closest to RAS, with every n-th voxel if it is large."""
    orientation = nib.orientations.io_orientation(affine)
    upright = nib.orientations.apply_orientation(volume, orientation)
    upright_affine = affine @ nib.orientations.inv_ornt_aff(orientation, volume.shape)
    steps = [-(-n // limit) for n, limit in zip(upright.shape, most, strict=True)]
    return upright[:: steps[0], :: steps[1], :: steps[2]], upright_affine @ np.diag([*steps, 1])


def _fill_candidates(volume: Array) -> list[float]:
    """The most common value of each vertical edge, if it is common."""
    edges = [_most_common(volume[i, j]) for i in (0, -1) for j in (0, -1)]
    return list({value: share for value, share in edges if share >= _FILL_SHARE})


def _most_common(values: Array) -> tuple[float, float]:
    """A value and its share."""
    found, counts = np.unique(values, return_counts=True)
    return float(found[counts.argmax()]), float(counts.max() / values.size)


# --- projection ---


@dataclass(frozen=True)
class _Plane:
    """The volume projected along an axis.

    Attributes:
        axis: unit vector.
        share: of the voxels over a cell, how many differ from the fill, (p, q).
        is_covered: cells over which there are voxels at all, (p, q).
        to_mm: index of a cell to position along the two directions across the axis, (2, 3).
        square_mm: edge of the squares over which voxels were gathered; 0 where a cell is a column of voxels.
        pairs_mm: where neighbours lie of which the first differs from the fill and the second does not, (n, 2, 2).
        height_mm: of the volume's centre along the axis.
    """

    axis: Floats
    share: Floats
    is_covered: Mask
    to_mm: Floats
    square_mm: float
    pairs_mm: Floats
    height_mm: float

    @property
    def cell_mm(self) -> float:
        """The longer edge of a cell."""
        return float(np.linalg.norm(self.to_mm[:, :2], axis=0).max())


def _is_seen(share: Floats) -> Mask:
    """Cells over which enough voxels differ from the fill, and what lies between such cells along both axes.

    Air inside the field of view may have been clipped to the same constant.
    """
    seen = share > _SEEN_SHARE
    within = np.ones_like(seen)
    for axis in (0, 1):
        within &= np.maximum.accumulate(seen, axis)
        within &= np.flip(np.maximum.accumulate(np.flip(seen, axis), axis), axis)
    return within


def _planes(differs: Mask, affine: Floats) -> Iterator[_Plane]:
    """Projections along the volume's vertical and, if that leans by more than a voxel, along the world's."""
    own, upright = affine[:3, 2] / np.linalg.norm(affine[:3, 2]), np.array([0.0, 0.0, 1.0])
    yield _projected_along_columns(differs, affine, own)
    lean_mm = np.linalg.norm(np.cross(own, upright)) * spacing_of(affine)[2] * differs.shape[2]
    if lean_mm > spacing_of(affine)[:2].min():
        yield _projected(differs, affine, upright)


def _projected_along_columns(differs: Mask, affine: Floats, axis: Floats) -> _Plane:
    """A cell is a column of voxels."""
    share = differs.mean(axis=2)
    is_covered = np.ones(share.shape, dtype=bool)
    to_mm = _across(axis) @ affine[:3, [0, 1, 3]]
    pairs_mm = _positions(to_mm, _neighbours(_is_seen(share), is_covered))
    return _Plane(axis, share, is_covered, to_mm, 0.0, pairs_mm, _height_mm(differs.shape, affine, axis))


def _projected(differs: Mask, affine: Floats, axis: Floats) -> _Plane:
    """A cell is a square across the axis; the voxels over it are counted."""
    to_mm, cell_mm = _across(axis) @ affine[:3], float(spacing_of(affine)[:2].max())
    p, q = _squares(differs.shape, to_mm / cell_mm)
    size = int(p.max()) + 1, int(q.max()) + 1
    cells = (p * size[1] + q).ravel()
    counts, seen = (np.bincount(c, minlength=size[0] * size[1]).reshape(size) for c in (cells, cells[differs.ravel()]))
    corners = _positions(to_mm, np.indices((2, 2, 2)).reshape(3, -1).T * (np.array(differs.shape) - 1))
    to_square_mm = np.column_stack([np.eye(2) * cell_mm, corners.min(axis=0) + 0.5 * cell_mm])
    pairs_mm = _positions(to_mm, _neighbours(differs, np.ones(differs.shape, dtype=bool)))
    height_mm = _height_mm(differs.shape, affine, axis)
    return _Plane(axis, seen / np.maximum(counts, 1), counts > 0, to_square_mm, cell_mm, pairs_mm, height_mm)


def _squares(shape: tuple[int, ...], to_squares: Floats) -> list[Ints]:
    """Index of the square over which every voxel lies, along both directions; the first is 0."""
    found = []
    for row in to_squares.astype(np.float32):
        i, j, k = (step * np.arange(n, dtype=np.float32) for step, n in zip(row, shape, strict=False))
        found.append((i[:, None, None] + j[:, None] + (k - i.min() - j.min() - k.min())).astype(np.int32))
    return found


def _neighbours(seen: Mask, covered: Mask) -> Ints:
    """Indices of neighbours along the first two axes of which the first is seen and the second is not, (n, 2, axes)."""
    found = []
    for axis in (0, 1):
        a, b = np.swapaxes(seen, 0, axis), np.swapaxes(covered, 0, axis)
        first = np.argwhere((a[1:] != a[:-1]) & b[1:] & b[:-1])
        first = first[:: len(first) // _MOST_PAIRS + 1]
        pairs = np.stack([first, first + np.eye(seen.ndim, dtype=int)[0]], axis=1)
        is_backward = ~a[tuple(first.T)]
        pairs[is_backward] = pairs[is_backward, ::-1]
        pairs[..., [0, axis]] = pairs[..., [axis, 0]]
        found.append(pairs)
    return np.concatenate(found)


def _across(axis: Floats) -> Floats:
    """The two directions across an axis."""
    return FieldOfView((0.0, 0.0, 0.0), 1.0, tuple(axis)).across()


def _positions(to_mm: Floats, indices: npt.ArrayLike) -> Floats:
    """Positions across the axis of cells or voxels (..., axes)."""
    return np.asarray(np.asarray(indices) @ to_mm[:, :-1].T + to_mm[:, -1])


def _height_mm(shape: tuple[int, ...], affine: Floats, axis: Floats) -> float:
    """Of the volume's centre along an axis."""
    return float(moved(affine, (np.array(shape) - 1) / 2) @ axis)


# --- the cylinder ---


def _cylinder(plane: _Plane) -> tuple[float, FieldOfView] | None:
    """How many voxels differ from the fill at the wall of a cylinder, and the cylinder; None if there is none."""
    is_seen, covered = _is_seen(plane.share), plane.is_covered
    if np.mean(~is_seen[covered]) < _OUTSIDE_SHARE:
        return None
    middles = _positions(plane.to_mm, _neighbours(is_seen, covered).mean(axis=1))
    circle = fit_circle(middles, plane.cell_mm, plane.square_mm)
    if circle is None:
        return None
    circle = separate(plane.pairs_mm, circle, plane.cell_mm)
    cells_mm = _positions(plane.to_mm, np.argwhere(covered))
    wall, deeper = (_share_between(plane, cells_mm, circle, band) for band in (_WALL_CELLS, _DEEPER_CELLS))
    depths = depths_mm(cells_mm, circle, plane.square_mm)
    # cells that the circle runs through may be either
    agrees = ((depths > 0) == is_seen[covered]) | (abs(depths) < plane.cell_mm)
    if np.mean(agrees) < _AGREEMENT or wall < max(_WALL_SHARE, _STEEPNESS * deeper):
        return None
    center = circle[:2] @ _across(plane.axis) + plane.height_mm * plane.axis
    return wall, FieldOfView(tuple(center.tolist()), float(circle[2]), tuple(plane.axis.tolist()))


def _share_between(plane: _Plane, cells_mm: Floats, circle: Floats, band_cells: tuple[float, float]) -> float:
    """Of the voxels over the cells in a ring inside the circle, how many differ from the fill; 0 without cells."""
    depths = depths_mm(cells_mm, circle) / plane.cell_mm
    shares = plane.share[plane.is_covered][(depths > band_cells[0]) & (depths < band_cells[1])]
    return float(shares.sum() / max(1, shares.size))
