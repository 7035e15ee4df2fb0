"""What may be wrong with the values of a coarse scan: scale, offset, shading, thick slices, blur, noise, metal."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bertswin_ext.voxels import AIR_HU, VOXELS

__all__ = ["Disturbance", "disturbed", "draw_disturbance"]

_LATTICE = 4


class Disturbance(NamedTuple):
    """How much of everything.

    Attributes:
        scale: factor of the distance from air.
        bone_scale: further factor of what is above 150 HU.
        offset_hu: is added.
        shading_hu: deviation of a smooth shading.
        noise_hu: deviation of noise.
        slices: voxels along ``axis`` that are one thick slice.
        axis: of the thick slices.
        blur: share of the neighbours' mean.
        metal: number of spots of metal.
    """

    scale: float
    bone_scale: float
    offset_hu: float
    shading_hu: float
    noise_hu: float
    slices: int
    axis: int
    blur: float
    metal: int


def draw_disturbance(rng: np.random.RandomState) -> Disturbance:
    """Draw a disturbance; a third of the scans have none of the rarer ones."""
    return Disturbance(
        scale=float(rng.uniform(0.85, 1.15)),
        bone_scale=float(rng.uniform(0.5, 1.4)),
        offset_hu=float(rng.normal(0.0, 50.0)),
        shading_hu=float(rng.exponential(30.0)),
        noise_hu=float(rng.exponential(30.0)),
        slices=int(rng.choice([1, 1, 1, 1, 2, 3])),
        axis=int(rng.choice([0, 1, 2, 2, 2])),
        blur=float(rng.uniform(0.0, 0.7)),
        metal=int(rng.choice([0, 0, 0, 0, 2, 6])),
    )


def disturbed(image: Tensor, how: Disturbance, rng: np.random.RandomState) -> Tensor:
    """A disturbed copy of a volume (1, i, j, k) in HU, within the window of the networks.

    Example:
        >>> none = Disturbance(1.0, 1.0, 0.0, 0.0, 0.0, 1, 0, 0.0, 0)
        >>> disturbed(torch.full((1, 8, 8, 8), 40.0), none, np.random.RandomState(0)).unique().tolist()
        [40.0]
    """
    image = image.clamp(VOXELS.min_hu, VOXELS.max_hu)
    image = _with_metal(image, how.metal, rng)
    image = torch.lerp(image, F.avg_pool3d(image[None], 3, stride=1, padding=1, count_include_pad=False)[0], how.blur)
    image = _in_slices(image, how.slices, how.axis)
    dense = (image - 150.0).clamp(min=0.0)
    image = (image + (how.bone_scale - 1.0) * dense - AIR_HU) * how.scale + AIR_HU + how.offset_hu
    coarse = torch.from_numpy(rng.standard_normal((1, 1, *(_LATTICE,) * 3)).astype(np.float32)) * how.shading_hu
    shading = F.interpolate(coarse, tuple(image.shape[1:]), mode="trilinear", align_corners=True)[0]
    grain = torch.from_numpy(rng.standard_normal(tuple(image.shape)).astype(np.float32))
    return (image + shading + grain * how.noise_hu).clamp(VOXELS.min_hu, VOXELS.max_hu)


def _in_slices(image: Tensor, slices: int, axis: int) -> Tensor:
    """Means over some voxels along one axis, repeated or interpolated between."""
    if slices == 1:
        return image
    kernel = [slices if a == axis else 1 for a in range(3)]
    thick = F.avg_pool3d(image[None], kernel, ceil_mode=True)
    return F.interpolate(thick, tuple(image.shape[1:]), mode="trilinear")[0]


def _with_metal(image: Tensor, count: int, rng: np.random.RandomState) -> Tensor:
    """Spots of metal with streaks in their own slices."""
    image = image.clone()
    size = np.array(image.shape[1:])
    for _ in range(count):
        i, j, k = (rng.random_sample(3) * size).astype(int).tolist()
        streaks = torch.from_numpy(rng.standard_normal((2, *size[:2])).astype(np.float32))
        image[0, :, j, k] += 250.0 * streaks[0, :, 0]
        image[0, i, :, k] += 250.0 * streaks[1, 0, :]
        image[0, i, j, k] = VOXELS.max_hu
    return image
