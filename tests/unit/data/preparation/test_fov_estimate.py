"""The cylinder around which a scanner writes a constant, from the voxels alone."""

import os
from pathlib import Path

import numpy as np
import pytest

from bertswin_ext.data import make_phantom
from bertswin_ext.data.preparation.fov_estimate import estimate_field_of_view, fill_value
from bertswin_ext.data.reading.volume_reader import VolumeReader
from bertswin_ext.geometry import FieldOfView, moved

REAL = Path(os.environ.get("BERTSWIN_REAL_DATA", Path(__file__).resolve().parents[5] / "shared" / "data" / "real"))


def world_of(shape, affine):
    return moved(affine, np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1))


def noise(shape, seed=0):
    """Soft tissue of a cone-beam scanner, without a constant anywhere."""
    return np.random.default_rng(seed).normal(40, 90, shape).astype(np.float32)


def scan(fov, affine, shape=(60, 60, 20), fill=-1000.0, dtype=np.int16):
    values = np.where(fov.contains(world_of(shape, affine)), noise(shape).astype(float), fill)
    return np.rint(values).astype(dtype) if np.issubdtype(dtype, np.integer) else values.astype(dtype)


def straight(spacing=(0.4, 0.4, 0.4), origin=(0.0, 0.0, 0.0)):
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    return affine


def tilted(degrees, spacing=0.4):
    t = np.radians(degrees)
    affine = straight()
    affine[:3, :3] = spacing * np.array([[np.cos(t), 0, np.sin(t)], [0, 1, 0], [-np.sin(t), 0, np.cos(t)]])
    return affine


def apart_mm(found, fov, shape, affine):
    """How far the wall of one cylinder lies from the other's, at most, inside the volume."""
    points = world_of(shape, affine).reshape(-1, 3)
    wall = points[abs(fov.distances_mm(points) - fov.radius_mm) < 0.5]
    return abs((found.distances_mm(wall) - found.radius_mm) - (fov.distances_mm(wall) - fov.radius_mm)).max()


def assert_near(found, fov, tolerance_mm):
    """Same radius, same axis as a line in space."""
    assert found is not None
    assert found.radius_mm == pytest.approx(fov.radius_mm, abs=tolerance_mm)
    assert np.allclose(found.axis, fov.axis, atol=1e-6)
    assert float(fov.distances_mm(found.center_mm)) < tolerance_mm


# --- what is found ---


@pytest.mark.parametrize(
    ("center", "radius"),
    [
        ((12.0, 12.0), 8.0),  # whole
        ((11.3, 12.9), 10.7),
        ((12.0, 12.0), 13.5),  # larger than half the volume: its corners are cut
        ((-4.0, 12.0), 24.0),  # an edge is cut
        ((2.1, 3.3), 19.0),  # a corner is cut
        ((22.0, -1.0), 22.5),
        ((30.0, 12.0), 25.0),
    ],
)
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_a_cylinder_is_found_to_a_voxel(center, radius, dtype):
    fov = FieldOfView((*center, 0.0), radius)
    assert_near(estimate_field_of_view(scan(fov, straight(), dtype=dtype), straight()), fov, 0.4)


@pytest.mark.parametrize("seed", range(8))
def test_any_cylinder_is_found_to_a_voxel(seed):
    """Not only the ones that a person thinks of."""
    rng = np.random.default_rng(seed)
    shape, spacing = rng.integers(50, 90, 3), rng.uniform(0.2, 0.6, 3)
    affine = straight(spacing, rng.uniform(-100, 100, 3))
    middle = moved(affine, shape / 2)
    half_mm = float(min(shape[:2] * spacing[:2])) / 2
    center = [*(middle[:2] + rng.uniform(-0.4, 0.4, 2) * half_mm), middle[2]]
    fov = FieldOfView(tuple(center), half_mm * rng.uniform(0.6, 1.3))
    found = estimate_field_of_view(scan(fov, affine, tuple(shape)), affine)
    assert_near(found, fov, max(spacing[:2]))
    assert apart_mm(found, fov, tuple(shape), affine) < max(spacing[:2])


