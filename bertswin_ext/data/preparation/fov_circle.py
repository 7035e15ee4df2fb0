"""A circle through the border between two kinds of cells of a plane, some of which are of the wrong kind."""

from __future__ import annotations

import numpy as np

from bertswin_ext.geometry import Floats

__all__ = ["depths_mm", "fit_circle", "separate"]

_FEWEST_POINTS = 12
_NEAR_CELLS = 1.0
_NEAR_SHARE = 0.9
_BEND_CELLS = 3.0
_ROUNDS = 10
_WIDTHS_CELLS = np.repeat([0.4, 0.2, 0.1, 0.05], 6)


def depths_mm(points: Floats, circle: Floats, square_mm: float = 0.0) -> Floats:
    """How far inside a circle points lie, negative outside.

    Args:
        points: in mm.
        circle: centre and radius (u, v, r) in mm.
        square_mm: the points are the centres of upright squares of this edge, and the nearest corner counts.

    Shape:
        ``points`` is (n, 2), the result (n,).

    Example:
        >>> depths_mm(np.array([[3.0, 4.0], [0.0, 7.0]]), np.array([0.0, 0.0, 6.0])).tolist()
        [1.0, -1.0]
    """
    offsets = points - circle[:2]
    distances = np.linalg.norm(offsets, axis=-1)
    nearer = 0.5 * square_mm * abs(offsets).sum(axis=-1) / np.maximum(distances, 1e-9)
    return np.asarray(circle[2] - distances + nearer)


def fit_circle(points: Floats, cell_mm: float, square_mm: float = 0.0) -> Floats | None:
    """The circle through most of the points, by least squares.

    Args:
        points: middles between neighbouring cells of different kinds, in mm.
        cell_mm: edge of a cell.
        square_mm: see `depths_mm`.

    Shape:
        ``points`` is (n, 2).

    Returns:
        Centre and radius (u, v, r) in mm; None if a tenth of the points lies further than a cell from the circle, or
        if they lie on an arc that is bent by less than three cells, which could as well be straight.

    Source: Kasa's algebraic circle to start with; distances, by Gauss and Newton, because that one is too small for a
        short arc.
    """
    if len(points) < _FEWEST_POINTS:
        return None
    circle = _algebraic_circle(points)
    for _ in range(_ROUNDS):
        depths = depths_mm(points, circle, square_mm)
        near = abs(depths) <= max(2.0 * float(np.median(abs(depths))), _NEAR_CELLS * cell_mm)
        step, *_ = np.linalg.lstsq(_slopes(points[near], circle), -depths[near], rcond=None)
        circle = circle + step
    near = abs(depths_mm(points, circle, square_mm)) <= _NEAR_CELLS * cell_mm
    if near.mean() < _NEAR_SHARE or _bend_mm(points[near], circle) < _BEND_CELLS * cell_mm:
        return None
    return circle


def separate(pairs: Floats, circle: Floats, cell_mm: float) -> Floats:
    """Move a circle so that the first of every pair lies inside and the second outside, if that can be.

    Least squares takes the middle between two cells for a point of the circle, which is right to half a cell. That the
    circle runs between the two is certain, and fixes a short arc better. Pairs that are further from the
    circle than a cell play no part.

    Args:
        pairs: positions of neighbouring cells or voxels in mm.
        circle: what `fit_circle` found.
        cell_mm: edge of a cell.

    Shape:
        ``pairs`` is (n, 2, 2): pair, its first or second point, coordinate.

    Source: logistic regression on the depths, by Newton, with a border that becomes sharper; our own.
    """
    near = abs(depths_mm(pairs.mean(axis=1), circle)) <= _NEAR_CELLS * cell_mm
    points, sides = pairs[near].reshape(-1, 2), np.tile([1.0, -1.0], int(near.sum()))
    if not near.any():
        return circle
    for width_mm in cell_mm * _WIDTHS_CELLS:
        slopes = _slopes(points, circle) / width_mm
        wrong = 1.0 / (1.0 + np.exp(np.clip(sides * depths_mm(points, circle) / width_mm, -50, 50)))
        # the small number keeps Newton's steps short where nothing is wrong any more
        weights = wrong * (1.0 - wrong) + 1e-3
        step, *_ = np.linalg.lstsq(slopes.T @ (weights[:, None] * slopes), slopes.T @ (sides * wrong), rcond=None)
        circle = circle + step
    return circle


def _algebraic_circle(points: Floats) -> Floats:
    """Least squares of u^2 + v^2 - 2 a u - 2 b v - c."""
    middle = points.mean(axis=0)
    offsets = points - middle
    columns = np.column_stack([2.0 * offsets, np.ones(len(points))])
    (a, b, c), *_ = np.linalg.lstsq(columns, (offsets**2).sum(axis=1), rcond=None)
    return np.array([a + middle[0], b + middle[1], np.sqrt(max(c + a * a + b * b, 0.0))])


def _slopes(points: Floats, circle: Floats) -> Floats:
    """Change of the depths with the circle, (n, 3)."""
    offsets = points - circle[:2]
    directions = offsets / np.maximum(np.linalg.norm(offsets, axis=-1, keepdims=True), 1e-9)
    return np.column_stack([directions, np.ones(len(points))])


def _bend_mm(points: Floats, circle: Floats) -> float:
    """Height of the arc on which all the points lie, over its chord."""
    angles = np.sort(np.arctan2(*(points - circle[:2]).T))
    gap = np.diff(angles, append=angles[0] + 2 * np.pi).max()
    return float(circle[2] * (1 - np.cos(np.pi - gap / 2)))
