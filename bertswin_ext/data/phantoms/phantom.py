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

from bertswin_ext.data.phantoms.phantom_anatomy import Anatomy, Points, draw_anatomy, render
from bertswin_ext.data.phantoms.phantom_scanner import (
    FILL_HU,
    FOV_RADIUS_MM,
    Scanner,
    coordinates,
    draw_grain,
    draw_scanner,
    scan,
    slabs,
)

__all__ = ["FILL_HU", "FOV_RADIUS_MM", "Phantom", "make_phantom"]

GENERATOR_VERSION = 2  # raise it whenever the same seed gives other voxels, or the datalist other entries
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
class _Patient:
    """How the patient stands in the scanner; lengths in mm, world of a right joint."""

    side: Side
    joint_center: Array
    pose: Array  # (3, 3), joint frame to world, size of the patient included


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
    patient, scanner = _draw_scanner(seed)
    affine = _place_grid(seed, shape, spacing, oblique_deg, patient.joint_center)
    grain = draw_grain(_rng(seed, "noise"), shape, scanner) if noise else None
    image, label = _scan(anatomy, patient, scanner, affine, shape, spacing, grain, artefacts)

    right = Phantom(image.numpy(), label.numpy(), affine, _as_point(patient.joint_center), "right")
    return _mirrored(right) if (side or patient.side) == "left" else right


# --- drawing ---


def _rng(seed: int, stream: str) -> np.random.Generator:
    return np.random.default_rng((seed, _STREAMS[stream]))


def _draw_scanner(seed: int) -> tuple[_Patient, Scanner]:
    """Side, position and pose of the patient; strength of what disturbs the image."""
    rng = _rng(seed, "position")
    side: Side = "left" if rng.random() < 0.5 else "right"
    # the joint is 18 to 32 mm inside the rim of the field of view, on the patient's side of the scanner's axis
    radius, angle = FOV_RADIUS_MM - rng.uniform(18.0, 32.0), math.radians(rng.uniform(-15.0, 15.0))
    center = np.array([radius * math.cos(angle), radius * math.sin(angle), rng.uniform(-15.0, 15.0)])
    pose = _rotation(rng, math.radians(rng.uniform(0.0, 8.0))) * rng.uniform(0.94, 1.06)

    def near_teeth(rng: np.random.Generator) -> Array:
        return center + np.array([rng.uniform(-40.0, -15.0), rng.uniform(45.0, 65.0), rng.uniform(-15.0, 5.0)])

    return _Patient(side, center, pose), draw_scanner(_rng(seed, "scanner"), near_teeth)


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
    patient: _Patient,
    scanner: Scanner,
    affine: Array,
    shape: tuple[int, int, int],
    spacing: tuple[float, ...],
    grain: Tensor | None,
    artefacts: bool,
) -> tuple[Tensor, Tensor]:
    """Sample the joint slab by slab, so that memory holds little more than the result."""
    image = torch.empty(shape, dtype=torch.float32)
    label = torch.empty(shape, dtype=torch.uint8)
    edge_mm = max(0.25, float(np.mean(spacing)))
    to_joint = np.linalg.inv(patient.pose)
    offset = to_joint @ (affine[:3, 3] - patient.joint_center)
    for slab in slabs(shape, _VOXELS_AT_ONCE):
        tissue = render(Points(*coordinates(to_joint @ affine[:3, :3], offset, slab, shape)), anatomy, edge_mm)
        world = coordinates(affine[:3, :3], affine[:3, 3], slab, shape)
        image[slab], seen = scan(tissue.hu, world, scanner, None if grain is None else grain[slab], artefacts)
        label[slab] = tissue.label * seen
    return image, label


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
