"""Distances from the surface of a mask, and the spaces that it encloses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import itk
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bertswin_ext.data.phantoms.phantom_scanner import filtered

__all__ = ["MARGIN_VOX", "Mask", "bounding_box", "hollows", "signed_distance", "surface_distance"]

MARGIN_VOX = 6
"""Voxels about a mask, so that what its surface does to its surroundings stays in the box."""

_SMOOTHING_VOX = 0.8

Mask = npt.NDArray[np.bool_]


def bounding_box(mask: Mask) -> tuple[slice, ...]:
    """The box of a mask with a margin of 6 voxels, as far as the volume goes.

    Args:
        mask: not empty, (i, j, k).

    Example:
        >>> mask = np.zeros((20, 20, 20), dtype=bool)
        >>> mask[2, 8:10, 15] = True
        >>> bounding_box(mask)
        (slice(0, 9, None), slice(2, 16, None), slice(9, 22, None))
    """
    spans = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    return tuple(slice(max(0, int(s[0]) - MARGIN_VOX), int(s[-1]) + 1 + MARGIN_VOX) for s in spans)


def signed_distance(mask: Mask, spacing_mm: Sequence[float]) -> npt.NDArray[np.float32]:
    """Distance of every voxel's centre from the nearest of those on the edge of a mask.

    Args:
        mask: (i, j, k).
        spacing_mm: edges of a voxel along i, j, k.

    Returns:
        Distances in mm, (i, j, k): 0 for the outermost voxels of the mask, negative further inside.

    Source: Maurer, Qi, Raghavan, IEEE TPAMI 25 (2003) 265-270, as ITK has it.

    Example:
        >>> mask = np.zeros((1, 1, 8), dtype=bool)
        >>> mask[..., 3:8] = True
        >>> signed_distance(mask, (1.0, 1.0, 0.5))[0, 0, [0, 2, 4, 5]].tolist()
        [1.5, 0.5, -0.5, -1.0]
    """
    settings = {"SquaredDistance": False, "UseImageSpacing": True}
    return _filtered("SignedMaurerDistanceMapImageFilter", "IUC3IF3", mask, spacing_mm, settings)


def surface_distance(mask: Mask, spacing_mm: Sequence[float]) -> Tensor:
    """Distance of every voxel's centre from the surface of a mask, smoothed a little.

    What the volume cuts off is taken to go on outside: there is no surface where a mask meets the volume's end.

    Args:
        mask: (i, j, k).
        spacing_mm: edges of a voxel along i, j, k.

    Returns:
        Distances in mm, float32 (i, j, k), negative inside.

    Example:
        >>> mask = np.zeros((8, 8, 8), dtype=bool)
        >>> mask[:, :, 4:] = True
        >>> [round(mm, 1) for mm in surface_distance(mask, (1.0, 1.0, 1.0))[4, 4, 2:6].tolist()]
        [1.5, 0.5, -0.5, -1.5]
    """
    whole = signed_distance(np.pad(mask, MARGIN_VOX, mode="edge"), spacing_mm)
    inner = (slice(MARGIN_VOX, -MARGIN_VOX),) * 3
    # the filter puts the surface through the centres of the outermost voxels
    return filtered(torch.from_numpy(whole), _SMOOTHING_VOX)[inner].contiguous().sub_(0.5 * sum(spacing_mm) / 3)


def hollows(mask: Mask, spacing_mm: Sequence[float], gap_mm: float) -> Mask:
    """Spaces that a mask encloses, also where its wall has small holes.

    The wall is closed as by a ball that is rolled about it, then everything is filled that has no way to the volume's
    end. What the volume cuts off is taken to go on outside.

    Args:
        mask: (i, j, k).
        spacing_mm: edges of a voxel along i, j, k.
        gap_mm: radius of the ball. On the grid it sinks about a voxel into a hole; thin walls need a larger radius.

    Returns:
        The spaces, without the mask itself.

    Example:
        >>> shell = np.zeros((24, 24, 24), dtype=bool)
        >>> shell[4:20, 4:20, 4:20] = True
        >>> shell[8:16, 8:16, 8:16] = shell[12, 12, 16:] = False
        >>> int(hollows(shell, (1.0, 1.0, 1.0), gap_mm=3.0)[8:16, 8:16, 8:16].sum())
        512
    """
    # room for the ball, or what lies between the mask and the end of its box would be closed
    room = [math.ceil(gap_mm / mm) + 1 for mm in spacing_mm]
    wide = np.pad(mask, [(n, n) for n in room], mode="edge")
    near = signed_distance(wide, spacing_mm) <= gap_mm
    closed = wide | (signed_distance(near, spacing_mm) <= -gap_mm)
    filled = _filtered("BinaryFillholeImageFilter", "IUC3", closed, spacing_mm, {"ForegroundValue": 1})
    return (filled[tuple(slice(n, -n) for n in room)] > 0) & ~mask


def _filtered(
    name: str, types: str, mask: Mask, spacing_mm: Sequence[float], settings: Mapping[str, Any]
) -> npt.NDArray[Any]:
    """What a filter of ITK makes of a mask."""
    # a view: the voxels live as long as this name; ITK would take another order of them for another shape
    voxels = np.ascontiguousarray(mask, dtype=np.uint8)
    image = itk.image_view_from_array(voxels)
    image.SetSpacing([float(mm) for mm in spacing_mm[::-1]])
    # the class in its own module, because asking `itk` for it loads half of ITK, which takes seconds
    filter_class = getattr(import_module(f"itk.itk{name}Python"), f"itk{name}{types}")
    itk_filter = filter_class.New(Input=image, **settings)
    itk_filter.Update()
    return itk.array_from_image(itk_filter.GetOutput())
