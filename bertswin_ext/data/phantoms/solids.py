"""Simple solids as distances of points from their surfaces: ellipsoids, rods, plates and arches; and paint."""

from __future__ import annotations

import torch
from torch import Tensor

from bertswin_ext.data.phantoms.phantom_anatomy import Points

__all__ = ["arch", "ellipsoid", "painted", "plate", "rod"]

Vector = tuple[float, float, float]


def ellipsoid(p: Points, center: Vector, radii: Vector) -> Tensor:
    """Distance from an ellipsoid along the axes, exact at its surface only.

    Example:
        >>> x = torch.tensor([0.0, 3.0])
        >>> ellipsoid(Points(x, 0 * x, 0 * x), (0.0, 0.0, 0.0), (2.0, 2.0, 2.0)).tolist()
        [-2.0, 1.0]
    """
    x, y, z = ((c - m) / r for c, m, r in zip(p, center, radii, strict=True))
    return ((x.square() + y.square() + z.square()).sqrt() - 1.0) * min(radii)


def rod(p: Points, start: Vector, end: Vector, radii: tuple[float, float]) -> Tensor:
    """Distance from a round rod between two points, whose radius changes evenly.

    Example:
        >>> x = torch.tensor([-4.0, 5.0])
        >>> rod(Points(x, 0 * x, 0 * x), (0.0, 0.0, 0.0), (10.0, 0.0, 0.0), (1.0, 3.0)).tolist()
        [3.0, -2.0]
    """
    axis = [e - b for b, e in zip(start, end, strict=True)]
    offset = [c - b for c, b in zip(p, start, strict=True)]
    along = sum((o * a for o, a in zip(offset, axis, strict=True)), torch.zeros(())) / sum(a * a for a in axis)
    along = along.clamp(0.0, 1.0)
    squares = sum(((o - along * a).square() for o, a in zip(offset, axis, strict=True)), torch.zeros(()))
    return squares.sqrt() - radii[0] - along * (radii[1] - radii[0])


def plate(p: Points, center: Vector, half: Vector) -> Tensor:
    """Distance from a box along the axes, too small at its edges.

    Example:
        >>> x = torch.tensor([0.0, 5.0])
        >>> plate(Points(x, 0 * x, 0 * x), (0.0, 0.0, 0.0), (3.0, 2.0, 9.0)).tolist()
        [-2.0, 2.0]
    """
    x, y, z = ((c - m).abs() - h for c, m, h in zip(p, center, half, strict=True))
    return torch.maximum(torch.maximum(x, y), z)


def arch(p: Points, back: float, width: float, length: float, half: float) -> Tensor:
    """Distance from the upright wall of half an ellipse that is open at the back, such as a row of teeth.

    Args:
        p: the points; x sideways, y forward.
        back: where the arch begins, y.
        width: half of its width at the back.
        length: from back to front.
        half: half of the wall's thickness.

    Example:
        >>> y = torch.tensor([50.0, 30.0])
        >>> arch(Points(0 * y, y, 0 * y), back=0.0, width=25.0, length=50.0, half=4.0).round().tolist()
        [-4.0, 8.0]
    """
    # in ellipse units the wall is thinner in front; the mean of both axes keeps it even enough
    ratio = ((p[0] / width).square() + ((p[1] - back) / length).square()).sqrt()
    scale = torch.where(p[1] - back > 0.5 * length, 0.6 * length, width)
    return torch.maximum((ratio - 1.0).abs() * scale - half, back - p[1])


def painted(hu: Tensor, tissue: Tensor | float, distance: Tensor, edge_mm: float) -> Tensor:
    """Units with a tissue painted over them where a distance is negative, blurred over a voxel.

    Example:
        >>> painted(torch.zeros(3), 100.0, torch.tensor([-5.0, 0.0, 5.0]), edge_mm=2.0).tolist()
        [100.0, 50.0, 0.0]
    """
    end = tissue if isinstance(tissue, Tensor) else hu.new_tensor(tissue)
    return torch.lerp(hu, end, (0.5 - distance / edge_mm).clamp(0.0, 1.0))
