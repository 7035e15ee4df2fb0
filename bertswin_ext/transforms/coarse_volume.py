"""A volume of any resolution on a coarse upright grid, by means over its voxels, with little memory."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from torch import Tensor

from bertswin_ext.geometry import Floats, moved, spacing_of
from bertswin_ext.transforms.resample import resample
from bertswin_ext.transforms.volume_grid import grid_of
from bertswin_ext.voxels import VOXELS

__all__ = ["coarse_volume"]

_VOXELS_AT_ONCE = 1 << 22
_FINER = 2  # the means are taken over two voxels per axis of a finer grid


def coarse_volume(volume: Tensor, spacing_mm: float) -> MetaTensor:
    """Means of a volume on cubes along the axes of the world.

    The values are held within the HU window of the networks, so that metal does not outshine its surroundings. The grid
    covers the whole volume, however it is tilted; what lies outside is air. The volume is read slab by slab, and
    neither copied nor converted as a whole.

    Args:
        volume: HU, of any type, spacing and affine; a plain tensor's affine is the identity.
        spacing_mm: edge of a cube.

    Shape:
        ``volume`` is (1, i, j, k), the result too.

    Returns:
        float32, HU, with its affine.

    Raises:
        ValueError: the volume is not (1, i, j, k), or the spacing is not positive.

    Example:
        >>> scan = MetaTensor(torch.full((1, 40, 40, 40), 7.0), affine=torch.diag(torch.tensor([0.5, 0.5, 0.5, 1.0])))
        >>> coarse = coarse_volume(scan, 4.0)
        >>> coarse.shape, coarse.affine[:3, 3].tolist(), float(coarse.mean())
        (torch.Size([1, 5, 5, 5]), [1.75, 1.75, 1.75], 7.0)
    """
    if not 0 < spacing_mm < math.inf:
        raise ValueError(f"`spacing_mm` must be above 0 mm, got {spacing_mm!r}. Use 4, say.")
    grid = grid_of(volume)
    if volume.shape[0] != 1:
        raise ValueError(f"{grid.name}: a volume of one channel is needed, got {volume.shape[0]}. Take one of them.")
    plain = volume.detach().as_tensor() if isinstance(volume, MetaTensor) else volume.detach()
    fine_mm = spacing_mm / _FINER
    factors = [
        max(1, min(int(fine_mm / mm + 1e-3), n)) for mm, n in zip(spacing_of(grid.affine), grid.shape, strict=True)
    ]
    pooled, affine = _pooled(plain, factors), _pooled_affine(grid.affine, factors)
    low, size = _upright_box(grid.affine, grid.shape, spacing_mm)
    fine = _upright_affine(low, fine_mm)
    matrix = np.linalg.inv(affine) @ fine
    found = resample(pooled, matrix, [n * _FINER for n in size], fill=VOXELS.min_hu)
    return MetaTensor(F.avg_pool3d(found, _FINER), affine=torch.from_numpy(_upright_affine(low, spacing_mm)))


def _pooled(volume: Tensor, factors: list[int]) -> Tensor:
    """Means over boxes of voxels, some planes at a time; what fills no box at the far ends is left out."""
    fi, (ni, nj, nk) = factors[0], volume.shape[1:]
    planes = fi * max(1, _VOXELS_AT_ONCE // (fi * nj * nk))
    pooled = torch.empty(1, *(n // f for n, f in zip((ni, nj, nk), factors, strict=True)), device=volume.device)
    # one buffer for all slabs: freed ones would not be used again, as the heap lies in pieces
    buffer = torch.empty(1, min(planes, ni), nj, nk, device=volume.device)
    for start in range(0, ni // fi * fi, planes):
        slab = volume[:, start : min(start + planes, ni // fi * fi)]
        values = buffer[:, : slab.shape[1]].copy_(slab).clamp_(VOXELS.min_hu, VOXELS.max_hu)
        pooled[:, start // fi : (start + slab.shape[1]) // fi] = F.avg_pool3d(values, factors)
    return pooled


def _pooled_affine(affine: Floats, factors: list[int]) -> Floats:
    """Voxel to world after pooling."""
    scale = np.diag([*map(float, factors), 1.0])
    scale[:3, 3] = (np.array(factors) - 1) / 2
    return np.asarray(affine @ scale)


def _upright_box(affine: Floats, shape: tuple[int, int, int], spacing_mm: float) -> tuple[Floats, list[int]]:
    """Lower corner in the world and number of cubes per axis that hold all of a volume."""
    corners = moved(affine, list(product(*((-0.5, n - 0.5) for n in shape))))
    low, high = corners.min(axis=0), corners.max(axis=0)
    return low, [max(1, math.ceil(extent / spacing_mm - 1e-3)) for extent in (high - low).tolist()]


def _upright_affine(low: Floats, spacing_mm: float) -> Floats:
    """Voxel to world of cubes whose first one begins at a corner."""
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = low + spacing_mm / 2
    return affine
