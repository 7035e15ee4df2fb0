"""What a cone-beam CT scanner does to an image: cupping, streaks, noise, and a field of view."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from bertswin_ext.voxels import AIR_HU

__all__ = [
    "FILL_HU",
    "FOV_RADIUS_MM",
    "NOISE_HU",
    "Scanner",
    "coordinates",
    "draw_grain",
    "draw_scanner",
    "filtered",
    "scan",
    "scan_volume",
    "slabs",
    "smooth_noise",
]

FILL_HU = -1000.0
FOV_RADIUS_MM = 88.0
NOISE_HU = (35.0, 80.0)
"""Smallest and largest standard deviation of a scanner's noise in water."""
_VOXELS_AT_ONCE = 1 << 17

Array = npt.NDArray[np.float64]
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Scanner:
    """Where a scanner stands and how it disturbs what it sees.

    Attributes:
        cupping: share of its density that matter on the scanner's axis loses; none is lost at the rim.
        streak_hu: strength of the streaks, 0 without metal.
        metal_mm: world position from which streaks fan out, (3,).
        streak_phases: of the four waves that make the rays, in radians.
        noise_hu: standard deviation of the noise in water.
        noise_sigmas_vox: widths of the fine and the coarse grain.
        noise_mix: share of the fine grain.
        axis_mm: where the vertical axis stands, (x, y) of the world.
        radius_mm: of the field of view, a vertical cylinder about the axis.

    Source: arXiv 2512.21769, section 4, for the radius of 88 mm and the two grains (widths 0.7 to 1.2 and 1.8 to
    2.5 voxels, mix 0.4 to 0.8). Cupping and streaks are ours; the noise grows with exp(0.0004 HU), more gently than in
    the paper's augmentation, which comes on top.
    """

    cupping: float
    streak_hu: float
    metal_mm: Array
    streak_phases: Array
    noise_hu: float
    noise_sigmas_vox: tuple[float, float]
    noise_mix: float
    axis_mm: tuple[float, float] = (0.0, 0.0)
    radius_mm: float = FOV_RADIUS_MM


def draw_scanner(
    rng: np.random.Generator,
    place_metal: Callable[[np.random.Generator], Array],
    axis_mm: tuple[float, float] = (0.0, 0.0),
    radius_mm: float = FOV_RADIUS_MM,
    noise_hu: Sequence[float] = NOISE_HU,
) -> Scanner:
    """Draw a scanner; a third of them meet metal.

    Args:
        rng: source of every number; the same state gives the same scanner.
        place_metal: draws a world position for the metal; called for every scanner.
        axis_mm: as in ``Scanner``.
        radius_mm: as in ``Scanner``.
        noise_hu: smallest and largest standard deviation of the noise in water.

    Returns:
        The scanner.

    Example:
        >>> draw_scanner(np.random.default_rng(1), lambda rng: np.zeros(3)).radius_mm
        88.0
    """
    has_metal = rng.random() < 1 / 3
    return Scanner(
        cupping=rng.uniform(0.02, 0.06),
        streak_hu=rng.uniform(50.0, 130.0) * has_metal,
        metal_mm=place_metal(rng),
        streak_phases=rng.uniform(0.0, 2.0 * math.pi, size=4),
        noise_hu=rng.uniform(noise_hu[0], noise_hu[1]),
        noise_sigmas_vox=(rng.uniform(0.7, 1.2), rng.uniform(1.8, 2.5)),
        noise_mix=rng.uniform(0.4, 0.8),
        axis_mm=axis_mm,
        radius_mm=radius_mm,
    )


# --- scanning ---


