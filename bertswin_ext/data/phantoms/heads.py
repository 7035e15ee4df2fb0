"""Whole heads for the joint locator: two drawn joints in a head of simple solids, at a coarse resolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bertswin_ext.data.phantoms.head_parts import HeadShape, draw_head_shape, paint_face, paint_neck, paint_skull, skin
from bertswin_ext.data.phantoms.phantom_anatomy import Anatomy, Points, draw_anatomy, render
from bertswin_ext.data.phantoms.phantom_scanner import Shape, coordinates, smooth_noise
from bertswin_ext.data.phantoms.solids import ellipsoid, painted
from bertswin_ext.geometry import Floats
from bertswin_ext.voxels import AIR_HU

__all__ = ["Head", "head_grid", "make_head", "render_head"]

_LOW_MM, _HIGH_MM = (-100.0, -135.0, -170.0), (100.0, 125.0, 145.0)
_JOINT_RADII = (34.0, 36.0, 34.0)  # what of a drawn joint goes into the head
_SEAM_MM = 8.0


@dataclass(frozen=True)
class Head:
    """A head, or a part of a body, for training the locator.

    Attributes:
        image: Hounsfield units, float32 (i, j, k).
        affine: voxel to RAS world in mm, (4, 4).
        joints: RAS world positions of its joints by side; empty without any.
    """

    image: npt.NDArray[np.float32]
    affine: Floats
    joints: dict[str, tuple[float, float, float]]


def make_head(seed: int, spacing_mm: float = 2.5) -> Head:
    """Make a whole head with both joints, coarse and without noise.

    The joints are those of `make_phantom`; skull, face, jaw, teeth, neck and skin about them are simple solids of
    random sizes and densities. It is made to train the coarse pass that finds joints, and for nothing finer.

    Args:
        seed: not negative; the same seed gives the same head at any spacing, but for its textures.
        spacing_mm: edge of a voxel.

    Returns:
        The head. The joints are level with z = 0 in the world, the middle between them is at x = y = 0.

    Source: ours, from textbook dimensions; no measured head is behind it.

    Example:
        >>> head = make_head(seed=0, spacing_mm=8.0)
        >>> head.image.shape, sorted(head.joints)
        ((25, 33, 39), ['left', 'right'])
    """
    affine, shape = head_grid(spacing_mm)
    points = Points(*coordinates(affine[:3, :3], affine[:3, 3], slice(0, shape[0]), shape))
    rng = np.random.default_rng((seed, 7))
    head = draw_head_shape(rng)
    image = render_head(points, head, rng, spacing_mm)
    for side in (-1.0, 1.0):
        image = _with_joint(image, points, side * head.joint_x, draw_anatomy(rng), spacing_mm)
    places = {"left": (-head.joint_x, 0.0, 0.0), "right": (head.joint_x, 0.0, 0.0)}
    return Head(image.numpy(), affine, places)


def head_grid(spacing_mm: float) -> tuple[Floats, Shape]:
    """Affine and shape of an upright grid that holds a head.

    Example:
        >>> head_grid(10.0)[1]
        (20, 26, 32)
    """
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = _LOW_MM
    size = ((high - low) / spacing_mm for low, high in zip(_LOW_MM, _HIGH_MM, strict=True))
    return affine, cast(Shape, tuple(int(n + 0.5) for n in size))


def render_head(points: Points, head: HeadShape, rng: np.random.Generator, edge_mm: float) -> Tensor:
    """Hounsfield units of a head without its joints.

    Args:
        points: in the frame of the head: the middle between the joints is the origin.
        head: its sizes and densities.
        rng: source of the textures.
        edge_mm: width over which surfaces are blurred, about a voxel.
    """
    planes = smooth_noise(rng, points.l.shape, (edge_mm,) * 3, 14.0)
    hu = torch.lerp(torch.full_like(planes, head.fat_hu), planes.new_tensor(head.muscle_hu), planes.mul(3).sigmoid())
    outside = skin(points, head)
    hu = painted(hu, head.fat_hu, -(outside + head.fat_layer), edge_mm)
    hu = paint_neck(hu, points, head, edge_mm)
    hu = paint_skull(hu, points, head, rng, edge_mm)
    hu = paint_face(hu, points, head, edge_mm)
    return painted(hu, AIR_HU, -outside, edge_mm)


def _with_joint(image: Tensor, points: Points, joint_x: float, anatomy: Anatomy, edge_mm: float) -> Tensor:
    """The head with one drawn joint in it; a negative position is the left one's."""
    side = 1.0 if joint_x > 0 else -1.0
    own = Points(points.l * side - abs(joint_x), points.a, points.s)
    joint = render(own, anatomy, edge_mm).hu
    inside = ellipsoid(own, (-2.0, 2.0, -6.0), _JOINT_RADII)
    # beyond the joint's own skin the head has the say
    share = (-inside / _SEAM_MM).clamp(0.0, 1.0) * (joint > 0.5 * AIR_HU)
    return torch.lerp(image, joint, share)
