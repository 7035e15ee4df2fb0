"""How semi-synthetic scans of one label map may differ: the shape of the head, density, sharpness and noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor

from bertswin_ext.data.phantoms.jaw_map import JawMap
from bertswin_ext.data.phantoms.phantom_scanner import NOISE_HU, filtered, smooth_noise

__all__ = ["NO_VARIATION", "Variation", "blurred", "deformed", "regridded", "thinned"]

_WAVE_MM = 80.0
_DENSE_HU = 100.0
_STRETCHED_MM = 40.0
_LARGEST_DEFORM_MM = 6.0  # beyond it the waves begin to fold the head


@dataclass(frozen=True)
class Variation:
    """How far scans of one label map may differ.

    Attributes:
        spacing_mm: edge of the scans' voxels; None for the map's own voxels. Larger ones make a scan quicker.
        deform_mm: standard deviation of a smooth displacement of the anatomy along every axis, with waves of 80 mm;
            every axis is stretched besides, by at most as much 40 mm from the middle. 0 to 6; 0 for the map's own
            anatomy.
        blur_mm: largest standard deviation of the blur of the head that the scanner sees, the same in all directions.
        noise_hu: smallest and largest standard deviation of the noise in water.
        density: smallest and largest factor of what bones and teeth have above 100 HU.

    Raises:
        ValueError: a number is out of range; the message names it.

    Example:
        >>> Variation(deform_mm=3.0).noise_hu
        (35.0, 80.0)
    """

    spacing_mm: float | None = None
    deform_mm: float = 0.0
    blur_mm: float = 0.0
    noise_hu: Sequence[float] = NOISE_HU
    density: Sequence[float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        """Refuse what no scan can be drawn with."""
        if self.spacing_mm is not None and not 0.0 < self.spacing_mm < math.inf:
            raise ValueError(f"`spacing_mm` must be a positive number of millimetres, got {self.spacing_mm}.")
        if not 0.0 <= self.deform_mm <= _LARGEST_DEFORM_MM:
            raise ValueError(f"`deform_mm` must be from 0 to {_LARGEST_DEFORM_MM:g} mm, got {self.deform_mm}.")
        if not 0.0 <= self.blur_mm < math.inf:
            raise ValueError(f"`blur_mm` must be finite and not negative, got {self.blur_mm}.")
        for name, ends in (("noise_hu", tuple(self.noise_hu)), ("density", tuple(self.density))):
            if len(ends) != 2 or not 0.0 <= ends[0] <= ends[1] < math.inf:
                raise ValueError(f"`{name}` must be two numbers, 0 <= smallest <= largest, got {ends}.")


NO_VARIATION = Variation()
"""The map's own anatomy, neither blurred nor thinned, with a cone-beam scanner's noise."""


def regridded(jaw: JawMap, spacing_mm: float | None) -> JawMap:
    """A jaw in voxels of another size, each with the tissue of the voxel that its middle lies in.

    Args:
        jaw: the map; the first voxel's middle stays where it is.
        spacing_mm: edge of the new voxels; with None the map itself is returned.

    Example:
        >>> from bertswin_ext.data.phantoms.jaw_map import read_jaw_map
        >>> label = np.full((40, 40, 40), 2, np.uint8)
        >>> coarse = regridded(read_jaw_map(label, np.diag([0.5, 0.5, 1.0, 1.0])), 0.8)
        >>> coarse.label.shape, np.diag(coarse.affine).tolist()
        ((25, 25, 50), [0.8, 0.8, 0.8, 1.0])
    """
    if spacing_mm is None:
        return jaw
    steps = [spacing_mm / mm for mm in jaw.spacing]
    kept = np.ix_(
        *(np.rint(np.arange(0.0, n - 0.5, step)).astype(int) for n, step in zip(jaw.label.shape, steps, strict=True))
    )
    affine = jaw.affine @ np.diag([*steps, 1.0])
    return JawMap(jaw.label[kept], jaw.tooth[kept], jaw.canal[kept], affine)


def deformed(jaw: JawMap, deform_mm: float, rng: np.random.Generator) -> JawMap:
    """A jaw of another shape on the same grid.

    Args:
        jaw: the map; what it cuts off is taken to go on outside.
        deform_mm: how far, see `Variation`; with 0 the map itself is returned, and nothing is drawn.
        rng: source of the shape.

    Source: ours; waves of 80 mm are much longer than a condyle, so that a joint keeps its parts and their order.

    Example:
        >>> from bertswin_ext.data.phantoms.jaw_map import read_jaw_map
        >>> label = np.zeros((32, 32, 32), np.uint8)
        >>> label[8:24, 8:24, 8:24] = 2
        >>> other = deformed(read_jaw_map(label, np.diag([2.0, 2.0, 2.0, 1.0])), 3.0, np.random.default_rng(0))
        >>> other.label.shape, bool(other.label[16, 16, 16] == 1), bool((other.label != label // 2).any())
        ((32, 32, 32), True, True)
    """
    if deform_mm == 0.0:
        return jaw
    source = _sources(jaw.label.shape, jaw.spacing, deform_mm, rng)
    return JawMap(jaw.label.ravel()[source], jaw.tooth.ravel()[source], jaw.canal.ravel()[source], jaw.affine)


def blurred(hu: Tensor, spacing_mm: Sequence[float], sigma_mm: float) -> Tensor:
    """A volume, blurred; beyond its ends it is taken to go on as it ends.

    Args:
        hu: float32 (i, j, k).
        spacing_mm: edges of a voxel along i, j, k.
        sigma_mm: standard deviation of the blur; with 0 the volume itself is returned.

    Example:
        >>> import torch
        >>> step = torch.arange(8.0).gt(3).float().mul(100)[:, None, None].expand(8, 8, 8)
        >>> blurred(step, (1.0, 1.0, 1.0), 1.0)[2:6, 4, 4].round().tolist()
        [6.0, 30.0, 70.0, 94.0]
    """
    if sigma_mm == 0.0:
        return hu
    sigmas = [sigma_mm / mm for mm in spacing_mm]
    room = [min(n - 1, math.ceil(3.0 * sigma)) for n, sigma in zip(hu.shape, sigmas, strict=True)]
    wide = F.pad(hu[None, None], [n for n in room[::-1] for _ in range(2)], mode="replicate")[0, 0]
    return filtered(wide, sigmas)[tuple(slice(n, -n or None) for n in room)].contiguous()


def thinned(hu: Tensor, factor: float) -> Tensor:
    """A head whose bones and teeth are denser or less dense: what is above 100 HU is multiplied.

    Args:
        hu: float32, any shape; with a factor of 1 the tensor itself is returned.
        factor: of what is above 100 HU.

    Example:
        >>> import torch
        >>> thinned(torch.tensor([-1000.0, 40.0, 1100.0]), 0.5)
        tensor([-1000.,    40.,   600.])
    """
    return hu if factor == 1.0 else hu + (hu - _DENSE_HU).clamp_(min=0.0).mul_(factor - 1.0)


def _sources(
    shape: Sequence[int], spacing_mm: Sequence[float], deform_mm: float, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """For every voxel the flat index of the one that it takes its tissue from."""
    flat = np.zeros(shape, dtype=np.int64)
    for axis, (n, mm) in enumerate(zip(shape, spacing_mm, strict=True)):
        stretch = 1.0 + rng.uniform(-1.0, 1.0) * deform_mm / _STRETCHED_MM
        shift = smooth_noise(rng, shape, spacing_mm, _WAVE_MM).mul_(deform_mm / mm).numpy()
        steps = (np.arange(n, dtype=np.float32) - (n - 1) / 2) * stretch + (n - 1) / 2
        shift += np.expand_dims(steps, tuple(other for other in range(3) if other != axis))
        flat *= n
        flat += np.rint(shift).astype(np.int64).clip(0, n - 1)
    return flat
