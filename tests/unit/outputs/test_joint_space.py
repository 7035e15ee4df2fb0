"""Joint spaces of known width, on even, uneven, tilted and sheared grids."""

import numpy as np
import pytest

from bertswin_ext.data.phantoms.phantom import make_phantom
from bertswin_ext.outputs.joint_space import RADIUS_MM, minimal_joint_space
from tests.unit.outputs.test_surface_mesh import turned

CENTER_MM = np.array([-50.0, 12.0, 33.0])
SHAPE = (72, 70, 66)
GRIDS = {
    "even": (np.eye(3), (0.4, 0.4, 0.4)),
    "uneven": (np.eye(3), (0.35, 0.4, 0.8)),
    "tilted": (turned(), (0.4, 0.4, 0.4)),
    "tilted, uneven and mirrored": (turned(40) @ np.diag([-1, 1, 1]), (0.4, 0.5, 0.7)),
    "sheared": (np.array([[1, 0, 0], [0, 1, 0.35], [0, 0, 1]]), (0.4, 0.4, 0.6)),
    "coarse": (turned(15), (0.8, 0.8, 0.8)),
}


def affine_of(grid):
    directions, spacing = GRIDS[grid]
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(directions) * spacing
    affine[:3, 3] = CENTER_MM - affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2) + [0.13, 0.31, -0.22]
    return affine


def labelled(affine, mandible, skull):
    """Label of the voxels whose centres are inside of two shapes; their world has the joint as its origin."""
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    places = index @ affine[:3, :3].T + affine[:3, 3] - CENTER_MM
    return np.select([mandible(places), skull(places)], [np.uint8(1), np.uint8(2)], np.uint8(0))


def ball_in_cup(affine, gap):
    """A ball under a cup that comes nearest right over it."""
    ball, cup = np.array([0.0, 0.0, -6.0]), np.array([0.0, 0.0, -7.0])

    def skull(p):
        return (np.linalg.norm(p - cup, axis=-1) >= 7 + gap) & (p[..., 2] > -6)

    return labelled(affine, lambda p: np.linalg.norm(p - ball, axis=-1) <= 6, skull)


def slanted_plates(affine, gap, normal=(0.31, 0.21, 0.93)):
    across = np.array(normal) / np.linalg.norm(normal)
    return labelled(affine, lambda p: p @ across < -gap / 2, lambda p: p @ across > gap / 2)


@pytest.mark.parametrize("gap", [1.5, 2.5])
@pytest.mark.parametrize("grid", GRIDS)
def test_a_ball_in_a_cup(grid, gap):
    affine = affine_of(grid)
    space = minimal_joint_space(ball_in_cup(affine, gap), affine, CENTER_MM, "right", radius_mm=8)
    edge = max(GRIDS[grid][1])
    assert -0.9 * edge < space.distance_mm - gap < 0.2 * edge
    above = np.array([space.mandible_mm, space.skull_mm]) - CENTER_MM
    assert above[:, 2] == pytest.approx([0, gap], abs=edge)
    assert np.linalg.norm(above[:, :2], axis=1).max() < 4.5  # the ball is nearly level there
    assert np.linalg.norm(above[1] - above[0]) == pytest.approx(space.distance_mm)


@pytest.mark.parametrize("gap", [1.5, 2.5])
@pytest.mark.parametrize("grid", GRIDS)
def test_plates(grid, gap):
    affine = affine_of(grid)
    space = minimal_joint_space(slanted_plates(affine, gap), affine, CENTER_MM, radius_mm=6)
    assert space.distance_mm == pytest.approx(gap, abs=0.3 * max(GRIDS[grid][1]))
    assert space.reason == ""


@pytest.mark.parametrize("voxels", [1, 2, 5])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_level_plates_are_measured_from_face_to_face(axis, voxels):
    label = np.zeros((30, 30, 30), dtype=np.uint8)
    along = np.moveaxis(label, axis, 0)
    along[:12], along[12 + voxels :] = 2, 1
    spacing = (0.3, 0.5, 0.7)
    affine = np.diag([*spacing, 1.0])
    space = minimal_joint_space(label, affine, np.array(spacing) * 14, radius_mm=3)
    assert space.distance_mm == pytest.approx(voxels * spacing[axis], abs=0.01)
    assert space.skull_mm[axis] == pytest.approx(11.5 * spacing[axis], abs=0.01)
    assert space.mandible_mm[axis] == pytest.approx((11.5 + voxels) * spacing[axis], abs=0.01)


