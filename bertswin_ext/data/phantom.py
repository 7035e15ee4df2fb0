"""Cone-beam CT phantoms of the temporomandibular joint: a drawn anatomy and a scanner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bertswin_ext.data.phantom_anatomy import Anatomy, Points, draw_anatomy, render
from bertswin_ext.voxels import AIR_HU

__all__ = ["FILL_HU", "FOV_RADIUS_MM", "Phantom", "make_phantom"]

FILL_HU = -1000.0
FOV_RADIUS_MM = 88.0
GENERATOR_VERSION = 1  # raise it whenever the same seed gives other voxels
_VOXELS_AT_ONCE = 1 << 17
_SMALLEST_SIZE = 16
_LARGEST_TILT_DEG = 30.0
_STREAMS = {"anatomy": 0, "position": 1, "grid": 2, "scanner": 3, "noise": 4}

Array = npt.NDArray[np.float64]
Side = Literal["left", "right"]


@dataclass(frozen=True)
class Phantom:
    """One joint as a scanner sees it.

    Attributes:
        image: Hounsfield units, float32 (i, j, k).
        label: uint8 (i, j, k): 0 background, 1 mandible, 2 skull; 0 outside the field of view.
        affine: voxel to RAS world in mm, (4, 4). The scanner's vertical axis is the world's third axis.
        joint_center_mm: RAS world position of the joint: the middle of the joint space over the condyle.
        side: ``"left"`` or ``"right"``.
    """

    image: npt.NDArray[np.float32]
    label: npt.NDArray[np.uint8]
    affine: Array
    joint_center_mm: tuple[float, float, float]
    side: Side


@dataclass(frozen=True)
class _Scanner:
    """Where the patient stands in the scanner and what it does to the image; lengths in mm, world of a right joint."""

    joint_center: Array
    pose: Array  # (3, 3), joint frame to world, size of the patient included
    cupping: float
    streak_hu: float  # 0 without metal
    metal: Array
    streak_phases: Array
    noise_hu: float
    noise_sigmas_vox: tuple[float, float]
    noise_mix: float


def make_phantom(
    seed: int,
    size: int | Sequence[int] = 128,
    spacing_mm: float | Sequence[float] = 0.4,
    side: Side | None = None,
    oblique_deg: float = 0.0,
    noise: bool = True,
    artefacts: bool = True,
) -> Phantom:
    """Make one joint: condyle, neck and ramus under the fossa and eminence of a temporal bone, with soft tissue.

    The anatomy is a function of the world in millimetres and depends on the seed alone: another size or spacing
    samples the same joint. A left joint is the mirror image of the right one of its seed, noise included.

    Args:
        seed: not negative; the same arguments give the same phantom.
        size: voxels per axis, an int or (i, j, k), at least 16. The joint lies within a few mm of the centre.
        spacing_mm: edge of a voxel, a number or (i, j, k).
        side: ``"left"`` or ``"right"``, or None to let the seed choose.
        oblique_deg: the grid is tilted about a random axis by half to all of this angle, 0 to 30. The field of view
            stays upright in the world.
        noise: add correlated noise that grows with the signal.
        artefacts: add cupping, and in a third of the phantoms streaks of distant metal.

    Returns:
        The phantom. Voxels outside a vertical cylinder of 88 mm radius hold -1000 HU and no label.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range; the message names it.

    Source: field of view and noise model after arXiv 2512.21769; the anatomy is drawn from textbook dimensions.

    Example:
        >>> phantom = make_phantom(seed=0, size=32, spacing_mm=1.2)
        >>> phantom.image.shape, phantom.side
        ((32, 32, 32), 'right')
    """
    check_not_negative("seed", seed)
    shape, spacing = checked_sizes(size), checked_spacings(spacing_mm)
    _check_side(side)
    check_tilt(oblique_deg)

    anatomy = draw_anatomy(_rng(seed, "anatomy"))
    drawn, scanner = _draw_scanner(seed)
    affine = _place_grid(seed, shape, spacing, oblique_deg, scanner.joint_center)
    grain = _grain(_rng(seed, "noise"), shape, scanner) if noise else None
    image, label = _scan(anatomy, scanner, affine, shape, spacing, grain, artefacts)

    right = Phantom(image.numpy(), label.numpy(), affine, _as_point(scanner.joint_center), "right")
    return _mirrored(right) if (side or drawn) == "left" else right


# --- drawing ---


def _rng(seed: int, stream: str) -> np.random.Generator:
    return np.random.default_rng((seed, _STREAMS[stream]))


def _draw_scanner(seed: int) -> tuple[Side, _Scanner]:
    """Side, position and pose of the patient; strength of what disturbs the image."""
    rng = _rng(seed, "position")
    side: Side = "left" if rng.random() < 0.5 else "right"
    # the joint is 18 to 32 mm inside the rim of the field of view, on the patient's side of the scanner's axis
    radius, angle = FOV_RADIUS_MM - rng.uniform(18.0, 32.0), math.radians(rng.uniform(-15.0, 15.0))
    center = np.array([radius * math.cos(angle), radius * math.sin(angle), rng.uniform(-15.0, 15.0)])
    pose = _rotation(rng, math.radians(rng.uniform(0.0, 8.0))) * rng.uniform(0.94, 1.06)

    rng = _rng(seed, "scanner")
    has_metal = rng.random() < 1 / 3
    return side, _Scanner(
        joint_center=center,
        pose=pose,
        cupping=rng.uniform(0.02, 0.06),
        streak_hu=rng.uniform(50.0, 130.0) * has_metal,
        metal=center + np.array([rng.uniform(-40.0, -15.0), rng.uniform(45.0, 65.0), rng.uniform(-15.0, 5.0)]),
        streak_phases=rng.uniform(0.0, 2.0 * math.pi, size=4),
        noise_hu=rng.uniform(35.0, 80.0),
        noise_sigmas_vox=(rng.uniform(0.7, 1.2), rng.uniform(1.8, 2.5)),
        noise_mix=rng.uniform(0.4, 0.8),
    )


def _rotation(rng: np.random.Generator, angle: float) -> Array:
    """Rotation by ``angle`` about a random axis (Rodrigues' formula)."""
    x, y, z = (axis := rng.standard_normal(3)) / np.linalg.norm(axis)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    turned: Array = np.eye(3) + math.sin(angle) * cross + (1.0 - math.cos(angle)) * cross @ cross
    return turned


def _place_grid(
    seed: int, shape: tuple[int, ...], spacing: tuple[float, ...], oblique_deg: float, joint_center: Array
) -> Array:
    """Affine of a grid around the joint: off by up to 3 mm or an eighth of its extent, tilted if asked to."""
    rng = _rng(seed, "grid")
    extent = np.multiply(shape, spacing)
    center = joint_center + rng.uniform(-1.0, 1.0, size=3) * np.minimum(3.0, extent / 8.0)
    axes = np.diag(spacing)
    if oblique_deg > 0:
        axes = _rotation(rng, math.radians(oblique_deg * rng.uniform(0.5, 1.0))) @ axes
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = center - axes @ ((np.array(shape) - 1) / 2)
    return affine


def _mirrored(right: Phantom) -> Phantom:
    """The same joint on the left: world and first array axis are both reversed, so the affine keeps its handedness."""
    affine = right.affine.copy()
    affine[:3, 3] += affine[:3, 0] * (right.image.shape[0] - 1)
    affine[:3, 0] *= -1.0
    affine[0] *= -1.0
    x, y, z = right.joint_center_mm
    image, label = np.ascontiguousarray(right.image[::-1]), np.ascontiguousarray(right.label[::-1])
    return Phantom(image, label, affine, (-x, y, z), "left")


# --- scanning ---


def _scan(
    anatomy: Anatomy,
    scanner: _Scanner,
    affine: Array,
    shape: tuple[int, int, int],
    spacing: tuple[float, ...],
    grain: Tensor | None,
    artefacts: bool,
) -> tuple[Tensor, Tensor]:
    """Sample the joint slab by slab, so that memory holds little more than the result."""
    image = torch.empty(shape, dtype=torch.float32)
    label = torch.empty(shape, dtype=torch.uint8)
    step = max(1, _VOXELS_AT_ONCE // (shape[1] * shape[2]))
    edge_mm = max(0.25, float(np.mean(spacing)))
    to_joint = np.linalg.inv(scanner.pose)
    for start in range(0, shape[0], step):
        slab = slice(start, min(start + step, shape[0]))
        world = _coordinates(affine[:3, :3], affine[:3, 3], slab, shape)
        offset = to_joint @ (affine[:3, 3] - scanner.joint_center)
        tissue = render(Points(*_coordinates(to_joint @ affine[:3, :3], offset, slab, shape)), anatomy, edge_mm)
        hu = _with_artefacts(tissue.hu, world, scanner) if artefacts else tissue.hu
        if grain is not None:
            hu = hu + grain[slab] * _noise_level(hu, scanner)
        seen = world[0].square() + world[1].square() <= FOV_RADIUS_MM**2
        image[slab] = torch.where(seen, hu, FILL_HU)
        label[slab] = tissue.label * seen
    return image, label


def _coordinates(matrix: Array, offset: Array, slab: slice, shape: tuple[int, int, int]) -> list[Tensor]:
    """``matrix @ (i, j, k) + offset`` of the voxels of a slab, one float32 tensor per coordinate."""
    i = torch.arange(slab.start, slab.stop, dtype=torch.float64)[:, None, None]
    j = torch.arange(shape[1], dtype=torch.float64)[None, :, None]
    k = torch.arange(shape[2], dtype=torch.float64)[None, None, :]
    rows = zip(matrix.tolist(), offset.tolist(), strict=True)
    return [(i * m[0] + t + j * m[1]).float() + (k * m[2]).float() for m, t in rows]


def _with_artefacts(hu: Tensor, world: Sequence[Tensor], scanner: _Scanner) -> Tensor:
    """Cupping lowers what lies near the scanner's axis; streaks fan out from metal, in its own slices only."""
    x, y, z = world
    rim = (x.square() + y.square()) / FOV_RADIUS_MM**2
    hu = (hu - AIR_HU) * (1.0 - scanner.cupping * (1.0 - rim)) + AIR_HU
    if scanner.streak_hu == 0:
        return hu
    metal = scanner.metal.tolist()
    dx, dy = x - metal[0], y - metal[1]
    angle, distance = torch.atan2(dy, dx), (dx.square() + dy.square()).sqrt()
    # products of waves around the metal are narrow rays of uneven strength
    waves = [torch.cos(m * angle + p) for m, p in zip((11, 17, 29, 43), scanner.streak_phases.tolist(), strict=True)]
    rays = waves[0] * waves[1] + waves[2] * waves[3]
    level = torch.exp((z - metal[2]).square() / (-2.0 * 5.0**2))
    return hu + scanner.streak_hu * rays * level * (45.0 / (distance + 10.0))


def _noise_level(hu: Tensor, scanner: _Scanner) -> Tensor:
    """Standard deviation in HU: bone is noisier than air because fewer photons pass it."""
    return scanner.noise_hu * torch.exp(0.0004 * hu.clamp(-1000.0, 2000.0))


def _grain(rng: np.random.Generator, shape: tuple[int, int, int], scanner: _Scanner) -> Tensor:
    """A mix of fine and coarse correlated noise, of about unit deviation."""
    fine, coarse = (
        _blurred(torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)), sigma)
        for sigma in scanner.noise_sigmas_vox
    )
    mix = scanner.noise_mix
    return fine.mul_(mix).add_(coarse, alpha=1.0 - mix).div_(math.hypot(mix, 1.0 - mix))


