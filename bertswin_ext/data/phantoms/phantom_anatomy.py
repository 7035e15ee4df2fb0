"""Anatomy of a temporomandibular joint as functions of a point in millimetres: where bone is, and its Hounsfield units.

Everything here lives in the frame of one right joint: origin in the middle of the joint space over the condyle, axes
lateral (l), anterior (a) and superior (s). Surfaces are approximate signed distances in mm, negative inside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bertswin_ext.voxels import AIR_HU

__all__ = ["Anatomy", "Points", "Tissue", "draw_anatomy", "render"]

MANDIBLE, SKULL = 1, 2
_CORTEX_RANGE_HU = (1200.0, 1700.0)
_TEXTURE_CELLS = 64
_TEXTURE_BAND = (0.10, 0.22)  # cycles per cell
_TRABECULAR_PERIOD_MM = (18.0, 18.0, 25.0)  # of the texture; its waves are about 2 mm long, taller than wide
_AIR_CELL_PERIOD_MM = (60.0, 70.0, 65.0)
_SOFT_PERIOD_MM = (110.0, 150.0, 90.0)

Vector = tuple[float, float, float]


class Points(NamedTuple):
    """Coordinates of many points in mm, three tensors of one shape."""

    l: Tensor  # noqa: E741
    a: Tensor
    s: Tensor


class Tissue(NamedTuple):
    """What a scanner would see: Hounsfield units (float32) and labels (uint8: 0 background, 1 mandible, 2 skull)."""

    hu: Tensor
    label: Tensor


@dataclass(frozen=True)
class Anatomy:
    """The numbers of one joint: lengths in mm, angles in radians, tissue in HU."""

    joint_space: float
    head_radii: Vector
    head_angle: float  # of the long axis in the axial plane, medial pole to the back
    head_shift: Vector  # of the condyle in its fossa; the third entry closes the joint to ``joint_space``
    flattening: float  # bone missing at the front upper face of the head, 0 for a healthy one
    flattening_lean: float
    osteophyte: float  # radius of the lip at the front of the head, 0 for none
    osteophyte_lateral: float
    neck_back: float
    head_cortex: float
    ramus_cortex: float
    eminence: float
    eminence_anterior: float
    postglenoid: float
    roof: float
    skull_cortex: float
    canal_radius: float
    canal_anterior: float
    canal_superior: float
    air_cells: float  # threshold on a texture of unit deviation: low values mean a well aerated mastoid
    skin_lateral: float
    fat_layer: float
    cortex_hu: float
    trabecular_hu: float
    trabecular_contrast_hu: float
    fat_hu: float
    muscle_hu: float
    texture: Tensor  # periodic field, (cells + 1) ** 3, of unit deviation


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw one joint.

    Args:
        rng: source of every number; the same state gives the same joint.

    Returns:
        A joint whose surfaces are 1.5 to 4 mm apart where they are closest. A third of the heads are flattened and
        a third carry an osteophyte.
    """

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    anatomy = Anatomy(
        joint_space=between(2.0, 3.1),
        head_radii=(between(8.2, 10.2), between(3.8, 5.0), between(4.4, 5.8)),
        head_angle=math.radians(between(8.0, 30.0)),
        head_shift=(between(-1.0, 1.0), between(-0.8, 1.2), 0.0),
        flattening=between(0.8, 2.2) * (rng.random() < 1 / 3),
        flattening_lean=math.radians(between(20.0, 50.0)),
        osteophyte=between(0.9, 1.7) * (rng.random() < 1 / 3),
        osteophyte_lateral=between(-4.0, 4.0),
        neck_back=between(2.0, 5.0),
        head_cortex=between(0.7, 1.1),
        ramus_cortex=between(1.4, 2.1),
        eminence=between(6.0, 8.5),
        eminence_anterior=between(12.0, 14.0),
        postglenoid=between(3.5, 6.0),
        roof=between(1.0, 2.6),
        skull_cortex=between(0.9, 1.4),
        canal_radius=between(3.0, 4.2),
        canal_anterior=between(-17.5, -15.5),
        canal_superior=between(-7.0, -4.0),
        air_cells=between(-0.2, 1.2),
        skin_lateral=between(20.0, 27.0),
        fat_layer=between(2.0, 5.0),
        cortex_hu=between(1380.0, 1560.0),
        trabecular_hu=between(330.0, 520.0),
        trabecular_contrast_hu=between(170.0, 260.0),
        fat_hu=between(-98.0, -80.0),
        muscle_hu=between(42.0, 60.0),
        texture=_draw_texture(rng),
    )
    return _close_joint(anatomy)


