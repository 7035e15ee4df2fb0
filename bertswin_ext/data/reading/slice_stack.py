"""Parallel slices in space: are they one regular grid, and if not, their values on one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bertswin_ext.voxels import AIR_HU

Floats = npt.NDArray[np.float64]
Values = npt.NDArray[np.float32]

DUPLICATE_MM = 0.01
"""Two slices closer than this are at the same position."""

_POSITION_TOLERANCE = 0.01  # of the slice spacing ...
_POSITION_TOLERANCE_MM = 0.01  # ... or this, whichever is larger
_DRIFT_TOLERANCE_VOX = 0.1  # in-plane drift over the whole stack
_HOLE_RATIO = 1.9


@dataclass(frozen=True)
class Grid:
    """A regular grid along the rows, the columns and the normal of a stack.

    Args:
        origin_mm: position of the first voxel.
        spacing_mm: step along rows, columns and normal.
        size: voxels along rows, columns and normal.
        heights_mm: height of every grid slice above the first slice of the stack.
        first_vox: in-plane position of the grid's first voxel relative to the first slice's, (row, column).
    """

    origin_mm: Floats
    spacing_mm: Floats
    size: tuple[int, int, int]
    heights_mm: Floats
    first_vox: Floats


@dataclass(frozen=True)
class SliceStack:
    """Slices with one orientation, one in-plane spacing and one size, ordered along their normal.

    "Along a row" is the direction in which the column index grows.

    Args:
        origins_mm: centre of the first voxel of every slice, in mm.
        row_direction: unit vector along a row.
        column_direction: unit vector along a column.
        spacing_mm: step along a row and along a column.
        size: voxels along a row and along a column.

    Shape:
        ``origins_mm`` is ``(slices, 3)``; the directions are ``(3,)``; ``spacing_mm`` is ``(2,)``.
    """

    origins_mm: Floats
    row_direction: Floats
    column_direction: Floats
    spacing_mm: Floats
    size: tuple[int, int]

    @property
    def normal(self) -> Floats:
        """Unit vector across the slices, row x column."""
        normal = np.cross(self.row_direction, self.column_direction)
        return np.asarray(normal / np.linalg.norm(normal))

    @property
    def heights_mm(self) -> Floats:
        """Height of every slice above the first one, along the normal."""
        return np.asarray((self.origins_mm - self.origins_mm[0]) @ self.normal)

    @property
    def gaps_mm(self) -> Floats:
        """Distance along the normal from every slice to the next one."""
        return np.diff(self.heights_mm)

    @property
    def drift_vox(self) -> Floats:
        """In-plane position of every slice's first voxel relative to the first slice's, ``(slices, 2)``."""
        axes = np.stack([self.row_direction, self.column_direction], axis=1)
        return np.asarray((self.origins_mm - self.origins_mm[0]) @ axes / self.spacing_mm)

    @property
    def tilt_deg(self) -> float:
        """Angle between the line from the first to the last slice and the normal."""
        along = self.heights_mm[-1]
        across = np.linalg.norm(self.drift_vox[-1] * self.spacing_mm)
        return float(np.degrees(np.arctan2(across, along)))

    def is_even(self) -> bool:
        """Tell whether every slice lies where a regular grid puts it (within 1 % of the step or 0.01 mm)."""
        heights = self.heights_mm
        regular = np.linspace(0.0, heights[-1], len(heights))
        tolerance = max(_POSITION_TOLERANCE * heights[-1] / (len(heights) - 1), _POSITION_TOLERANCE_MM)
        return bool(np.abs(heights - regular).max() <= tolerance)

    def is_upright(self) -> bool:
        """Tell whether the slices lie straight above each other (within a tenth of a voxel)."""
        return bool(np.abs(self.drift_vox).max() <= _DRIFT_TOLERANCE_VOX)

    def holes(self, numbers: list[int | None]) -> list[int]:
        """Find the gaps in which slices are missing, as opposed to a change of the slice distance.

        A gap counts as a hole when it is about twice as wide as the median and as both gaps beside it, or when
        the instance numbers skip exactly as many slices as the gap is wide. A run of wide gaps whose instance
        numbers go on is a scan with two slice distances.

        Args:
            numbers: instance number of every slice, ``None`` where unknown.

        Returns:
            Indices ``s`` of the gaps between slices ``s`` and ``s + 1``.
        """
        gaps = self.gaps_mm
        padded = np.pad(gaps, 1)
        usual = np.maximum(np.maximum(padded[:-2], padded[2:]), np.median(gaps))
        alone = gaps >= _HOLE_RATIO * usual
        steps = np.rint(gaps / np.median(gaps))
        skipped = [
            a is not None and b is not None and abs(b - a) == step >= 2
            for a, b, step in zip(numbers[:-1], numbers[1:], steps, strict=True)
        ]
        return [int(gap) for gap in np.flatnonzero(alone | np.asarray(skipped))]

    def grid(self) -> Grid:
        """Plan the upright regular grid that covers the bounding box of the stack.

        In-plane axes and spacing are the stack's. The slice distance is the lower quartile of the gaps, so
        that a finely scanned part keeps its detail without one stray small gap setting the step; it is then
        stretched a little so that the first and the last grid slice are the first and the last slice.
        """
        drift, heights = self.drift_vox, self.heights_mm
        first = np.floor(np.round(drift.min(axis=0), 6))
        extent = np.ceil(np.round(drift.max(axis=0), 6)) - first
        steps = max(1, round(heights[-1] / float(np.quantile(self.gaps_mm, 0.25))))
        shift_mm = first * self.spacing_mm
        return Grid(
            origin_mm=self.origins_mm[0] + shift_mm[0] * self.row_direction + shift_mm[1] * self.column_direction,
            spacing_mm=np.append(self.spacing_mm, heights[-1] / steps),
            size=(self.size[0] + int(extent[0]), self.size[1] + int(extent[1]), steps + 1),
            heights_mm=np.linspace(0.0, heights[-1], steps + 1),
            first_vox=first,
        )


def resample(stack: SliceStack, load: Callable[[int], Values]) -> tuple[Values, Grid]:
    """Resample a sheared or uneven stack onto its regular grid.

    A grid voxel is interpolated linearly between the two slices around it, at its true in-plane position: the
    slice origin moves linearly from one slice to the next. A function that is linear in space is therefore
    reproduced exactly. Voxels outside the stack get -1000 HU, or the smallest value if no value is below -500
    (then the numbers are not HU). At most two slices are held beside the result.

    Args:
        stack: where the slices are.
        load: returns slice ``s``.

    Shape:
        A loaded slice is ``(size[1], size[0])``: line, position in the line. The result is
        ``grid.size`` in reverse, the order in which ITK stores an image.

    Returns:
        The values and the grid on which they lie.
    """
    grid = stack.grid()
    heights, drift = stack.heights_mm, stack.drift_vox
    values = np.full(grid.size[::-1], np.nan, dtype=np.float32)
    held: dict[int, Values] = {}
    for index, height in enumerate(grid.heights_mm):
        below = min(int(np.searchsorted(heights, height, side="right")) - 1, len(heights) - 2)
        part = float((height - heights[below]) / (heights[below + 1] - heights[below]))
        held = {s: held[s] if s in held else load(s) for s in (below, below + 1)}
        between = held[below] + np.float32(part) * (held[below + 1] - held[below])
        position = drift[below] + part * (drift[below + 1] - drift[below]) - grid.first_vox
        _place(values[index], between, position)
    _fill_outside(values)
    return values, grid


def _place(target: Values, values: Values, position_vox: Floats) -> None:
    """Write a slice into a larger one at a position (row, column) in voxels, bilinearly; leave the rest."""
    position = np.round(position_vox, 6)
    start = np.ceil(position).astype(int)
    fraction = start - position
    shifted = _shift(_shift(values, float(fraction[0]), axis=1), float(fraction[1]), axis=0)
    rows, columns = shifted.shape
    target[start[1] : start[1] + rows, start[0] : start[0] + columns] = shifted


def _shift(values: Values, fraction: float, axis: int) -> Values:
    """Sample an array a fraction of a voxel further along an axis; one voxel shorter unless fraction is 0."""
    if fraction == 0:
        return values
    lines = values.swapaxes(0, axis)
    return np.asarray((lines[:-1] + np.float32(fraction) * (lines[1:] - lines[:-1])).swapaxes(0, axis))


def _fill_outside(values: Values) -> None:
    """Replace NaN by air, slice by slice."""
    smallest = float(np.nanmin(values))
    air = AIR_HU if smallest <= 0.5 * AIR_HU else smallest
    for plane in values:
        np.nan_to_num(plane, copy=False, nan=air)
