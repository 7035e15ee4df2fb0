"""Connected parts of a mask, without a library that takes seconds to load."""

from __future__ import annotations

from itertools import product

import numpy as np
import numpy.typing as npt

__all__ = ["connected_parts"]

Mask = npt.NDArray[np.bool_]
Ids = npt.NDArray[np.int64]

# half of the 26 neighbours: the other half sees the same pairs
_AHEAD = [step for step in product((-1, 0, 1), repeat=3) if step > (0, 0, 0)]


def connected_parts(mask: Mask) -> Ids:
    """Number the parts of a mask that are connected over faces, edges or corners.

    All neighbours are joined at once, each group under its lowest voxel, until none is left to be joined; a few rounds
    do for a bone. Time and memory go with the number of voxels in the mask.

    Args:
        mask: what to take apart.

    Shape:
        ``mask`` is ``(i, j, k)``; the result has one number per true voxel, in the order of ``mask[mask]``.

    Returns:
        Number of the part of each voxel; equal for connected voxels, neither sorted by size nor without gaps.

    Example:
        >>> mask = np.zeros((5, 5, 5), dtype=bool)
        >>> mask[0, 0, 0] = mask[1, 1, 1] = mask[4, 4, 4] = True
        >>> connected_parts(mask).tolist()
        [0, 0, 2]
    """
    first, second = _neighbours(mask)
    roots = np.arange(np.count_nonzero(mask))
    while len(first):
        low, high = np.minimum(first, second), np.maximum(first, second)
        np.minimum.at(roots, high, low)
        roots = _settled(roots)
        first, second = roots[first], roots[second]
        apart = first != second
        first, second = first[apart], second[apart]
    return roots


def _neighbours(mask: Mask) -> tuple[Ids, Ids]:
    """Pairs of true voxels that touch, by their number in ``mask[mask]``."""
    numbers = np.full(np.add(mask.shape, 2), -1)
    numbers[1:-1, 1:-1, 1:-1][mask] = np.arange(np.count_nonzero(mask))
    at = np.flatnonzero(numbers.ravel() >= 0)
    flat = numbers.ravel()
    pairs = [(flat[at], flat[at + int(np.dot(step, np.divide(numbers.strides, flat.itemsize)))]) for step in _AHEAD]
    touching = [(own[other >= 0], other[other >= 0]) for own, other in pairs]
    return np.concatenate([own for own, _ in touching]), np.concatenate([other for _, other in touching])


def _settled(roots: Ids) -> Ids:
    """Follow every voxel's root to its end; roots have lower numbers, so there is one."""
    while not np.array_equal(further := roots[roots], roots):
        roots = further
    return roots