def render(points: Points, anatomy: Anatomy, edge_mm: float) -> Tissue:
    """Fill points with tissue.

    Args:
        points: where to look, in the frame of the joint.
        anatomy: the joint.
        edge_mm: width over which a surface is blurred, about a voxel, so that sampling does not make stairs.

    Returns:
        Hounsfield units and labels, each of the points' shape. Aerated mastoid cells carry the label of the skull.
    """
    mandible = _mandible(points, anatomy)
    skull, brain = _skull(points, anatomy, mandible)
    canal = _ear_air(points, anatomy)
    skull = _smooth_max(skull, -canal, 0.3)
    slow = _texture(points, anatomy, _SOFT_PERIOD_MM)

    hu = _soft_tissue(points, anatomy, slow, mandible, edge_mm)
    hu = _over(hu, 32.0 + 4.0 * slow, brain, edge_mm)
    cortex, trabeculae = _bone_textures(points, anatomy, edge_mm)
    for bone, thickness in ((mandible, _mandible_cortex(points, anatomy)), (skull, anatomy.skull_cortex)):
        hu = _over(hu, torch.lerp(cortex, trabeculae, _inside(bone + thickness, edge_mm)), bone, edge_mm)
    hu = _over(hu, AIR_HU, _air_cells(points, anatomy, skull), edge_mm)
    hu = _over(hu, AIR_HU, canal, edge_mm)

    label = torch.where(mandible < 0, MANDIBLE, torch.where(skull < 0, SKULL, 0)).to(torch.uint8)
    return Tissue(hu, label)


# --- mandible ---


def _mandible(p: Points, anatomy: Anatomy) -> Tensor:
    """Condylar head on its neck, with the upper ramus and the coronoid process."""
    shift = anatomy.head_shift
    p = Points(p.l - shift[0], p.a - shift[1], p.s - shift[2])
    height = anatomy.head_radii[2]
    neck = _cone(p, (0.0, -0.8, -height - 2.0), (1.0, -anatomy.neck_back, -23.0), (3.2, 3.7), squeeze=0.7)
    bone = _smooth_min(_head(p, anatomy), neck, 3.0)
    return _smooth_min(bone, _ramus(p, anatomy), 4.0)


def _head(p: Points, anatomy: Anatomy) -> Tensor:
    """Ellipsoid turned in the axial plane, cut for flattening, with a lip for an osteophyte."""
    _, depth, height = anatomy.head_radii
    cos, sin = math.cos(anatomy.head_angle), math.sin(anatomy.head_angle)
    q = Points(cos * p.l + sin * p.a, cos * p.a - sin * p.l, p.s)
    head = _ellipsoid(q, (0.0, 0.0, -height), anatomy.head_radii)
    if anatomy.flattening > 0:
        front, up = math.sin(anatomy.flattening_lean), math.cos(anatomy.flattening_lean)
        face = math.hypot(depth * front, height * up) - anatomy.flattening
        head = _smooth_max(head, front * q.a + up * (q.s + height) - face, 0.8)
    if anatomy.osteophyte > 0:
        radius = anatomy.osteophyte
        centre = (anatomy.osteophyte_lateral, 0.85 * depth, -0.75 * height)
        head = _smooth_min(head, _ellipsoid(q, centre, (2.2 * radius, 1.5 * radius, radius)), 1.2)
    return head


def _ramus(p: Points, anatomy: Anatomy) -> Tensor:
    """A plate below the sigmoid notch, from the back of the neck to the coronoid process."""
    notch = -26.0 + 14.0 * _bell(p.a - 27.0, 5.5) + 5.0 * _bell(p.a + anatomy.neck_back, 4.0)
    top = (p.s - notch) * 0.6
    back = -3.8 - anatomy.neck_back - 0.1 * (p.s + 23.0) - p.a
    front = p.a - 31.5 + 0.15 * (p.s + 20.0)
    side = (p.l - 1.5 - 0.05 * p.a).abs() - 3.2
    outline = _smooth_max(_smooth_max(top, back, 4.0), front, 4.0)
    return _smooth_max(outline, side, 4.0)


