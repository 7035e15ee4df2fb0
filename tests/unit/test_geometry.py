"""Points, grids and the field of view in space."""

import dataclasses
import json

import numpy as np
import pytest

from bertswin_ext.geometry import FieldOfView, is_inside, moved, spacing_of

UPRIGHT = FieldOfView((10.0, -20.0, 30.0), 88.0)
TILTED = FieldOfView((10.0, -20.0, 30.0), 88.0, (1.0, 2.0, 3.0))


def rotation(seed):
    """A random rotation, (3, 3)."""
    turn, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))
    return turn * np.sign(np.linalg.det(turn))


def affine_of(seed, spacing=(0.2, 0.4, 0.5)):
    rng = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rotation(seed) * spacing, rng.uniform(-100, 100, 3)
    return affine


# --- points and grids ---


def test_moved_is_the_product_with_homogeneous_points():
    affine, points = affine_of(0), np.random.default_rng(1).uniform(-9, 9, (4, 5, 3))
    expected = (affine @ np.concatenate([points, np.ones((4, 5, 1))], axis=-1)[..., None])[..., :3, 0]
    assert np.allclose(moved(affine, points), expected)
    assert moved(affine, points[0, 0]).shape == (3,)


def test_moved_there_and_back():
    affine, points = affine_of(2), np.random.default_rng(3).uniform(-300, 300, (50, 3))
    assert np.allclose(moved(np.linalg.inv(affine), moved(affine, points)), points)


def test_moved_twice_is_moved_by_the_product():
    first, second, points = affine_of(4), affine_of(5), np.arange(12.0).reshape(4, 3)
    assert np.allclose(moved(second, moved(first, points)), moved(second @ first, points))


def test_moved_takes_lists_of_whole_numbers():
    assert moved([[2, 0, 0, 1], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]], [[1, 2, 3]]).tolist() == [[3.0, 4.0, 6.0]]


@pytest.mark.parametrize("seed", range(3))
def test_spacing_does_not_depend_on_the_rotation(seed):
    assert np.allclose(spacing_of(affine_of(seed)), [0.2, 0.4, 0.5])
    assert np.allclose(spacing_of(affine_of(seed)[:, [2, 0, 1, 3]]), [0.5, 0.2, 0.4])


# --- field of view ---


def test_an_upright_cylinder_has_no_ends():
    heights = np.array([-1e4, 30.0, 1e4])
    inside = np.stack([np.full(3, 10.0 + 87.9), np.full(3, -20.0), heights], axis=-1)
    assert UPRIGHT.contains(inside).all()
    assert not UPRIGHT.contains(inside + np.array([0.2, 0.0, 0.0])).any()
    assert UPRIGHT.contains([[98.0, -20.0, 0.0]]).all()  # the rim itself


def test_an_upright_cylinder_is_the_one_of_the_paper():
    """88 mm are the 440 voxels of 0.2 mm of arXiv 2512.21769."""
    points = np.random.default_rng(0).uniform(-100, 100, (1000, 3))
    inside = FieldOfView((0.0, 0.0, 0.0), 88.0).contains(points)
    assert np.array_equal(inside, np.hypot(points[:, 0], points[:, 1]) <= 440 * 0.2)
    assert 0.4 < inside.mean() < 0.8


@pytest.mark.parametrize("fov", [UPRIGHT, TILTED, FieldOfView((0, 0, 0), 1, (0, 1, 0)), FieldOfView((0, 0, 0), 1)])
def test_axes_across_make_a_right_handed_frame(fov):
    frame = np.stack([*fov.across(), fov.axis])
    assert np.allclose(frame @ frame.T, np.eye(3))
    assert np.linalg.det(frame) == pytest.approx(1.0)


def test_distances_are_those_of_the_cross_product():
    points = np.random.default_rng(1).uniform(-200, 200, (6, 7, 3))
    expected = np.linalg.norm(np.cross(points - TILTED.center_mm, TILTED.axis), axis=-1)
    assert np.allclose(TILTED.distances_mm(points), expected)
    assert TILTED.distances_mm(points[0, 0]).shape == ()


def test_distances_stay_when_points_slide_along_the_axis_or_turn_about_it():
    points = np.random.default_rng(2).uniform(-200, 200, (20, 3))
    before = TILTED.distances_mm(points)
    assert np.allclose(TILTED.distances_mm(points + 123.0 * np.array(TILTED.axis)), before)
    u, v = TILTED.across()
    offsets = points - TILTED.center_mm
    turned = np.outer(offsets @ u, v) - np.outer(offsets @ v, u) + np.outer(offsets @ TILTED.axis, TILTED.axis)
    assert np.allclose(TILTED.distances_mm(turned + TILTED.center_mm), before)


