"""Crops are planned where they are wanted: in millimetres, whatever the volume's axes."""

import pickle
from itertools import product

import numpy as np
import pytest

from bertswin_ext.geometry import FieldOfView, moved, spacing_of
from bertswin_ext.transforms.crop_plan import bounds, center_range, feasible_center, plan_crop
from tests.unit.transforms.crop_worlds import WORLDS, affine_of, indices, turn

SHAPE = (20, 24, 18)
CENTER = (9.3, 11.0, 8.6)


def plan(affine=WORLDS["plain"], shape=SHAPE, size=(8, 6, 7), center=CENTER, **pose):
    return plan_crop(shape, affine, size, center, **pose)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("rotation", [(0, 0, 0), (12, -7, 5)])
def test_the_middle_of_the_crop_is_its_centre(rotation, mirror):
    crop = plan(rotation_deg=rotation, scale=1.1, mirror=mirror)
    np.testing.assert_allclose(moved(crop.matrix, (3.5, 2.5, 3.0)), CENTER, atol=1e-12)


@pytest.mark.parametrize("affine", WORLDS.values(), ids=WORLDS)
@pytest.mark.parametrize("mirror", [False, True])
def test_a_crop_is_rigid_in_millimetres(affine, mirror):
    """Its axes are at right angles, its voxels have the volume's spacing over the scale."""
    crop = plan(affine, rotation_deg=(12, -7, 5), scale=1.1, mirror=mirror)
    steps = crop.crop_affine[:3, :3]
    np.testing.assert_allclose(steps.T @ steps, np.diag((spacing_of(affine) / 1.1) ** 2), atol=1e-12)
    assert np.sign(np.linalg.det(steps)) == np.sign(np.linalg.det(affine[:3, :3])) * (-1 if mirror else 1)


def test_turned_about_i_then_j_then_k():
    for axis in range(3):
        angles = np.zeros(3)
        angles[axis] = 10.0
        np.testing.assert_allclose(plan(rotation_deg=angles).matrix[:3, :3], turn(axis, 10.0), atol=1e-12)
    expected = turn(2, 5.0) @ turn(1, -7.0) @ turn(0, 12.0)
    np.testing.assert_allclose(plan(rotation_deg=(12, -7, 5)).matrix[:3, :3], expected, atol=1e-12)


def test_the_rotation_is_about_the_volumes_axes_in_millimetres():
    affine = WORLDS["oblique and anisotropic"]
    crop = plan(affine, rotation_deg=(12, -7, 5))
    axes = affine[:3, :3] / spacing_of(affine)
    expected = axes @ turn(2, 5.0) @ turn(1, -7.0) @ turn(0, 12.0) @ np.diag(spacing_of(affine))
    np.testing.assert_allclose(crop.crop_affine[:3, :3], expected, atol=1e-12)


def test_a_larger_scale_covers_less():
    low, high = bounds(plan(scale=2.0).matrix, (8, 6, 7))
    np.testing.assert_allclose(high - low, [3.5, 2.5, 3.0])


def test_mirroring_reverses_the_first_axis_of_the_crop():
    plain, mirrored = (plan(rotation_deg=(12, -7, 5), scale=0.9, mirror=mirror) for mirror in (False, True))
    grid = indices((8, 6, 7))
    np.testing.assert_allclose(moved(mirrored.matrix, grid), moved(plain.matrix, grid)[::-1], atol=1e-12)


@pytest.mark.parametrize("mirror", [False, True])
def test_a_crop_that_is_not_turned_steps_by_exactly_one(mirror):
    matrix = plan(WORLDS["anisotropic"], mirror=mirror).matrix
    assert np.array_equal(np.abs(matrix[:3, :3]), np.eye(3))


@pytest.mark.parametrize("seed", range(6))
def test_the_box_is_the_smallest_that_holds_every_voxels_neighbours(seed):
    rng = np.random.default_rng(seed)
    center = rng.uniform(-2, np.array(SHAPE) + 1)
    crop = plan(center=center, rotation_deg=rng.uniform(-30, 30, 3), scale=rng.uniform(0.8, 1.2), mirror=seed % 2 == 1)
    places = moved(crop.matrix, indices(crop.size)).reshape(-1, 3)
    last = np.array(SHAPE) - 1
    start, stop = crop.box
    assert start == tuple(np.clip(np.floor(places.min(axis=0)), 0, last).astype(int))
    assert stop == tuple(np.clip(np.ceil(places.max(axis=0)), 0, last).astype(int) + 1)


def test_a_crop_on_the_grid_needs_its_own_voxels_only():
    crop = plan(size=(4, 4, 3), center=(9.5, 11.5, 8.0 + 1e-9))
    assert crop.box == ((8, 10, 7), (12, 14, 10))


def test_a_box_is_never_empty():
    low_end = plan(size=(4, 4, 4), center=(-1.9, 11.5, 8.5))
    assert low_end.box == ((0, 10, 7), (1, 14, 11))
    high_end = plan(size=(4, 4, 4), center=(20.9, 11.5, 8.5))
    assert high_end.box == ((19, 10, 7), (20, 14, 11))