def scan(
    hu: Tensor, world: Sequence[Tensor], scanner: Scanner, grain: Tensor | None = None, artefacts: bool = True
) -> tuple[Tensor, Tensor]:
    """See voxels through a scanner.

    Args:
        hu: true Hounsfield units.
        world: RAS position of every voxel in mm, one tensor for each of x, y, z.
        scanner: what disturbs the image.
        grain: noise of unit deviation, see ``draw_grain``; None for an image without noise.
        artefacts: add cupping and streaks.

    Shape:
        All tensors have one shape, any.

    Returns:
        The image, -1000 HU outside the field of view, and whether a voxel is inside.

    Example:
        >>> scanner = draw_scanner(np.random.default_rng(1), lambda rng: np.zeros(3))
        >>> water, x, nought = torch.zeros(2), torch.tensor([0.0, 90.0]), torch.zeros(2)
        >>> scan(water, (x, nought, nought), scanner, artefacts=False)
        (tensor([    0., -1000.]), tensor([ True, False]))
    """
    if artefacts:
        hu = _with_streaks(_with_cupping(hu, world, scanner), world, scanner)
    if grain is not None:
        hu = hu + grain * _noise_level(hu, scanner)
    seen = _from_axis_squared(world, scanner) <= scanner.radius_mm**2
    return torch.where(seen, hu, FILL_HU), seen


def scan_volume(
    hu: Tensor, affine: Array, scanner: Scanner, grain: Tensor | None = None, artefacts: bool = True
) -> tuple[Tensor, Tensor]:
    """See a whole volume through a scanner, slab by slab, so that memory holds little more than the result.

    Args:
        hu: true Hounsfield units, float32 (i, j, k).
        affine: voxel to RAS world in mm, (4, 4).
        scanner: as in ``scan``.
        grain: as in ``scan``, of the shape of ``hu``.
        artefacts: as in ``scan``.

    Returns:
        The image and whether a voxel is inside the field of view, as from ``scan``.

    Example:
        >>> scanner = draw_scanner(np.random.default_rng(1), lambda rng: np.zeros(3))
        >>> image, seen = scan_volume(torch.zeros(100, 2, 2), np.eye(4), scanner, artefacts=False)
        >>> int(seen[:, 0, 0].sum())
        89
    """
    shape = (hu.shape[0], hu.shape[1], hu.shape[2])
    image, seen = torch.empty(shape, dtype=torch.float32), torch.empty(shape, dtype=torch.bool)
    for slab in slabs(shape, _VOXELS_AT_ONCE):
        world = coordinates(affine[:3, :3], affine[:3, 3], slab, shape)
        image[slab], seen[slab] = scan(hu[slab], world, scanner, None if grain is None else grain[slab], artefacts)
    return image, seen


def slabs(shape: Shape, voxels: int) -> Iterator[slice]:
    """Slices of the first axis that hold about so many voxels each."""
    step = max(1, voxels // (shape[1] * shape[2]))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def coordinates(matrix: Array, offset: Array, slab: slice, shape: Shape) -> list[Tensor]:
    """``matrix @ (i, j, k) + offset`` of the voxels of a slab, one float32 tensor per coordinate."""
    i = torch.arange(slab.start, slab.stop, dtype=torch.float64)[:, None, None]
    j = torch.arange(shape[1], dtype=torch.float64)[None, :, None]
    k = torch.arange(shape[2], dtype=torch.float64)[None, None, :]
    rows = zip(matrix.tolist(), offset.tolist(), strict=True)
    return [(i * m[0] + t + j * m[1]).float() + (k * m[2]).float() for m, t in rows]


def _from_axis_squared(world: Sequence[Tensor], scanner: Scanner) -> Tensor:
    """Squared distance of every voxel from the scanner's axis."""
    return (world[0] - scanner.axis_mm[0]).square() + (world[1] - scanner.axis_mm[1]).square()


def _with_cupping(hu: Tensor, world: Sequence[Tensor], scanner: Scanner) -> Tensor:
    """Cupping lowers what lies near the scanner's axis."""
    rim = _from_axis_squared(world, scanner) / scanner.radius_mm**2
    return (hu - AIR_HU) * (1.0 - scanner.cupping * (1.0 - rim)) + AIR_HU


def _with_streaks(hu: Tensor, world: Sequence[Tensor], scanner: Scanner) -> Tensor:
    """Streaks fan out from metal, in its own slices only."""
    if scanner.streak_hu == 0:
        return hu
    x, y, z = world
    metal = scanner.metal_mm.tolist()
    dx, dy = x - metal[0], y - metal[1]
    angle, distance = torch.atan2(dy, dx), (dx.square() + dy.square()).sqrt()
    # products of waves around the metal are narrow rays of uneven strength
    waves = [torch.cos(m * angle + p) for m, p in zip((11, 17, 29, 43), scanner.streak_phases.tolist(), strict=True)]
    rays = waves[0] * waves[1] + waves[2] * waves[3]
    level = torch.exp((z - metal[2]).square() / (-2.0 * 5.0**2))
    return hu + scanner.streak_hu * rays * level * (45.0 / (distance + 10.0))


# --- noise ---


def draw_grain(rng: np.random.Generator, shape: Shape, scanner: Scanner) -> Tensor:
    """Draw correlated noise of about unit deviation: a mix of a fine and a coarse grain.

    Args:
        rng: source of the noise.
        shape: of the volume, at least 8 voxels per axis.
        scanner: its widths and its mix.

    Returns:
        The noise, float32, periodic.

    Example:
        >>> scanner = draw_scanner(np.random.default_rng(1), lambda rng: np.zeros(3))
        >>> round(float(draw_grain(np.random.default_rng(0), (32, 32, 32), scanner).std()), 1)
        1.0
    """
    fine, coarse = (
        filtered(torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)), sigma, keep="deviation")
        for sigma in scanner.noise_sigmas_vox
    )
    mix = scanner.noise_mix
    return fine.mul_(mix).add_(coarse, alpha=1.0 - mix).div_(math.hypot(mix, 1.0 - mix))