def _blurred(white: Tensor, sigma_vox: float) -> Tensor:
    """Periodic Gaussian filter that keeps white noise at unit deviation."""
    radius = math.ceil(3.0 * sigma_vox)
    kernel = [math.exp(-0.5 * (t / sigma_vox) ** 2) for t in range(-radius, radius + 1)]
    norm = math.sqrt(sum(w * w for w in kernel))
    for axis, n in enumerate(white.shape):
        padded = torch.cat([white.narrow(axis, n - radius, radius), white, white.narrow(axis, 0, radius)], axis)
        white = torch.zeros_like(white)
        for t, weight in enumerate(kernel):
            white.add_(padded.narrow(axis, t, n), alpha=weight / norm)
    return white


# --- checks ---


def _as_point(values: Array) -> tuple[float, float, float]:
    return cast(tuple[float, float, float], tuple(float(v) for v in values))


def _is_number(value: object, whole: bool) -> bool:
    kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    return isinstance(value, kinds) and not isinstance(value, bool)


def _three(name: str, value: object, whole: bool) -> tuple[Any, Any, Any]:
    """Repeat a number for three axes, or take three numbers."""
    entries = tuple(value) if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) else (value,) * 3
    kind, example = ("an int", "128 or (128, 128, 96)") if whole else ("a number", "0.4 or (0.4, 0.4, 0.5)")
    if len(entries) != 3 or not all(_is_number(entry, whole) for entry in entries):
        raise TypeError(f"`{name}` must be {kind} or three of them (i, j, k), got {value!r}. Use {example}.")
    return entries