@pytest.mark.parametrize(
    ("center", "ends"),
    [((-2.1, 11.5, 8.5), r"\(-3\.6, 10\.0, 7\.0\) to \(-0\.6, 13\.0, 10\.0\)"), ((9.5, 11.5, 90.0), r"\(8\.0.* 91\.5")],
)
def test_a_crop_outside_the_volume(center, ends):
    crop = plan_crop(SHAPE, np.eye(4), (4, 4, 4), center, file="/data/a.nii")
    with pytest.raises(
        ValueError, match=rf"^/data/a\.nii: the crop from {ends}.* lies wholly outside the volume of 20"
    ):
        _ = crop.box


def test_a_volume_without_a_file_has_a_name():
    with pytest.raises(ValueError, match=r"^the volume: the crop from"):
        _ = plan(center=(99, 0, 0)).box


@pytest.mark.parametrize("affine", WORLDS.values(), ids=WORLDS)
def test_crop_box_and_volume_lie_in_one_world(affine):
    crop = plan(affine, rotation_deg=(12, -7, 5), scale=0.9, mirror=True)
    np.testing.assert_allclose(crop.box_affine @ crop.box_matrix, crop.crop_affine, atol=1e-12)
    np.testing.assert_allclose(moved(crop.box_affine, (0, 0, 0)), moved(affine, crop.box[0]), atol=1e-12)
    assert crop.box[0] != (0, 0, 0)


def test_bounds_are_those_of_the_corners():
    matrix = plan(rotation_deg=(40, -70, 15), scale=1.3, mirror=True).matrix
    corners = moved(matrix, list(product((0, 7), (0, 5), (0, 6))))
    low, high = bounds(matrix, (8, 6, 7))
    np.testing.assert_allclose(low, corners.min(axis=0), atol=1e-12)
    np.testing.assert_allclose(high, corners.max(axis=0), atol=1e-12)


@pytest.mark.parametrize(
    ("size", "scale", "low", "high"),
    [
        ((20, 8, 5), 1.0, (9.5, 3.5, 2.0), (9.5, 19.5, 15.0)),
        ((22, 24, 18), 1.0, (9.5, 11.5, 8.5), (9.5, 11.5, 8.5)),
        ((22, 11, 9), 1.1, (9.5, 4.5, 90 / 22 - 0.5), (9.5, 18.5, 17.5 - 90 / 22)),
    ],
)
def test_where_a_centre_may_be(size, scale, low, high):
    found = center_range(SHAPE, size, scale)
    np.testing.assert_allclose(found, (low, high), atol=1e-12)


def draws(num=200):
    rng = np.random.default_rng(0)
    return rng.uniform(-15, np.array(SHAPE) + 15, (num, 3))


def test_the_cube_is_put_into_the_volume():
    for center in draws():
        found = feasible_center(center, SHAPE, np.eye(4), (8, 6, 30), scale=0.9)
        reach = np.array([8, 6]) / 0.9 / 2
        assert (found[:2] - reach >= -0.5 - 1e-9).all()
        assert (found[:2] + reach <= np.array(SHAPE[:2]) - 0.5 + 1e-9).all()
        assert found[2] == 8.5
        moved_axes = np.abs(found[:2] - center[:2]) > 1e-9
        at_wall = np.isclose(found[:2] - reach, -0.5) | np.isclose(found[:2] + reach, np.array(SHAPE[:2]) - 0.5)
        assert (at_wall | ~moved_axes).all()


@pytest.mark.parametrize("affine", WORLDS.values(), ids=WORLDS)
def test_and_its_middle_into_the_field_of_view(affine):
    fov = FieldOfView(tuple(moved(affine, (3.0, 5.0, 9.0))), 3.0, axis=(0.2, -0.1, 1.0))
    low, high = center_range(SHAPE, (4, 4, 4))
    for center in draws():
        found = feasible_center(center, SHAPE, affine, (4, 4, 4), fov=fov)
        assert fov.distances_mm(moved(affine, found)) <= 3.0 + 0.05
        assert ((found >= low) & (found <= high)).all()


def test_it_is_pulled_straight_to_the_axis():
    affine = affine_of((0.5, 0.5, 0.5), oblique=(0, 0, 30))
    fov = FieldOfView(tuple(moved(affine, (9.5, 11.5, 8.5))), 2.0, axis=(0, 0, 1))
    found = feasible_center((9.5 + 6.0, 11.5, 4.0), SHAPE, affine, (2, 2, 2), fov=fov)
    np.testing.assert_allclose(found, (9.5 + 4.0, 11.5, 4.0), atol=1e-9)


def test_what_is_feasible_stays():
    fov = FieldOfView((9.5, 11.5, 8.5), 8.0)
    for wanted in [(9.3, 11.1, 8.2), (9.5 + 7.9, 11.5, 8.5)]:
        np.testing.assert_array_equal(feasible_center(wanted, SHAPE, np.eye(4), (2, 2, 2), fov=fov), wanted)


def test_the_volume_wins_where_both_exclude_each_other():
    fov = FieldOfView((100.0, 100.0, 0.0), 5.0)
    found = feasible_center((9.0, 9.0, 9.0), SHAPE, np.eye(4), (4, 4, 4), fov=fov)
    np.testing.assert_allclose(found[:2], (17.5, 21.5))


def test_a_plan_travels():
    crop = plan(rotation_deg=(1, 2, 3), file="/data/a.nii")
    twin = pickle.loads(pickle.dumps(crop))
    for name in ("matrix", "affine", "crop_affine", "box_matrix"):
        assert np.array_equal(getattr(twin, name), getattr(crop, name))
    assert (twin.size, twin.shape, twin.file, twin.box) == (crop.size, crop.shape, crop.file, crop.box)