@pytest.mark.parametrize("seed", range(3))
def test_a_field_of_view_moves_with_the_world(seed):
    turn, points = rotation(seed), np.random.default_rng(seed).uniform(-200, 200, (30, 3))
    turned = FieldOfView(tuple(turn @ TILTED.center_mm), 88.0, tuple(turn @ TILTED.axis))
    assert np.allclose(turned.distances_mm(points @ turn.T), TILTED.distances_mm(points))


def test_the_axis_is_a_unit_vector_and_may_point_either_way():
    assert np.allclose(TILTED.axis, np.array([1, 2, 3]) / np.sqrt(14))
    back = FieldOfView(TILTED.center_mm, 88.0, (-10.0, -20.0, -30.0))
    points = np.random.default_rng(3).uniform(-200, 200, (30, 3))
    assert np.allclose(back.distances_mm(points), TILTED.distances_mm(points))


def test_a_field_of_view_is_a_value():
    same = FieldOfView(np.array([10, -20, 30]), np.float32(88), [0, 0, 2])
    assert same == UPRIGHT
    assert hash(same) == hash(UPRIGHT)
    assert UPRIGHT.axis == (0.0, 0.0, 1.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        UPRIGHT.radius_mm = 1.0


@pytest.mark.parametrize("fov", [UPRIGHT, TILTED])
def test_a_datalist_keeps_it(fov):
    again = FieldOfView.of_item(json.loads(json.dumps(fov.to_item())))
    points = np.random.default_rng(4).uniform(-200, 200, (30, 3))
    assert np.allclose(again.distances_mm(points), fov.distances_mm(points), rtol=0, atol=1e-9)
    assert again.radius_mm == fov.radius_mm


def test_a_datalist_may_leave_out_the_axis():
    assert FieldOfView.of_item({"center_mm": [10, -20, 30], "radius_mm": 88}) == UPRIGHT


# --- messages ---


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"center_mm": [0, 0, 0]}, r"must be \{\"center_mm\": .*; missing: radius_mm, unknown: nothing\."),
        ({}, r"missing: center_mm, radius_mm, unknown: nothing\."),
        ({"center_mm": [0, 0, 0], "radius": 1}, r"missing: radius_mm, unknown: radius\."),
        ({"center_mm": [0, 0, 0], "radius_mm": 0}, r"`radius_mm` must be above 0 mm, got 0\."),
        ({"center_mm": [0, 0, 0], "radius_mm": -1.5}, r"`radius_mm` must be above 0 mm, got -1\.5\."),
        ({"center_mm": [0, 0, 0], "radius_mm": float("nan")}, r"`radius_mm` must be above 0 mm, got nan\."),
        ({"center_mm": [0, 0, 0], "radius_mm": float("inf")}, r"`radius_mm` must be above 0 mm, got inf\."),
        ({"center_mm": [0, 0, 0], "radius_mm": "88"}, r"`radius_mm` must be above 0 mm, got '88'\."),
        ({"center_mm": [0, 0, 0], "radius_mm": None}, r"`radius_mm` must be above 0 mm, got None\."),
        ({"center_mm": [0, 0], "radius_mm": 1}, r"`center_mm` must be 3 finite numbers, got \[0, 0\]\."),
        ({"center_mm": "abc", "radius_mm": 1}, r"`center_mm` must be 3 finite numbers, got 'abc'\."),
        ({"center_mm": [0, 0, float("nan")], "radius_mm": 1}, r"`center_mm` must be 3 finite numbers, got \[0, 0, nan"),
        ({"center_mm": [0, 0, 0], "radius_mm": 1, "axis": [0, 0, 0]}, r"`axis` must not be 0\. Use \[0, 0, 1\]"),
        ({"center_mm": [0, 0, 0], "radius_mm": 1, "axis": None}, r"`axis` must be 3 finite numbers, got None\."),
    ],
)
def test_messages(entry, message):
    with pytest.raises(ValueError, match=message):
        FieldOfView.of_item(entry)


@pytest.mark.parametrize(
    ("index", "inside"),
    [((0, 0, 0), True), ((-0.5, 4.5, 2.5), True), ((-0.51, 0, 0), False), ((0, 4.51, 0), False), ((0, 0, 3), False)],
)
def test_a_volume_reaches_half_a_voxel_beyond_its_outer_centres(index, inside):
    assert is_inside(index, (4, 5, 3)) is inside