def checked_sizes(value: object) -> tuple[int, int, int]:
    """Voxels per axis, from one number or three."""
    i, j, k = (int(n) for n in _three("size", value, whole=True))
    if min(i, j, k) < _SMALLEST_SIZE:
        raise ValueError(f"`size` must be at least {_SMALLEST_SIZE} voxels per axis, got {value}. Use 128, say.")
    return i, j, k


def checked_spacings(value: object) -> tuple[float, float, float]:
    """Edges of a voxel in mm, from one number or three."""
    i, j, k = (float(mm) for mm in _three("spacing_mm", value, whole=False))
    if not all(0.0 < mm < 10.0 for mm in (i, j, k)):
        raise ValueError(f"`spacing_mm` must be above 0 and below 10 mm per axis, got {value}. Use 0.4, say.")
    return i, j, k


def _check_side(side: object) -> None:
    if side not in (None, "left", "right"):
        raise ValueError(f'`side` must be "left", "right" or None, got {side!r}. Leave it out to let the seed choose.')


def check_tilt(oblique_deg: object) -> None:
    """Refuse an angle that is no number or out of range."""
    if not _is_number(oblique_deg, whole=False):
        raise TypeError(f"`oblique_deg` must be a number, got {oblique_deg!r}. Use 0 for a straight grid.")
    if not 0.0 <= cast(float, oblique_deg) <= _LARGEST_TILT_DEG:
        raise ValueError(
            f"`oblique_deg` must be from 0 to {_LARGEST_TILT_DEG:g} degrees, got {oblique_deg}. "
            "Use 0 for a straight grid, 10 for a clear tilt."
        )


def check_not_negative(name: str, value: object) -> None:
    """Refuse what is no int or below 0."""
    if not _is_number(value, whole=True):
        raise TypeError(f"`{name}` must be an int, got {value!r}. Use 0, say.")
    if cast(int, value) < 0:
        raise ValueError(f"`{name}` must not be negative, got {value}. Use 0, say.")