def _mandible_cortex(p: Points, anatomy: Anatomy) -> Tensor:
    """Thin over the head, thick on neck and ramus."""
    below = ((-6.0 - p.s) / 12.0).clamp(0.0, 1.0)
    return anatomy.head_cortex + (anatomy.ramus_cortex - anatomy.head_cortex) * below


def _close_joint(anatomy: Anatomy) -> Anatomy:
    """Raise or lower the condyle until its surface over the origin is half the joint space below it."""
    s = torch.linspace(-8.0, 4.0, 2401)
    surface = float(s[_mandible(Points(torch.zeros_like(s), torch.zeros_like(s), s), anatomy) < 0].max())
    forward = anatomy.head_shift
    height = forward[2] - anatomy.joint_space / 2 - surface
    return Anatomy(**{**vars(anatomy), "head_shift": (forward[0], forward[1], height)})


# --- skull ---


def _skull(p: Points, anatomy: Anatomy, mandible: Tensor) -> tuple[Tensor, Tensor]:
    """Temporal bone with fossa, eminence, arch, mastoid and petrous part; and the brain it holds."""
    under, slope = _fossa_surface(p, anatomy)
    inner = 9.0 + 0.1 * p.s - 0.022 * (p.a - 4.0).clamp(min=0.0).square() + 0.02 * (p.a + 14.0).clamp(max=0.0).abs()
    root = 4.5 * _bell(p.s + 1.0, 5.0)
    base = _smooth_max((under - p.s) * slope, p.l - inner - 3.6 - root, 4.0)

    floor = anatomy.joint_space / 2 + anatomy.roof + 1.2 * _bell(p.a - anatomy.eminence_anterior, 6.0)
    floor = floor + 0.004 * (p.l + 6.0).square().clamp(max=250.0) + 5.0 * _bell(p.a + 22.0, 9.0)
    brain = _smooth_max(floor - p.s, p.l - inner, 7.0)

    bone = _smooth_min(base, _mastoid(p), 3.0)
    bone = _smooth_min(bone, _cone(p, (-6.0, -19.0, -2.0), (-34.0, 2.0, 0.0), (8.0, 6.0)), 4.0)
    bone = _smooth_max(bone, -brain, 0.5)
    arch_from = (12.0, anatomy.eminence_anterior - 6.0, -2.5)
    bone = _smooth_min(bone, _cone(p, arch_from, (15.0, 60.0, -7.0), (2.6, 2.4), squeeze=1.5), 3.0)
    bone = _smooth_min(bone, _tympanic(p, anatomy), 1.5)
    return _smooth_max(bone, 0.98 * anatomy.joint_space - mandible, 0.4), brain


def _fossa_surface(p: Points, anatomy: Anatomy) -> tuple[Tensor, Tensor]:
    """Height of the skull's lower surface over (l, a), and the cosine of its slope along a."""
    ahead = p.a - anatomy.eminence_anterior
    width = 4.8
    crest = _bell(ahead, width)
    # in front of the crest the plane stays at 60 % of it, and rises slowly
    front = ahead > 0
    crest_slope = -ahead / width**2 * crest * torch.where(front, 0.4, 1.0)
    crest = torch.where(front, 0.6 + 0.4 * crest, crest)
    height = anatomy.eminence * (1.0 - 0.018 * (p.l - 4.0).abs().clamp(max=14.0))
    behind, thickness = p.a + 10.5, 2.6
    wall = anatomy.postglenoid * _bell(behind, thickness)
    medial = 3.0 * _bell(p.l + 14.0, 2.5)
    lateral = 1.5 * _bell(p.l - 12.0, 2.5)
    arch = 2.5 * (1.0 - _bell(p.l, 6.5))
    surface = anatomy.joint_space / 2 - height * crest - wall - medial - lateral - arch
    slope = wall * behind / thickness**2 - height * crest_slope
    return surface, torch.rsqrt(1.0 + slope.square())


def _mastoid(p: Points) -> Tensor:
    """The process behind the ear, pointing down and forward."""
    return _ellipsoid(p, (3.0, -30.0, -9.0), (9.5, 11.5, 18.0))