def test_a_flat_arc_is_right_where_it_was_seen():
    """Half a voxel at the wall, while the radius is known to some hundredths only."""
    fov, affine, shape = FieldOfView((-66.0, 15.0, 0.0), 88.0), straight(), (70, 80, 16)
    found = estimate_field_of_view(scan(fov, affine, shape), affine)
    assert apart_mm(found, fov, shape, affine) < 0.2
    assert found.radius_mm == pytest.approx(88.0, rel=0.05)


@pytest.mark.parametrize("oblique_deg", [0.0, 4.0, 12.0, 30.0])
@pytest.mark.parametrize(("size", "spacing_mm"), [(64, 2.8), ((80, 72, 48), (2.2, 2.5, 3.0))])
def test_phantoms(oblique_deg, size, spacing_mm):
    phantom = make_phantom(3, size, spacing_mm, oblique_deg=oblique_deg)
    found = estimate_field_of_view(phantom.image, phantom.affine)
    assert_near(found, FieldOfView((0.0, 0.0, 0.0), 88.0), 0.3 * np.max(spacing_mm))


@pytest.mark.parametrize("oblique_deg", [0.0, 12.0])
def test_a_crop_around_a_joint(oblique_deg):
    """The rim runs through it, as in the regions that training crops from."""
    phantom = make_phantom(1, (80, 80, 48), 0.8, side="right", oblique_deg=oblique_deg)
    found, fov = estimate_field_of_view(phantom.image, phantom.affine), FieldOfView((0.0, 0.0, 0.0), 88.0)
    assert_near(found, fov, 2.5)
    assert apart_mm(found, fov, phantom.image.shape, phantom.affine) < 0.4


def test_axis_of_an_oblique_grid():
    """The scanner stands upright in the world, or along the grid; both are looked for."""
    affine = tilted(10.0)
    upright = FieldOfView((11.0, 12.0, 0.0), 10.0)
    leaning = FieldOfView((13.0, 12.0, 0.0), 10.0, tuple(affine[:3, 2]))
    for fov in (upright, leaning):
        assert_near(estimate_field_of_view(scan(fov, affine, (60, 60, 40)), affine), fov, 0.2)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1)])
def test_the_order_of_the_axes_in_the_file_plays_no_part(axes, flips):
    fov, affine, shape = FieldOfView((11.0, 14.0, 0.0), 9.0), straight((0.4, 0.5, 0.6)), (60, 60, 20)
    stored = scan(fov, affine, shape).transpose(axes)[tuple(slice(None, None, step) for step in flips)]
    to_index = np.eye(4)
    to_index[:3, :3] = np.eye(3)[:, list(axes)] * flips
    for new, (old, step) in enumerate(zip(axes, flips, strict=True)):
        to_index[old, 3] = shape[old] - 1 if step < 0 else 0
        to_index[old, new] = step
    assert_near(estimate_field_of_view(stored, affine @ to_index), fov, 0.4)


@pytest.mark.parametrize(
    ("fill", "dtype"), [(-1000, np.int16), (0, np.uint16), (-32768, np.int16), (0.1, np.float32), (3000.5, np.float64)]
)
def test_any_constant_will_do(fill, dtype):
    fov = FieldOfView((12.0, 12.0, 0.0), 10.0)
    volume = scan(fov, straight(), fill=fill, dtype=np.float64)
    volume = np.where(volume == fill, fill, abs(volume) + 1).astype(dtype)
    found = estimate_field_of_view(volume, straight())
    assert_near(found, fov, 0.4)
    assert fill_value(volume, straight(), found) == dtype(fill)


