"""The parts of a head of simple solids: skin, skull, face with jaw and teeth, neck; all of random size and density."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bertswin_ext.data.phantoms.phantom_anatomy import Points
from bertswin_ext.data.phantoms.phantom_scanner import smooth_noise
from bertswin_ext.data.phantoms.solids import arch, ellipsoid, painted, plate, rod
from bertswin_ext.voxels import AIR_HU

__all__ = ["HeadShape", "draw_head_shape", "paint_face", "paint_neck", "paint_skull", "skin"]

_WATER_HU = 20.0


@dataclass(frozen=True)
class HeadShape:
    """The numbers of one head: lengths in mm from the middle between its joints, tissue in HU."""

    joint_x: float
    cranium_center: tuple[float, float, float]
    cranium_radii: tuple[float, float, float]
    skull_mm: float
    base_z: tuple[float, float, float]  # of the brain above the hind, middle and front part of the base
    mastoid_air: float
    open_mm: float  # how far the jaw is open
    face_y: float  # how far the face reaches
    neck_radius: float
    spine_y: float
    scalp_mm: float
    fat_layer: float
    sinus_hu: float
    throat_hu: float
    bone_hu: float
    spongy_hu: float
    tooth_hu: float
    brain_hu: float
    fat_hu: float
    muscle_hu: float
    has_shoulders: bool
    has_rest: bool


def draw_head_shape(rng: np.random.Generator) -> HeadShape:
    """Draw one head; the same state gives the same head."""

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    joint_x, bone = between(45.0, 56.0), between(800.0, 1500.0)
    return HeadShape(
        joint_x=joint_x,
        cranium_center=(0.0, between(-18.0, -4.0), between(40.0, 54.0)),
        cranium_radii=(joint_x + between(16.0, 26.0), between(82.0, 100.0), between(64.0, 80.0)),
        skull_mm=between(4.0, 9.0),
        base_z=(between(-36.0, -22.0), between(2.0, 9.0), between(18.0, 32.0)),
        mastoid_air=between(-1.0, 1.5),
        open_mm=between(0.0, 12.0),
        face_y=between(72.0, 92.0),
        neck_radius=between(46.0, 64.0),
        spine_y=between(-32.0, -16.0),
        scalp_mm=between(4.0, 11.0),
        fat_layer=between(3.0, 9.0),
        sinus_hu=AIR_HU if rng.random() < 0.8 else _WATER_HU,
        throat_hu=AIR_HU if rng.random() < 0.8 else _WATER_HU,
        bone_hu=bone,
        spongy_hu=bone * between(0.25, 0.95),
        tooth_hu=between(1500.0, 2600.0),
        brain_hu=between(0.0, 50.0),
        fat_hu=between(-110.0, -20.0),
        muscle_hu=between(30.0, 70.0),
        has_shoulders=bool(rng.random() < 0.4),
        has_rest=bool(rng.random() < 0.5),
    )


def skin(p: Points, head: HeadShape) -> Tensor:
    """Distance from the skin: cranium, face, nose, ears, neck, and shoulders or a head rest if there are any."""
    wide, front = head.joint_x, head.face_y
    cranium = ellipsoid(p, head.cranium_center, _larger(head.cranium_radii, head.scalp_mm))
    parts = [
        ellipsoid(p, (0.0, 0.4 * front, -8.0), (wide + 20.0, 0.75 * front, 62.0)),
        ellipsoid(p, (0.0, 0.42 * front, -52.0 - head.open_mm), (wide + 12.0, 0.72 * front, 42.0)),
        rod(p, (0.0, front, 20.0), (0.0, front + 22.0, -6.0), (5.0, 10.0)),
        rod(p, (0.0, head.spine_y + 14.0, 0.0), (0.0, head.spine_y, -230.0), (head.neck_radius,) * 2),
        ellipsoid(_mirrored(p), (wide + 27.0, -22.0, 0.0), (5.0, 16.0, 28.0)),
    ]
    if head.has_shoulders:
        parts.append(ellipsoid(p, (0.0, head.spine_y, -200.0), (220.0, 80.0, 62.0)))
    if head.has_rest:
        parts.append(plate(p, (0.0, head.cranium_center[1] - head.cranium_radii[1] - 18.0, 0.0), (70.0, 2.0, 400.0)))
    for part in parts:
        cranium = torch.minimum(cranium, part)
    return cranium


def paint_skull(hu: Tensor, p: Points, head: HeadShape, rng: np.random.Generator, edge_mm: float) -> Tensor:
    """Paint the brain in its shell, the dense bone about the ears, the middle of the base."""
    m = _mirrored(p)
    radii = _larger(head.cranium_radii, -head.skull_mm)
    brain = torch.maximum(ellipsoid(p, head.cranium_center, radii), _base_height(p, head) - p.s)
    shell = torch.maximum(brain - head.skull_mm, ellipsoid(p, head.cranium_center, head.cranium_radii) - 2.0)
    pyramid = rod(m, (head.joint_x + 2.0, -22.0, -1.0), (14.0, 2.0, 4.0), (10.0, 6.0))
    mastoid = ellipsoid(m, (head.joint_x + 3.0, -29.0, -13.0), (10.0, 13.0, 19.0))
    clivus = rod(p, (0.0, -14.0, -20.0), (0.0, 28.0, 10.0), (7.0, 12.0))
    bones = torch.minimum(torch.minimum(shell, clivus), torch.minimum(pyramid, mastoid))
    hu = _paint_bone(hu, bones, head, edge_mm)
    hu = painted(hu, head.brain_hu, brain, edge_mm)
    hu = painted(hu, head.bone_hu, pyramid, edge_mm)
    hu = painted(hu, head.brain_hu, rod(p, (0.0, -36.0, 0.0), (0.0, -36.0, -60.0), (15.0, 10.0)), edge_mm)
    cells = (head.mastoid_air - smooth_noise(rng, p.l.shape, (edge_mm,) * 3, 9.0)) * 3.0
    hu = painted(hu, AIR_HU, torch.maximum(cells, torch.minimum(mastoid, pyramid) + 2.0), edge_mm)
    canal = rod(m, (head.joint_x + 30.0, -17.0, -2.0), (head.joint_x - 8.0, -15.0, -4.0), (3.5, 3.5))
    hu = painted(hu, AIR_HU, canal, edge_mm)
    return painted(hu, head.sinus_hu, ellipsoid(p, (0.0, 30.0, 8.0), (11.0, 12.0, 8.0)), edge_mm)


def paint_face(hu: Tensor, p: Points, head: HeadShape, edge_mm: float) -> Tensor:
    """Paint eye sockets, nose, sinuses, cheekbones, both jaws and the teeth."""
    m, front = _mirrored(p), head.face_y - 10.0
    socket = ellipsoid(m, (32.0, front - 8.0, 24.0), (19.0, 25.0, 18.0))
    sinus = ellipsoid(m, (25.0, front - 20.0, -10.0), (12.0, 16.0, 15.0))
    nose = ellipsoid(p, (0.0, front - 14.0, -2.0), (13.0, 34.0, 22.0))
    cheek = _cheek(m, head, front)
    walls = torch.minimum(torch.minimum(socket, sinus), nose) - 3.0
    walls = torch.maximum(walls, p.a - front + 0.15 * p.s.abs())
    hu = _paint_bone(hu, torch.minimum(torch.minimum(walls, cheek), _jaws(p, m, head, front)), head, edge_mm)
    hu = painted(hu, head.fat_hu, socket, edge_mm)
    hu = painted(hu, _WATER_HU, ellipsoid(m, (32.0, front + 2.0, 24.0), (12.0, 12.0, 12.0)), edge_mm)
    hu = painted(hu, head.sinus_hu, torch.minimum(sinus, nose), edge_mm)
    row = arch(p, front - 48.0, 26.0, 48.0, 4.5)
    for middle in (-41.0, -49.0 - head.open_mm):
        hu = painted(hu, head.tooth_hu, torch.maximum(row, (p.s - middle).abs() - 5.0), edge_mm)
    return hu


def paint_neck(hu: Tensor, p: Points, head: HeadShape, edge_mm: float) -> Tensor:
    """Paint the vertebrae, the canal in them, and the throat."""
    y = head.spine_y
    column = rod(p, (0.0, y + 8.0, -24.0), (0.0, y, -240.0), (10.0, 13.0))
    gaps = (torch.remainder(p.s, 18.0) - 9.0).abs() - 7.0
    arcs = torch.maximum(ellipsoid(p, (0.0, y - 18.0, -120.0), (22.0, 22.0, 400.0)), p.s + 26.0)
    bones = torch.maximum(torch.minimum(column, arcs), gaps)
    bones = torch.minimum(bones, plate(_mirrored(p), (22.0, y + 4.0, -32.0), (12.0, 8.0, 6.0)))
    hu = _paint_bone(hu, bones, head, edge_mm)
    hu = painted(hu, head.brain_hu, rod(p, (0.0, y - 16.0, 0.0), (0.0, y - 16.0, -300.0), (10.0, 10.0)), edge_mm)
    throat = rod(p, (0.0, 24.0, -4.0), (0.0, y + 26.0, -240.0), (8.0, 8.0))
    return painted(hu, head.throat_hu, throat, edge_mm)


def _larger(radii: tuple[float, float, float], by: float) -> tuple[float, float, float]:
    """Radii of a body that reaches further on all sides."""
    return radii[0] + by, radii[1] + by, radii[2] + by


def _mirrored(p: Points) -> Points:
    """Both sides at once: what is painted on the right is painted on the left."""
    return Points(p.l.abs(), p.a, p.s)


def _base_height(p: Points, head: HeadShape) -> Tensor:
    """Where the brain ends below: in steps, from the back to the front."""
    hind, middle, fore = head.base_z
    step_up = torch.sigmoid((p.a + 26.0) / 3.0)
    return hind + (middle - hind) * step_up + (fore - middle) * torch.sigmoid((p.a - 36.0) / 3.0)


def _cheek(m: Points, head: HeadShape, front: float) -> Tensor:
    """The cheekbone with its arch to the ear and its pillar to the brow."""
    corner, arch_end = (head.joint_x + 3.0, front - 26.0, -3.0), (head.joint_x + 12.0, 12.0, -3.0)
    bone = torch.minimum(
        rod(m, (30.0, front - 6.0, -8.0), corner, (6.0, 5.0)),
        rod(m, corner, arch_end, (4.0, 2.8)),
    )
    return torch.minimum(bone, rod(m, corner, (46.0, front - 18.0, 36.0), (4.0, 4.0)))


def _jaws(p: Points, m: Points, head: HeadShape, front: float) -> Tensor:
    """The upper jaw with its palate, and the lower jaw with its rami."""
    upper = torch.maximum(arch(p, front - 50.0, 27.0, 50.0, 6.0), (p.s + 29.0).abs() - 9.0)
    palate = torch.maximum(ellipsoid(p, (0.0, front - 44.0, -26.0), (24.0, 42.0, 3.0)), -(p.a - front + 54.0))
    drop = head.open_mm
    back = 4.0
    level = -66.0 - drop - 0.14 * (p.a - back)
    lower = torch.maximum(arch(p, back, head.joint_x - 6.0, front - back, 6.0), (p.s - level).abs() - 14.0)
    ramus = plate(
        Points(m.l - 0.06 * p.s, p.a + 0.2 * (p.s + 40.0), p.s), (head.joint_x + 1.0, 10.0, -50.0), (4.0, 16.0, 24.0)
    )
    return torch.minimum(torch.minimum(upper, palate), torch.minimum(lower, ramus))


def _paint_bone(hu: Tensor, distance: Tensor, head: HeadShape, edge_mm: float) -> Tensor:
    """Paint bone: compact outside, spongy where it is thick."""
    hu = painted(hu, head.bone_hu, distance, edge_mm)
    return painted(hu, head.spongy_hu, distance + 2.5, edge_mm)