def _tympanic(p: Points, anatomy: Anatomy) -> Tensor:
    """Tube of bone around the inner half of the ear canal; its front wall is the back wall of the joint."""
    tube = _canal(p, anatomy, lateral=7.5, medial=-9.0)
    return _smooth_max(tube - 2.3, p.l - 8.0, 1.0)


def _canal(p: Points, anatomy: Anatomy, lateral: float, medial: float) -> Tensor:
    """The ear canal between two lateral positions; it runs inwards, forwards and down."""
    a, s = anatomy.canal_anterior, anatomy.canal_superior
    start = (lateral, a - 0.06 * lateral, s + 0.05 * lateral)
    end = (medial, a - 0.06 * medial, s + 0.05 * medial)
    return _cone(p, start, end, (anatomy.canal_radius, anatomy.canal_radius), squeeze=1.0)


def _ear_air(p: Points, anatomy: Anatomy) -> Tensor:
    """Air of the ear canal, and of the middle ear; the drum is too thin to be seen."""
    canal = _canal(p, anatomy, lateral=40.0, medial=-5.0)
    centre = (-7.0 - anatomy.canal_radius, anatomy.canal_anterior + 0.5, anatomy.canal_superior + 1.5)
    return torch.minimum(canal, _ellipsoid(p, centre, (2.3, 3.4, 5.0)))


def _air_cells(p: Points, anatomy: Anatomy, skull: Tensor) -> Tensor:
    """Cells of air in the mastoid, at least 1.5 mm below its surface; an approximate distance."""
    cells = (anatomy.air_cells - _texture(p, anatomy, _AIR_CELL_PERIOD_MM)) * 0.9
    return torch.maximum(torch.maximum(cells, skull + 1.5), _mastoid(p) + 1.0)


# --- tissue ---


def _bone_textures(p: Points, anatomy: Anatomy, edge_mm: float) -> tuple[Tensor, Tensor]:
    """HU of compact bone and of trabecular bone; coarse voxels average the trabeculae out."""
    texture = _texture(p, anatomy, _TRABECULAR_PERIOD_MM)
    cortex = (anatomy.cortex_hu + 50.0 * texture).clamp(*_CORTEX_RANGE_HU)
    contrast = anatomy.trabecular_contrast_hu / (1.0 + edge_mm**2)
    return cortex, (anatomy.trabecular_hu + contrast * texture).clamp(-80.0, 1050.0)


def _soft_tissue(p: Points, anatomy: Anatomy, slow: Tensor, mandible: Tensor, edge_mm: float) -> Tensor:
    """Air, skin, fat, muscles, the parotid and the disc: -100 to 80 HU inside the head."""
    fat, muscle = anatomy.fat_hu, anatomy.muscle_hu
    hu = fat + (muscle - 10.0 - fat) * torch.sigmoid(4.0 * slow - 1.0)
    hu = _over(hu, 5.0 + 15.0 * slow.clamp(-2.0, 2.0), _ellipsoid(p, (9.0, -9.0, -26.0), (9.0, 9.0, 17.0)), 1.5)
    hu = _over(hu, (muscle + 6.0 * slow).clamp(max=80.0), _muscles(p), max(edge_mm, 0.8))
    disc = torch.maximum(mandible - anatomy.joint_space - 0.6, -9.0 - p.s)
    hu = _over(hu, 62.0, disc, max(edge_mm, 0.6))
    skin = p.l - anatomy.skin_lateral + p.a.square() / 170.0 + p.s.square() / 260.0
    pinna = _ellipsoid(p, (anatomy.skin_lateral + 1.0, -25.0, -2.0), (3.0, 11.0, 22.0))
    hu = _over(hu, fat, -(skin + 1.8 + anatomy.fat_layer), 1.5)
    skin = _smooth_min(skin, pinna, 3.0)
    hu = _over(hu, 35.0, -(skin + 1.8), 0.5)
    return _over(hu, AIR_HU, -skin, edge_mm)


