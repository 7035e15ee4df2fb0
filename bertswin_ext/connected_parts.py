"""Connected parts of a mask, without a library that takes seconds to load."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["connected_parts", "largest_part"]

Mask = npt.NDArray[np.bool_]
Ids = npt.NDArray[np.int64]

# (i, j) steps to half of the 8 neighbouring lines: the other half sees the same pairs
_AHEAD = ((0, 1), (1, -1), (1, 0), (1, 1))


def connected_parts(mask: Mask) -> Ids:
    """Number the parts of a mask that are connected over faces, edges or corners.

    Runs of true voxels along k are joined, all neighbours at once, each group under its lowest run, until none is left
    to be joined; a few rounds do for a bone. Time and memory go with the number of runs, beside a copy of the mask.

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
    starts, stops, steps = _runs(mask)
    return np.repeat(_roots(starts, stops, steps), stops - starts)


def largest_part(mask: Mask) -> Mask:
    """The part of a mask with the most voxels, connected over faces, edges or corners; of equal ones the first.

    Args:
        mask: (i, j, k).

    Returns:
        A mask of its own; empty if the given one is.

    Example:
        >>> largest_part(np.array([[[True, False, True, True]]])).tolist()
        [[[False, False, True, True]]]
    """
    starts, stops, steps = _runs(mask)
    part = np.zeros_like(mask)
    if len(starts):
        roots = _roots(starts, stops, steps)
        largest = np.bincount(roots, weights=stops - starts).argmax()
        part[mask] = np.repeat(roots == largest, stops - starts)
    return part


def _runs(mask: Mask) -> tuple[Ids, Ids, list[int]]:
    """Where runs start and end in a flat mask with an empty voxel behind every line, and how far lines ahead are."""
    padded = np.pad(mask, ((0, 0), (0, 1), (0, 1))).ravel()
    edges = np.flatnonzero(np.diff(padded, prepend=False, append=False))
    line = mask.shape[2] + 1
    plane = line * (mask.shape[1] + 1)
    return edges[::2], edges[1::2], [i * plane + j * line for i, j in _AHEAD]


def _roots(starts: Ids, stops: Ids, steps: list[int]) -> Ids:
    """Number of the lowest run that each run is connected with."""
    first, second = _neighbours(starts, stops, steps)
    roots = np.arange(len(starts))
    while len(first):
        low, high = np.minimum(first, second), np.maximum(first, second)
        np.minimum.at(roots, high, low)
        roots = _settled(roots)
        first, second = roots[first], roots[second]
        apart = first != second
        first, second = first[apart], second[apart]
    return roots


def _neighbours(starts: Ids, stops: Ids, steps: list[int]) -> tuple[Ids, Ids]:
    """Pairs of runs that touch."""
    pairs = [_touching(starts, stops, step) for step in steps]
    return np.concatenate([own for own, _ in pairs]), np.concatenate([other for _, other in pairs])


def _touching(starts: Ids, stops: Ids, step: int) -> tuple[Ids, Ids]:
    """Pairs of a run and those that it touches in the line that lies a step ahead; a corner is enough."""
    low = np.searchsorted(stops, starts + step, side="left")
    counts = np.maximum(np.searchsorted(starts, stops + step, side="right") - low, 0)
    own = np.repeat(np.arange(len(starts)), counts)
    rank = np.arange(len(own)) - np.repeat(np.cumsum(counts) - counts, counts)
    return own, low[own] + rank


def _settled(roots: Ids) -> Ids:
    """Follow every run's root to its end; roots have lower numbers, so there is one."""
    while not np.array_equal(further := roots[roots], roots):
        roots = further
    return roots
