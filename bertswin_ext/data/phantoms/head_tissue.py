"""Hounsfield units of a head about a jaw: skin, fat, muscle, bone with its marrow and air cells, teeth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bertswin_ext.data.phantoms.distance_maps import bounding_box, hollows, surface_distance
from bertswin_ext.data.phantoms.head_outline import skin_distance
from bertswin_ext.data.phantoms.jaw_map import MANDIBLE, SKULL, JawMap
from bertswin_ext.data.phantoms.phantom_scanner import filtered, smooth_noise
from bertswin_ext.voxels import AIR_HU

__all__ = ["fill_with_tissue"]

_CANAL_HU, _ENAMEL_HU = 20.0, 2500.0
_GAP_MM = {MANDIBLE: 2.0, SKULL: 3.0}  # holes in the wall of a hollow that do not open it


def fill_with_tissue(jaw: JawMap, rng: np.random.Generator) -> Tensor:
    """True Hounsfield units of a head around a jaw.

    Bone gets a cortex of about a millimetre over textured trabeculae, teeth their enamel, the nerve canal soft tissue.
    Closed hollows that the map leaves out become marrow in the mandible and air cells in the skull.

    Args:
        jaw: the map.
        rng: source of textures and of each tissue's density; the same state gives the same head.

    Returns:
        The units, float32 (i, j, k).

    Source: ours, after common CT densities; see the tests for the ranges.

    Example:
        >>> from bertswin_ext.data.phantoms.jaw_map import read_jaw_map
        >>> label = np.zeros((24, 24, 24), np.uint8)
        >>> label[8:16, 8:16, 8:16] = 2
        >>> hu = fill_with_tissue(read_jaw_map(label, np.eye(4)), np.random.default_rng(0))
        >>> bool(hu[8, 12, 12] > 700), bool(hu[12, 12, 12] < 700)
        (True, True)
    """
    hu = _soft_tissue(jaw, rng)
    for bone in (SKULL, MANDIBLE):
        if (jaw.label == bone).any():
            _paint_bone(hu, jaw, bone, rng)
    if jaw.tooth.any():
        _paint_teeth(hu, jaw, rng)
    if jaw.canal.any():
        _paint_canal(hu, jaw)
    return hu


def _soft_tissue(jaw: JawMap, rng: np.random.Generator) -> Tensor:
    """Air, skin, the fat below it, muscles and fat between them."""
    inside = -skin_distance(jaw.label > 0, jaw.label == MANDIBLE, jaw.affine)
    slow, planes = (smooth_noise(rng, jaw.label.shape, jaw.spacing, wave_mm) for wave_mm in (24.0, 14.0))
    fat, skin, layer = rng.uniform(-98.0, -84.0), rng.uniform(20.0, 45.0), rng.uniform(3.0, 6.0)
    hu = slow.mul(6.0).add_(rng.uniform(42.0, 48.0)).clamp_(30.0, 60.0)
    # fat between the muscles, at most 30 mm deep
    depot = torch.sigmoid(planes.mul_(5.0).sub_(4.0)).mul_(((30.0 - inside) / 10.0).clamp_(0.0, 1.0))
    hu = torch.lerp(hu, hu.new_tensor(fat), depot)
    hu = _over(hu, fat, inside - (layer + 1.8 + slow.clamp(-2.0, 2.0)), jaw.spacing, 2.0)
    hu = _over(hu, skin, inside - 1.8, jaw.spacing)
    return _over(hu, AIR_HU, inside, jaw.spacing)


def _paint_bone(hu: Tensor, jaw: JawMap, bone: int, rng: np.random.Generator) -> None:
    """Paint cortex and trabeculae, and what is in the hollows."""
    box = bounding_box(jaw.label == bone)
    body = jaw.label[box] == bone
    hollow = hollows(body, jaw.spacing, _GAP_MM[bone])
    depth = surface_distance(body | hollow if bone == MANDIBLE else body, jaw.spacing).neg_()
    texture = smooth_noise(rng, body.shape, jaw.spacing, 2.4)
    cortex, trabeculae = rng.uniform(1330.0, 1480.0), rng.uniform(400.0, 500.0)
    inner = texture.mul(160.0).add_(trabeculae).clamp_(150.0, 800.0)
    painted = _over(inner, cortex, depth - rng.uniform(0.9, 1.3), jaw.spacing)
    here = hu[box]
    torch.lerp(here, painted, _share(-depth, jaw.spacing), out=here)
    if hollow.any():
        content = _hollow_content(texture, bone, jaw.spacing, rng)
        torch.lerp(here, content, _share(surface_distance(hollow, jaw.spacing), jaw.spacing), out=here)


def _hollow_content(texture: Tensor, bone: int, spacing: Sequence[float], rng: np.random.Generator) -> Tensor:
    """Marrow, and in the skull air cells in it."""
    marrow = texture.mul_(90.0).add_(rng.uniform(60.0, 160.0))
    if bone == MANDIBLE:
        return marrow
    cells = smooth_noise(rng, texture.shape, spacing, 8.0).mul_(4.0).add_(rng.uniform(1.0, 4.0)).sigmoid_()
    return torch.lerp(marrow, marrow.new_tensor(AIR_HU), cells)


def _paint_teeth(hu: Tensor, jaw: JawMap, rng: np.random.Generator) -> None:
    """Paint dentine, and a millimetre of enamel where no bone is near."""
    box = bounding_box(jaw.tooth)
    outside = surface_distance(jaw.tooth[box], jaw.spacing)
    rooted = (jaw.label[box] > 0) & ~jaw.tooth[box]
    crown = 1.0 - filtered(torch.from_numpy(rooted).float(), [1.5 / mm for mm in jaw.spacing]).mul_(8.0).clamp_(max=1.0)
    dentine = smooth_noise(rng, rooted.shape, jaw.spacing, 3.0).mul_(40.0).add_(rng.uniform(1850.0, 2000.0))
    enamel = crown.mul_(_share(-outside - 1.0, jaw.spacing))
    hu[box] = _over(hu[box], torch.lerp(dentine, dentine.new_tensor(_ENAMEL_HU), enamel), outside, jaw.spacing)


def _paint_canal(hu: Tensor, jaw: JawMap) -> None:
    """Paint the soft tissue of the nerve canals."""
    box = bounding_box(jaw.canal)
    hu[box] = _over(hu[box], _CANAL_HU, surface_distance(jaw.canal[box], jaw.spacing), jaw.spacing)


def _share(distance: Tensor, spacing: Sequence[float], edge_mm: float = 0.0) -> Tensor:
    """Share of a voxel that lies inside a surface, which is blurred over 1.5 voxels or more."""
    return (0.5 - distance / max(edge_mm, 0.5 * sum(spacing))).clamp_(0.0, 1.0)


def _over(
    hu: Tensor, tissue: Tensor | float, distance: Tensor, spacing: Sequence[float], edge_mm: float = 0.0
) -> Tensor:
    """Paint a tissue over another where the distance is negative."""
    end = tissue if isinstance(tissue, Tensor) else hu.new_tensor(tissue)
    return torch.lerp(hu, end, _share(distance, spacing, edge_mm))