def _muscles(p: Points) -> Tensor:
    """Lateral pterygoid, masseter, temporalis and medial pterygoid."""
    pterygoid = _cone(p, (-1.0, 4.0, -11.0), (-22.0, 34.0, -14.0), (3.2, 8.0))
    masseter = _ellipsoid(p, (10.0, 17.0, -38.0), (5.0, 17.0, 32.0))
    temporalis = _ellipsoid(p, (4.0, 28.0, 2.0), (7.0, 15.0, 34.0))
    medial = _ellipsoid(p, (-9.0, 12.0, -42.0), (5.0, 13.0, 22.0))
    return torch.minimum(torch.minimum(pterygoid, masseter), torch.minimum(temporalis, medial))


def _draw_texture(rng: np.random.Generator) -> Tensor:
    """Band-limited noise of unit deviation on a periodic lattice, with the first layer repeated at the end."""
    n = _TEXTURE_CELLS
    spectrum = np.fft.rfftn(rng.standard_normal((n, n, n)))
    x, z = np.fft.fftfreq(n), np.fft.rfftfreq(n)
    frequency = np.sqrt(x[:, None, None] ** 2 + x[None, :, None] ** 2 + z[None, None, :] ** 2)
    low, high = _TEXTURE_BAND
    field = np.fft.irfftn(spectrum * ((frequency >= low) & (frequency <= high)), s=(n, n, n), axes=(0, 1, 2))
    field = np.pad(field / field.std(), (0, 1), mode="wrap")
    return torch.from_numpy(field.astype(np.float32))


def _texture(p: Points, anatomy: Anatomy, period_mm: Vector) -> Tensor:
    """Trilinear lookup in the periodic texture, about ten waves per period."""
    scaled = torch.stack([c / period for c, period in zip(p, period_mm, strict=True)], dim=-1)
    where = (scaled - scaled.floor()) * 2.0 - 1.0
    field = anatomy.texture[None, None]
    return F.grid_sample(field, where.reshape(1, 1, 1, -1, 3), align_corners=True).reshape(p.l.shape)


def _inside(distance: Tensor, edge_mm: float) -> Tensor:
    """Share of a voxel of width ``edge_mm`` that lies inside a surface."""
    return (0.5 - distance / edge_mm).clamp(0.0, 1.0)


def _over(hu: Tensor, tissue: Tensor | float, distance: Tensor, edge_mm: float) -> Tensor:
    """Paint a tissue over another wherever the distance is negative."""
    end = tissue if isinstance(tissue, Tensor) else hu.new_tensor(tissue)
    return torch.lerp(hu, end, _inside(distance, edge_mm))


# --- distances ---


def _bell(x: Tensor, width: float) -> Tensor:
    return torch.exp(x.square() * (-0.5 / width**2))


def _smooth_min(a: Tensor, b: Tensor, blend_mm: float) -> Tensor:
    """Minimum that rounds the seam between two bodies over ``blend_mm``."""
    overlap = F.relu(blend_mm - (a - b).abs())
    return torch.minimum(a, b) - overlap.square() / (4.0 * blend_mm)


def _smooth_max(a: Tensor, b: Tensor, blend_mm: float) -> Tensor:
    return -_smooth_min(-a, -b, blend_mm)


def _ellipsoid(p: Points, centre: Vector, radii: Vector) -> Tensor:
    """First-order distance to an ellipsoid, exact at its surface."""
    x, y, z = ((c - m) / r for c, m, r in zip(p, centre, radii, strict=True))
    size = (x.square() + y.square() + z.square()).sqrt()
    slope = ((x / radii[0]).square() + (y / radii[1]).square() + (z / radii[2]).square()).sqrt()
    return size * (size - 1.0) / slope.clamp(min=1e-4)


def _cone(p: Points, start: Vector, end: Vector, radii: tuple[float, float], squeeze: float = 1.0) -> Tensor:
    """Round cone between two points; a ``squeeze`` below 1 widens it along l, above 1 thins it."""
    axis = [e - b for b, e in zip(start, end, strict=True)]
    x, y, z = (c - b for c, b in zip(p, start, strict=True))
    along = ((x * axis[0] + y * axis[1] + z * axis[2]) / sum(c * c for c in axis)).clamp(0.0, 1.0)
    off = ((x - along * axis[0]) * squeeze).square() + (y - along * axis[1]).square() + (z - along * axis[2]).square()
    return (off.sqrt() - radii[0] - along * (radii[1] - radii[0])) / max(1.0, squeeze)
