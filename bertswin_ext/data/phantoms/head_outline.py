"""The outline of a head about its bones: their convex hull in every slice, with flesh on it, and a neck below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bertswin_ext.data.phantoms.distance_maps import Mask
from bertswin_ext.data.phantoms.phantom_scanner import Shape, coordinates, filtered
from bertswin_ext.geometry import Floats, moved, spacing_of

__all__ = ["FLESH_MM", "skin_distance"]

FLESH_MM = 9.0
"""Between bone and skin."""

_COARSE_MM = 2.0
_DIRECTIONS = 48


def skin_distance(bones: Mask, mandible: Mask, affine: Floats) -> Tensor:
    """Approximate distance of every voxel from the skin, worked out at about 2 mm.

    In every level of the world the head reaches 9 mm beyond the convex outline of what bones there are; above the
    highest bone it ends. Downwards it narrows, the chin faster than the nape, to a round neck behind the mandible.

    Args:
        bones: where bones and teeth are, (i, j, k), not empty.
        mandible: where the mandible and its teeth are, (i, j, k); without it there is no neck.
        affine: voxel to RAS world in mm, (4, 4).

    Returns:
        Distances in mm, float32 (i, j, k), negative inside. Sideways distances are measured within the level.

    Source: ours; no measured head is behind it.

    Example:
        >>> bones = np.zeros((32, 32, 32), dtype=bool)
        >>> bones[12:20, 12:20, 8:24] = True
        >>> distance = skin_distance(bones, np.zeros_like(bones), np.diag([2.0, 2.0, 2.0, 1.0]))
        >>> bool(distance[16, 16, 16] < -9), round(float(distance[30, 16, 16]))
        (True, 13)
    """
    steps = [max(1, round(_COARSE_MM / mm)) for mm in spacing_of(affine).tolist()]
    coarse_bones, coarse_mandible = (_coarser(mask, steps) for mask in (bones, mandible))
    shape = cast(Shape, tuple(coarse_bones.shape))
    first = moved(affine, (np.array(steps) - 1) / 2)
    world = coordinates(affine[:3, :3] * steps, first, slice(0, shape[0]), shape)
    distance = _outline_distance(world, coarse_bones, coarse_mandible)[None, None]
    fine = F.interpolate(distance, scale_factor=[float(n) for n in steps], mode="trilinear")[0, 0]
    return fine[tuple(slice(0, n) for n in bones.shape)] - FLESH_MM


def _coarser(mask: Mask, steps: list[int]) -> Tensor:
    """A mask in larger voxels, which are true if one of theirs is."""
    return F.max_pool3d(torch.from_numpy(mask)[None].float(), steps, ceil_mode=True)[0] > 0


def _outline_distance(world: Sequence[Tensor], bones: Tensor, mandible: Tensor) -> Tensor:
    """Distance from the convex outline of the bones in every level of the world."""
    x, y, z = world
    bottom, top = float(z.min()), float(z[bones].max())
    level = ((z - bottom) / _COARSE_MM).clamp(max=(top - bottom) / _COARSE_MM)
    below, part = level.floor().long(), level.frac()
    normals = _normals()
    reach = _head_reach(torch.stack([x, y], dim=-1), below, bones, mandible, normals)
    distance = z - top
    for (east, north), outline in zip(normals.T.tolist(), reach.T, strict=True):
        distance = torch.maximum(distance, east * x + north * y - torch.lerp(outline[below], outline[below + 1], part))
    return distance


def _normals() -> Tensor:
    """Unit vectors all round, (2, directions)."""
    angles = torch.arange(_DIRECTIONS) * (2.0 * math.pi / _DIRECTIONS)
    return torch.stack([angles.cos(), angles.sin()])


def _head_reach(ground: Tensor, level: Tensor, bones: Tensor, mandible: Tensor, normals: Tensor) -> Tensor:
    """How far the head reaches in every direction, without its flesh; (levels, directions)."""
    reach = torch.full((int(level.max()) + 2, _DIRECTIONS), -math.inf)
    reach.scatter_reduce_(0, level[bones][:, None].expand(-1, _DIRECTIONS), ground[bones] @ normals, "amax")
    reach[-1] = reach[-2]
    if mandible.any():
        lower = reach[: int(level[mandible].max())]
        torch.maximum(lower, _neck_reach(ground[mandible], normals), out=lower)
    _narrow_downwards(reach, normals)
    # mirrored ends, because the filter is periodic
    return filtered(torch.cat([reach, reach.flip(0)]), [2.0, 0.5])[: len(reach)]


def _neck_reach(mandible: Tensor, normals: Tensor) -> Tensor:
    """How far a round neck reaches, most of which is behind the mandible; (directions,)."""
    low, high = mandible.aminmax(dim=0)
    width = high[0] - low[0]
    center = torch.stack([(high[0] + low[0]) / 2, low[1] - 0.15 * width])
    return center @ normals + 0.5 * width - FLESH_MM


def _narrow_downwards(reach: Tensor, normals: Tensor) -> None:
    """Let no level reach much less far than the one above; a chin recedes faster than a nape."""
    slope = _COARSE_MM * (0.9 + 0.7 * normals[1])
    for row in range(len(reach) - 2, -1, -1):
        reach[row] = torch.maximum(reach[row], reach[row + 1] - slope)
