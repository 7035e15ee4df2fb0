"""Whole heads about the label map of a real jaw: its bones within, simple solids where the map ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from bertswin_ext.data.phantoms.head_parts import draw_head_shape
from bertswin_ext.data.phantoms.head_tissue import fill_with_tissue
from bertswin_ext.data.phantoms.heads import Head, head_grid, render_head
from bertswin_ext.data.phantoms.jaw_map import DENTAL_SEGMENTATOR, MANDIBLE, JawMap, Tissues, read_jaw_map
from bertswin_ext.data.phantoms.phantom_anatomy import Points
from bertswin_ext.data.phantoms.phantom_scanner import Shape, coordinates
from bertswin_ext.data.preparation.condyles import find_condyles
from bertswin_ext.geometry import Floats, moved, spacing_of

__all__ = ["make_labelled_head", "thinned_map"]

_MAP_MM = 1.5
_SEAM_MM = 8.0
_FLESH_HU = 150.0  # what is denser is bone of the map, which no cavity is cut from


def thinned_map(label: npt.NDArray[Any], affine: Floats, tissues: Tissues = DENTAL_SEGMENTATOR) -> JawMap:
    """A label map on about every 1.5 mm, checked.

    Args:
        label: values of ``tissues``, (i, j, k).
        affine: voxel to RAS world in mm.
        tissues: as in `make_semi_synthetic`.

    Example:
        >>> thinned_map(np.ones((60, 60, 60), np.uint8), np.diag([0.5, 0.5, 0.5, 1.0])).label.shape
        (20, 20, 20)
    """
    steps = np.maximum(1, np.round(_MAP_MM / spacing_of(affine))).astype(int)
    first = (steps - 1) // 2
    matrix = np.asarray(affine, dtype=np.float64) @ np.diag([*steps.astype(float), 1.0])
    matrix[:3, 3] = moved(affine, first)
    return read_jaw_map(label[first[0] :: steps[0], first[1] :: steps[1], first[2] :: steps[2]], matrix, tissues)


def make_labelled_head(jaw: JawMap, seed: int, spacing_mm: float = 2.5) -> Head:
    """Make a whole head about a label map that shows both joints; for odd seeds, the map alone in air.

    Args:
        jaw: the map, upright in the world.
        seed: not negative; another seed gives other tissues and another head about the map.
        spacing_mm: edge of a voxel.

    Returns:
        The head, on the grid of `make_head`, the middle between the joints at the origin.

    Raises:
        VolumeError: the map does not show two whole condyles.

    Source: ours.
    """
    rng = np.random.default_rng((seed, 9))
    left, right = (np.array(found.center_mm) for found in find_condyles(jaw.label, jaw.affine, MANDIBLE))
    middle = (left + right) / 2
    affine, shape = head_grid(spacing_mm)
    points = Points(*coordinates(affine[:3, :3], affine[:3, 3], slice(0, shape[0]), shape))
    to_map = np.linalg.inv(jaw.affine) @ _shifted(middle) @ affine
    inner, share = _sampled(fill_with_tissue(jaw, rng), to_map, shape, jaw.spacing)
    head = draw_head_shape(rng)
    around = torch.full_like(inner, -1000.0) if seed % 2 else render_head(points, head, rng, spacing_mm)
    if not seed % 2:
        # where the map has air or only flesh, the head's own air and bone may show
        share = share * ((inner > -500.0) & ((inner > _FLESH_HU) | (around > -500.0)))
    image = torch.lerp(around, inner, share)
    return Head(image.numpy(), affine, {"left": _point(left - middle), "right": _point(right - middle)})


def _shifted(offset: Floats) -> Floats:
    """A translation."""
    matrix = np.eye(4)
    matrix[:3, 3] = offset
    return matrix


def _point(values: Floats) -> tuple[float, float, float]:
    """Three plain numbers."""
    x, y, z = values.tolist()
    return x, y, z


def _sampled(hu: Tensor, matrix: Floats, shape: Shape, spacing: list[float]) -> tuple[Tensor, Tensor]:
    """Values of a map at a grid's voxels, and how much the map counts there: not at all at its ends."""
    size = hu.shape
    index = coordinates(matrix[:3, :3], matrix[:3, 3], slice(0, shape[0]), shape)
    scaled = [2.0 * c / (n - 1) - 1.0 for c, n in zip(index, size, strict=True)]
    grid = torch.stack(scaled[::-1], dim=-1)[None]
    values = F.grid_sample(hu[None, None], grid, padding_mode="border", align_corners=True)[0, 0]
    depths = [torch.minimum(c, n - 1 - c) * mm / _SEAM_MM for c, n, mm in zip(index, size, spacing, strict=True)]
    return values, torch.minimum(torch.minimum(depths[0], depths[1]), depths[2]).clamp(0.0, 1.0)
