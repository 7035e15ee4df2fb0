"""Scans on the working grid: right in the world, whatever their axes."""

from itertools import product

import nibabel as nib
import numpy as np
import pytest

from bertswin_ext.data.preparation.working_grid import WorkingGrid, orient
from bertswin_ext.errors import VolumeError
from bertswin_ext.geometry import moved
from tests.unit.data.worlds import hounsfield

SPACING = (0.5, 0.8, 1.1)
SIZE = (18, 14, 12)
SWAPS = ((0, 1, 2), (2, 0, 1), (1, 0, 2))


def world(affine, shape):
    return hounsfield(moved(affine, np.moveaxis(np.indices(shape), 0, -1)))


def turned(signs=(1, 1, 1), swap=(0, 1, 2), angle_deg=0.0, spacing=SPACING, size=SIZE):
    """A volume whose values are linear in the world, with flipped, swapped and tilted axes."""
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    affine[:3, :3] *= np.array(spacing) * signs
    affine[:3, 3] = (3.0, -7.0, 11.0)
    affine[:, :3] = affine[:, list(swap)]
    shape = tuple(np.array(size)[list(swap)])
    return world(affine, shape), affine


def grid_of(scan, spacing_mm=0.5):
    return WorkingGrid(scan.voxels.shape, scan.affine, spacing_mm)


@pytest.mark.parametrize("swap", SWAPS)
@pytest.mark.parametrize("signs", list(product((1, -1), repeat=3)))
@pytest.mark.parametrize("angle_deg", [0.0, 14.0])
def test_values_keep_their_place_in_the_world(signs, swap, angle_deg):
    voxels, affine = turned(signs, swap, angle_deg)
    scan = orient(voxels, affine, "a.nii")
    assert nib.aff2axcodes(scan.affine) == ("R", "A", "S")
    np.testing.assert_allclose(scan.voxels, world(scan.affine, scan.voxels.shape), atol=1e-8)
    grid = grid_of(scan)
    box = ((2, 3, 1), (9, 20, 25))
    values = grid.values(scan.voxels, box)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, world(grid.affine(box[0]), values.shape), atol=2e-3)


def test_orienting_copies_nothing():
    voxels, affine = turned((-1, 1, -1), (2, 0, 1))
    assert np.shares_memory(orient(voxels, affine, "a.nii").voxels, voxels)


def test_the_grid_ends_with_the_scan():
    scan = orient(*turned(), "a.nii")
    grid = grid_of(scan, 0.25)
    last, corner = moved(grid.affine(), np.array(grid.size) - 1), moved(scan.affine, np.array(scan.voxels.shape) - 1)
    assert (last <= corner + 1e-9).all()
    assert (last > corner - 0.25).all()
    # 17 steps of 0.5 mm are 34 of 0.25 mm; 13 of 0.8 mm are 41.6, 11 of 1.1 mm are 48.4
    assert grid.size == (35, 42, 49)


def test_a_scan_with_the_spacing_is_cut_and_not_touched():
    voxels = np.random.default_rng(0).integers(-1000, 2000, (12, 13, 14)).astype(np.int16)
    grid = WorkingGrid(voxels.shape, np.diag([0.2, 0.2, 0.2, 1.0]), 0.2)
    assert grid.size == voxels.shape
    box = ((1, 2, 3), (12, 13, 10))
    np.testing.assert_array_equal(grid.values(voxels, box), voxels[1:12, 2:13, 3:10])


def test_a_rounded_spacing_does_not_lose_the_last_voxels():
    spacing = float(np.float32(0.2))
    grid = WorkingGrid((500, 500, 500), np.diag([spacing, spacing, 0.2000001, 1.0]), 0.2)
    assert grid.size == (500, 500, 500)


def test_a_coarser_grid_averages():
    """Voxels of alternating sign vanish when they are resampled to twice their size, and a constant stays."""
    stripes = np.broadcast_to(np.where(np.arange(40) % 2, 100.0, -100.0)[:, None, None], (40, 4, 4)) + 7.0
    grid = WorkingGrid(stripes.shape, np.diag([0.5, 1.0, 1.0, 1.0]), 1.0)
    values = grid.values(stripes, ((0, 0, 0), grid.size))
    np.testing.assert_allclose(values[1:-1], 7.0, atol=1e-4)


def test_labels_are_those_of_the_nearest_voxel():
    label = np.zeros((6, 6, 6), dtype=np.uint8)
    label[2, 3, 4] = 2
    grid = WorkingGrid(label.shape, np.diag([1.0, 1.0, 1.0, 1.0]), 0.25)
    fine = grid.labels(label, ((0, 0, 0), grid.size))
    assert fine.dtype == np.uint8
    lit = np.argwhere(fine == 2)
    assert np.abs(lit.mean(axis=0) * 0.25 - (2, 3, 4)).max() <= 0.125
    assert len(lit) == pytest.approx(64, rel=0.9)


def test_a_box_lies_around_its_point_and_within_the_scan():
    grid = WorkingGrid((100, 100, 100), np.diag([0.4, 0.4, 0.4, 1.0]), 0.2)
    assert grid.size == (199, 199, 199)
    assert grid.box_around((20.0, 20.0, 20.0), 40) == ((80, 80, 80), (120, 120, 120))
    assert grid.box_around((1.0, 20.0, 39.0), 40) == ((0, 80, 175), (25, 120, 199))
    assert grid.index_of((1.0, 20.0, 39.0)) == pytest.approx([5, 100, 195])


def test_a_sheared_grid_is_refused():
    affine = np.eye(4)
    affine[0, 2] = 0.3
    with pytest.raises(VolumeError, match=r"a\.nii: the axes of the grid are 16\.7 degrees away from perpendicular"):
        orient(np.zeros((4, 4, 4)), affine, "a.nii")