def filtered(volume: Tensor, sigma_vox: float | Sequence[float], keep: str = "mean") -> Tensor:
    """Periodic Gaussian filter that keeps the mean of a volume, or the deviation of white noise.

    Args:
        volume: any number of axes. The filter ends at three widths, or at the length of the axis.
        sigma_vox: width in voxels, one for all axes or one each.
        keep: ``"mean"`` or ``"deviation"``.

    Returns:
        The filtered volume, a new tensor.

    Example:
        >>> filtered(torch.ones(8), 1.0)[0].round(decimals=3)
        tensor(1.)
    """
    widths = sigma_vox if isinstance(sigma_vox, Sequence) else (sigma_vox,) * volume.ndim
    for axis, (n, sigma) in enumerate(zip(volume.shape, widths, strict=True)):
        radius = min(n, math.ceil(3.0 * sigma))
        kernel = [math.exp(-0.5 * (t / sigma) ** 2) for t in range(-radius, radius + 1)]
        norm = sum(kernel) if keep == "mean" else math.sqrt(sum(w * w for w in kernel))
        padded = torch.cat([volume.narrow(axis, n - radius, radius), volume, volume.narrow(axis, 0, radius)], axis)
        volume = torch.zeros_like(volume)
        for t, weight in enumerate(kernel):
            volume.add_(padded.narrow(axis, t, n), alpha=weight / norm)
    return volume


def smooth_noise(rng: np.random.Generator, shape: Sequence[int], spacing_mm: Sequence[float], wave_mm: float) -> Tensor:
    """Draw a texture of about unit deviation, on a lattice of four points per wave and at most one per voxel.

    Args:
        rng: source of the noise.
        shape: of the volume.
        spacing_mm: edges of a voxel.
        wave_mm: length of its waves, the same in all directions.

    Returns:
        The texture, float32.

    Example:
        >>> smooth_noise(np.random.default_rng(0), (32, 32, 32), (0.5, 0.5, 0.5), wave_mm=3.0).shape
        torch.Size([32, 32, 32])
    """
    lattice = [max(4, math.ceil(n * mm / max(wave_mm / 4.0, mm)) + 1) for n, mm in zip(shape, spacing_mm, strict=True)]
    white = torch.from_numpy(rng.standard_normal(lattice, dtype=np.float32))
    field = filtered(white, 1.0, keep="deviation")[None, None]
    return F.interpolate(field, size=tuple(shape), mode="trilinear", align_corners=True)[0, 0]


def _noise_level(hu: Tensor, scanner: Scanner) -> Tensor:
    """Standard deviation in HU: bone is noisier than air because fewer photons pass it."""
    return scanner.noise_hu * torch.exp(0.0004 * hu.clamp(-1000.0, 2000.0))