def test_large_volumes_are_sampled():
    fov, affine = FieldOfView((50.0, 60.0, 0.0), 55.0), straight((0.2, 0.1, 0.1))
    shape = (520, 1100, 130)
    inside = fov.contains(world_of((*shape[:2], 1), affine))
    volume = np.broadcast_to(np.where(inside, np.rint(noise((*shape[:2], 1))), -1000).astype(np.int16), shape)
    assert_near(estimate_field_of_view(volume, affine), fov, 0.2)


# --- what may disturb ---


def test_the_two_ends_may_be_filled_too():
    fov = FieldOfView((12.0, 12.0, 0.0), 10.0)
    volume = scan(fov, straight(), (60, 60, 40))
    volume[..., :6] = volume[..., 36:] = -1000
    assert_near(estimate_field_of_view(volume, straight()), fov, 0.4)


def test_letters_burnt_into_a_corner():
    fov = FieldOfView((12.0, 12.0, 0.0), 10.0)
    volume = scan(fov, straight(), (60, 60, 20))
    volume[1:3, 1:4] = 3000
    assert_near(estimate_field_of_view(volume, straight()), fov, 0.4)


def test_single_voxels_outside_do_not_count():
    fov = FieldOfView((12.0, 12.0, 0.0), 10.0)
    volume = scan(fov, straight(), (60, 60, 256))
    outside = np.argwhere(volume == -1000)
    volume[tuple(outside[::2000].T)] += 1
    assert_near(estimate_field_of_view(volume, straight()), fov, 0.4)


def test_air_inside_may_be_clipped_to_the_same_constant():
    fov = FieldOfView((12.0, 12.0, 0.0), 10.0)
    volume = scan(fov, straight(), (60, 60, 40)).astype(np.float32)
    distances = fov.distances_mm(world_of(volume.shape, straight()))
    air = (distances > 6.0) & (distances < 10.0)
    volume[air] = np.maximum(noise(volume.shape, 1)[air] - 1040.0, -1000.0)  # half of it is clipped
    volume[25:30, 25:30] = -1000.0  # a canal through all slices
    assert_near(estimate_field_of_view(volume, straight()), fov, 0.4)


def test_a_second_constant_in_the_corners():
    """Two edges lie in air that was clipped, inside the field of view; the fill of the others is another."""
    fov = FieldOfView((2.0, 12.0, 0.0), 20.0)
    volume = scan(fov, straight(), fill=-2000)
    volume[:4, :4] = volume[:4, -4:] = -1000
    assert_near(estimate_field_of_view(volume, straight()), fov, 0.4)


# --- what is not found ---


def head(shape, affine, half_axes, center):
    """An oval head without a neck, in air that was clipped to a constant."""
    inside = (((world_of(shape, affine) - center) / half_axes) ** 2).sum(axis=-1) < 1
    return np.where(inside, noise(shape), -1000).astype(np.float32)


@pytest.mark.parametrize("half_axes", [(75, 95, 110), (85, 88, 110), (88, 88, 110), (88, 88, 88)])
def test_a_head_in_clipped_air(half_axes):
    """Even a head that is round from above: the top of an egg is no wall."""
    shape, affine = (80, 80, 80), straight((2.5, 2.5, 3.0), (-100, -100, -120))
    assert estimate_field_of_view(head(shape, affine, half_axes, np.zeros(3)), affine) is None


@pytest.mark.parametrize("offset", [(50, 0, 0), (50, 40, 10), (60, 50, -30)])
def test_a_cheek_in_clipped_air(offset):
    shape, affine = (70, 70, 70), straight((1, 1, 1), np.array(offset) - 20.0)
    volume = head(shape, affine, (80, 95, 110), np.zeros(3))
    assert 0.05 < np.mean(volume == -1000) < 0.95
    assert estimate_field_of_view(volume, affine) is None


def blank(value=-1000):
    return np.full((40, 40, 20), value, dtype=np.float32)


def with_block(*box):
    volume = blank()
    volume[box] = noise(volume.shape)[box]
    return volume


