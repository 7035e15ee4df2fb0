"""Volumes that show no joint of a jaw: trunks with spine, ribs and pelvis, and lumps of no shape, for the locator."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bertswin_ext.data.phantoms.heads import Head, head_grid
from bertswin_ext.data.phantoms.phantom_anatomy import Points
from bertswin_ext.data.phantoms.phantom_scanner import Shape, coordinates, smooth_noise
from bertswin_ext.data.phantoms.solids import ellipsoid, painted, plate, rod
from bertswin_ext.voxels import AIR_HU

__all__ = ["make_body"]

_MARROW_SHARE = 0.4


def make_body(seed: int, spacing_mm: float = 2.5) -> Head:
    """Make a volume without a joint: a trunk for even seeds, lumps of bone, flesh and air for odd ones.

    Args:
        seed: not negative; the same seed gives the same volume.
        spacing_mm: edge of a voxel.

    Returns:
        The volume, on the grid of a head.

    Source: ours; it need only look unlike a head.

    Example:
        >>> make_body(seed=0, spacing_mm=10.0).joints
        {}
    """
    affine, shape = head_grid(spacing_mm)
    rng = np.random.default_rng((seed, 8))
    if seed % 2:
        image = _lumps(rng, shape, spacing_mm)
    else:
        image = _trunk(Points(*coordinates(affine[:3, :3], affine[:3, 3], slice(0, shape[0]), shape)), rng, spacing_mm)
    return Head(image.numpy(), affine, {})


def _lumps(rng: np.random.Generator, shape: Shape, edge_mm: float) -> Tensor:
    """Flesh in air, bone in flesh, holes in bone, all without shape."""
    large, middle, small = (smooth_noise(rng, shape, (edge_mm,) * 3, rng.uniform(*w)) for w in _WAVES_MM)
    hu = painted(torch.full_like(large, AIR_HU), 40.0, (rng.uniform(-1.0, 1.0) - large) * 20.0, edge_mm)
    bone = torch.maximum((rng.uniform(0.3, 1.2) - middle) * 10.0, -large * 10.0)
    hu = painted(hu, rng.uniform(500.0, 1500.0), bone, edge_mm)
    return painted(hu, rng.choice([AIR_HU, 40.0, 300.0]), torch.maximum(bone + 3.0, (0.5 - small) * 5.0), edge_mm)


_WAVES_MM = ((80.0, 200.0), (25.0, 60.0), (8.0, 20.0))


def _trunk(p: Points, rng: np.random.Generator, edge_mm: float) -> Tensor:
    """A trunk somewhere between shoulders and hips."""
    bone_hu, width, top = rng.uniform(400.0, 1300.0), rng.uniform(90.0, 180.0), rng.uniform(-120.0, 200.0)
    m = Points(p.l.abs(), p.a, p.s - top)
    slow = smooth_noise(rng, p.l.shape, (edge_mm,) * 3, 40.0)
    hu = torch.lerp(torch.full_like(slow, -90.0), torch.full_like(slow, 50.0), slow.mul(3.0).sigmoid())
    lungs = ellipsoid(m, (0.5 * width, 0.0, 60.0), (0.35 * width, 60.0, 110.0))
    hu = painted(hu, rng.uniform(-900.0, -700.0), lungs, edge_mm)
    bones = torch.minimum(_ribs(m, width), torch.minimum(_spine(m), _pelvis(m, width)))
    hu = painted(hu, bone_hu, bones, edge_mm)
    hu = painted(hu, _MARROW_SHARE * bone_hu, bones + 2.5, edge_mm)
    if rng.random() < 0.3:
        hu = painted(hu, 3000.0, rod(p, (90.0, 0.0, top - 150.0), (70.0, 5.0, top - 90.0), (8.0, 18.0)), edge_mm)
    outside = ellipsoid(m, (0.0, 0.0, 0.0), (width, rng.uniform(85.0, 125.0), 2000.0))
    return painted(hu, AIR_HU, -outside, edge_mm)


def _ribs(m: Points, width: float) -> Tensor:
    """Rings about the lungs."""
    wall = ellipsoid(m, (0.0, 0.0, 60.0), (0.88 * width, 85.0, 170.0)).abs() - 4.0
    every = (torch.remainder(m.s + 0.4 * m.a, 24.0) - 12.0).abs() - 5.0
    return torch.maximum(torch.maximum(wall, every), -30.0 - m.s)


def _spine(m: Points) -> Tensor:
    """Vertebrae with their arches."""
    column = rod(m, (0.0, -50.0, -500.0), (0.0, -50.0, 500.0), (22.0, 16.0))
    spines = plate(m, (0.0, -90.0, 0.0), (5.0, 16.0, 500.0))
    return torch.maximum(torch.minimum(column, spines), (torch.remainder(m.s, 32.0) - 16.0).abs() - 13.0)


def _pelvis(m: Points, width: float) -> Tensor:
    """Blades of the hip, and thigh bones with their heads."""
    blade = torch.maximum(ellipsoid(m, (0.0, 0.0, -70.0), (0.75 * width, 70.0, 80.0)).abs() - 4.0, 30.0 - m.l)
    blade = torch.maximum(blade, m.s + 30.0)
    thigh = rod(m, (0.6 * width, 0.0, -150.0), (0.7 * width, 0.0, -400.0), (16.0, 14.0))
    ball = ellipsoid(m, (0.5 * width, 0.0, -140.0), (23.0, 23.0, 23.0))
    return torch.minimum(blade, torch.minimum(thigh, ball))