def test_bones_that_touch():
    """Voxels at a face: 0, in the middle of the face that is nearest to the centre."""
    label = np.zeros((20, 20, 20), dtype=np.uint8)
    label[:, :, :8], label[:, :, 12:] = 1, 2
    label[4, 5, 8:12] = 2
    label[16, 16, 8:12] = 1
    affine = np.eye(4)
    affine[:3, 3] = [100, 0, 0]
    space = minimal_joint_space(label, affine, (105, 6, 10))
    assert space.distance_mm == 0
    assert space.mandible_mm == space.skull_mm == (104, 5, 7.5)


def test_phantoms_have_the_space_that_they_are_drawn_with():
    from bertswin_ext.data.phantoms.phantom import _rng
    from bertswin_ext.data.phantoms.phantom_anatomy import draw_anatomy

    drawn = draw_anatomy(_rng(1, "anatomy")).joint_space
    phantom = make_phantom(1, size=64, spacing_mm=0.6)
    space = minimal_joint_space(phantom.label, phantom.affine, phantom.joint_center_mm, phantom.side)
    assert space.distance_mm == pytest.approx(0.98 * drawn, abs=0.2)


def test_what_is_far_from_the_joint_does_not_count():
    label = np.zeros((60, 60, 60), dtype=np.uint8)
    label[25:35, 25:35, 20:28], label[25:35, 25:35, 32:40] = 1, 2
    label[0:8, 0:8, 0:8], label[0:8, 0:8, 9:17] = 1, 2
    center = (30, 30, 30)
    assert minimal_joint_space(label, np.eye(4), center, radius_mm=15).distance_mm == pytest.approx(4, abs=0.4)
    assert minimal_joint_space(label, np.eye(4), center, radius_mm=60).distance_mm == pytest.approx(1, abs=0.4)


def test_only_a_box_round_the_joint_is_looked_at():
    sizes = []

    class Watched(np.ndarray):
        def __eq__(self, other):
            sizes.append(self.size)
            return np.asarray(self) == other

        __hash__ = None

    label = np.zeros((120, 120, 120), dtype=np.uint8)
    label[60:64, 60:64, 60:62], label[60:64, 60:64, 64:66] = 1, 2
    minimal_joint_space(label.view(Watched), np.eye(4), (62, 62, 63), radius_mm=5)
    assert max(sizes) <= 22**3


@pytest.mark.parametrize(
    ("values", "missing"),
    [((1,), "no skull"), ((2,), "no mandible"), ((), "no mandible and no skull")],
)
def test_a_bone_that_is_not_there(values, missing):
    label = np.zeros((20, 20, 40), dtype=np.uint8)
    for value in values:
        label[:, :, 8 * value] = value
    space = minimal_joint_space(label, np.eye(4), (10, 10, 12), "left")
    assert space.distance_mm is space.mandible_mm is space.skull_mm is None
    assert space.reason == f"{missing} within {RADIUS_MM:g} mm of the left joint"


def test_a_joint_outside_of_the_volume():
    label = np.ones((8, 8, 8), dtype=np.uint8)
    space = minimal_joint_space(label, np.eye(4), (500, 0, 0))
    assert space.reason == "no mandible and no skull within 15 mm of the joint"


@pytest.mark.parametrize("options", [{"center_mm": (0, 0)}, {"center_mm": (0, np.nan, 0)}, {"radius_mm": 0}])
def test_wrong_numbers(options):
    with pytest.raises(ValueError, match="centre must be 3 finite numbers in mm and `radius_mm` above 0, got"):
        minimal_joint_space(np.zeros((4, 4, 4), dtype=np.uint8), np.eye(4), **{"center_mm": (1, 1, 1), **options})