@pytest.mark.parametrize(
    "volume",
    [
        noise((40, 40, 20)),
        np.rint(noise((40, 40, 20))).astype(np.int16),
        np.linspace(-1000, 1500, 6 * 5 * 4).reshape(6, 5, 4),
        blank(),
        with_block(slice(5, 30), slice(5, 35)),
        with_block(slice(0, 40), slice(0, 30)),
        with_block(slice(0, 40), slice(0, 40), slice(5, 10)),
        np.where(np.add.outer(np.arange(40), np.arange(40))[..., None] < 50, noise((40, 40, 20)), -1000),
        np.where(np.random.default_rng(0).random((40, 40, 20)) < 0.5, noise((40, 40, 20)), -1000),
        noise((1, 1, 1)),
        noise((2, 30, 1)),
    ],
    ids=[
        "noise",
        "whole_numbers",
        "ramp",
        "constant",
        "box",
        "half",
        "slab",
        "straight_corner",
        "salt",
        "voxel",
        "flat",
    ],
)
def test_no_cylinder(volume):
    assert estimate_field_of_view(volume, straight()) is None


@pytest.mark.parametrize(("radius", "is_found"), [(16.1, False), (15.3, True)])
def test_a_hundredth_must_lie_outside(radius, is_found):
    """The corners of a square of 24 mm lie 16.7 mm from its middle."""
    fov = FieldOfView((11.8, 11.8, 0.0), radius)
    volume = scan(fov, straight())
    assert 0.001 < np.mean(volume == -1000) < 0.02
    assert (estimate_field_of_view(volume, straight()) is not None) == is_found


def test_a_lying_cylinder_is_none():
    """Its axis is neither the volume's vertical nor the world's."""
    fov = FieldOfView((0.0, 12.0, 12.0), 9.0, (1.0, 0.0, 0.0))
    assert estimate_field_of_view(scan(fov, straight(), (60, 60, 60)), straight()) is None


def test_a_volume_has_three_axes():
    with pytest.raises(ValueError, match=r"must be \(i, j, k\), got \(1, 4, 4, 4\)"):
        estimate_field_of_view(np.zeros((1, 4, 4, 4)), np.eye(4))


# --- fill ---


def test_fill_is_the_value_outside():
    fov, affine = FieldOfView((12.0, 12.0, 0.0), 10.0), straight()
    volume = scan(fov, affine, fill=-1234)
    assert fill_value(volume, affine, fov) == -1234.0
    volume[0, 0] = 3000  # letters
    assert fill_value(volume, affine, fov) == -1234.0
    assert fill_value(volume, affine, FieldOfView((12.0, 12.0, 0.0), 100.0)) is None


def test_fill_of_a_large_oblique_volume():
    volume = np.broadcast_to(np.int16(-777), (300, 300, 100))
    assert fill_value(volume, tilted(20.0), FieldOfView((0.0, 0.0, 0.0), 30.0)) == -777.0


# --- real volumes ---


@pytest.mark.skipif(not REAL.is_dir(), reason="no real volumes: set BERTSWIN_REAL_DATA to the folder that holds them")
@pytest.mark.parametrize(
    ("name", "radius_mm"),
    [
        ("01_unc_cthead/unc_cthead_ct.nii.gz", 128.0),  # half of 256 voxels of 1 mm: CT scanners see a circle, too
        ("02_imagex_phantom_head/imagex_phantom_head_ct.nii.gz", None),  # cropped
        ("03_ge_head_tilt_dicom/dicom", None),  # the tilted stack leans within its grid
        ("04_totalseg_abdomen_ct_seg/example_ct.nii.gz", None),
        ("06_seg3d_tooth_nrrd/tooth.nhdr", None),
    ],
)
def test_real_volumes(name, radius_mm):
    reader = VolumeReader()
    volume, meta = reader.get_data(reader.read(str(REAL / name)))
    found = estimate_field_of_view(volume, meta["affine"])
    assert (found.radius_mm if found else None) == (radius_mm and pytest.approx(radius_mm, abs=0.2))
    assert found is None or fill_value(volume, meta["affine"], found) == -999.0
