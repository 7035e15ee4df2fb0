"""The two nearest points of two clouds, without all distances between them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from bertswin_ext.geometry import Floats

__all__ = ["nearest_pair"]

_CUBES = 24  # along the longest edge of both clouds
_MOST_DISTANCES = 1 << 22
_EXACT = "donot_use_mm_for_euclid_dist"  # the other way loses digits where points are near each other


def nearest_pair(first: npt.ArrayLike, second: npt.ArrayLike) -> tuple[Floats, Floats]:
    """The points of two clouds that are nearest to each other.

    Both clouds are divided into cubes. Only points of cubes that can hold the nearest pair are compared.

    Args:
        first: points (n, 3), at least one.
        second: points (m, 3), at least one.

    Returns:
        One point of each.

    Raises:
        ValueError: a cloud is empty, or its points do not have 3 coordinates.

    Example:
        >>> one, other = nearest_pair([[0, 0, 0], [5, 0, 0]], [[9, 0, 0], [5, 1, 0]])
        >>> one.tolist(), other.tolist()
        ([5.0, 0.0, 0.0], [5.0, 1.0, 0.0])
    """
    clouds = [np.asarray(points, dtype=np.float64) for points in (first, second)]
    if any(cloud.ndim != 2 or cloud.shape[1] != 3 or not len(cloud) for cloud in clouds):
        raise ValueError(f"Both clouds must be (n, 3) with n above 0, got {clouds[0].shape} and {clouds[1].shape}.")
    low = np.minimum(*(cloud.min(axis=0) for cloud in clouds))
    extent = max(float((cloud - low).max()) for cloud in clouds)
    some, others = _candidates(clouds[0], clouds[1], low, extent / _CUBES or 1.0)
    row, column = _nearest(some, others)
    return some[row], others[column]


def _candidates(first: Floats, second: Floats, low: Floats, edge: float) -> tuple[Floats, Floats]:
    """The points whose cubes lie near enough to a cube of the other cloud."""
    cubes, members = zip(*(_cubes_of(cloud, low, edge) for cloud in (first, second)), strict=True)
    apart = np.abs(cubes[0][:, None] - cubes[1][None])
    nearest = np.linalg.norm(np.maximum(apart - 1, 0), axis=-1)
    furthest = np.linalg.norm(apart + 1, axis=-1)
    kept = nearest <= furthest.min() + 1e-6
    return first[kept.any(axis=1)[members[0]]], second[kept.any(axis=0)[members[1]]]


def _cubes_of(cloud: Floats, low: Floats, edge: float) -> tuple[Floats, npt.NDArray[np.intp]]:
    """The cubes in which there are points, and the cube of every point."""
    places = np.floor((cloud - low) / edge).astype(np.int64)
    size = _CUBES + 2
    numbers, members = np.unique(np.ravel_multi_index(tuple(places.T), (size,) * 3), return_inverse=True)
    return np.stack(np.unravel_index(numbers, (size,) * 3), axis=1).astype(np.float64), members.reshape(-1)


def _nearest(first: Floats, second: Floats) -> tuple[int, int]:
    """Indices of the nearest points, some rows of distances at a time."""
    others = torch.from_numpy(second)
    best = (np.inf, 0, 0)
    step = max(1, _MOST_DISTANCES // len(second))
    for start in range(0, len(first), step):
        distances = torch.cdist(torch.from_numpy(first[start : start + step]), others, compute_mode=_EXACT)
        least, index = distances.reshape(-1).min(dim=0)
        if float(least) < best[0]:
            row, column = divmod(int(index), len(second))
            best = (float(least), start + row, column)
    return best[1], best[2]
