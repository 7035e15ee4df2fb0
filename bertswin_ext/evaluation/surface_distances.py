"""How far two surfaces are apart, in mm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bertswin_ext.data.phantoms.distance_maps import Mask, signed_distance

__all__ = ["surface_distances_mm", "surface_voxels"]

Distances = npt.NDArray[np.float32]


def surface_voxels(mask: Mask) -> Mask:
    """The voxels of a mask that have one of their six neighbours outside of it; the volume's end is outside.

    Args:
        mask: (i, j, k).

    Example:
        >>> cube = np.ones((3, 3, 3), dtype=bool)
        >>> int(surface_voxels(cube).sum())
        26
    """
    padded = np.pad(mask, 1)
    inside = mask.copy()
    for axis in range(3):
        for start in (0, 2):
            part = [slice(1, -1)] * 3
            part[axis] = slice(start, start + mask.shape[axis])
            inside &= padded[tuple(part)]
    return mask & ~inside


def surface_distances_mm(first: Mask, second: Mask, spacing_mm: Sequence[float]) -> tuple[Distances, Distances]:
    """Distances between the surfaces of two masks: of every surface voxel from the nearest one of the other mask.

    Args:
        first: a mask with at least one voxel.
        second: another one on the same grid.
        spacing_mm: edges of a voxel along i, j, k.

    Shape:
        Both masks are (i, j, k).

    Returns:
        Distances in mm from the first surface to the second, and from the second to the first; each is as long as the
        surface it starts from has voxels.

    Raises:
        ValueError: the masks have not one shape, or one of them is empty and has no surface.

    Source: the definition of `monai.metrics.compute_hausdorff_distance`, which needs scipy for it. The distances here
        are those of ITK's distance map (Maurer, Qi, Raghavan, IEEE TPAMI 25 (2003) 265-270).

    Example:
        >>> first, second = np.zeros((2, 1, 1, 8), dtype=bool)
        >>> first[..., 1] = second[..., 4] = True
        >>> [float(mm[0]) for mm in surface_distances_mm(first, second, (1.0, 1.0, 0.5))]
        [1.5, 1.5]
    """
    if first.shape != second.shape or first.ndim != 3:
        raise ValueError(f"The masks must both be (i, j, k) on one grid, got {first.shape} and {second.shape}.")
    if not (first.any() and second.any()):
        raise ValueError("Both masks must have voxels: an empty one has no surface. Score it as a missed class.")
    box = _common_box(first, second)
    # ITK takes an array in Fortran's order, which one with axes of one voxel is in as well, for its transpose
    surfaces = [np.ascontiguousarray(np.pad(surface_voxels(mask[box]), 1)) for mask in (first, second)]
    to_first, to_second = (signed_distance(surface, spacing_mm).clip(min=0.0) for surface in surfaces)
    return to_second[surfaces[0]], to_first[surfaces[1]]


def _common_box(first: Mask, second: Mask) -> tuple[slice, ...]:
    """The smallest box that holds both masks."""
    either = first | second
    spans = [np.flatnonzero(either.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    return tuple(slice(int(span[0]), int(span[-1]) + 1) for span in spans)
