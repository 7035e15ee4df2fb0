"""Voxels and label maps that cannot be what they should are refused."""

import nibabel as nib
import numpy as np
import pytest

from bertswin_ext.data.preparation.preparation_settings import PreparationSettings
from bertswin_ext.data.preparation.scan_reading import check_voxels, intensity_of, read_label, read_volume
from bertswin_ext.data.preparation.working_grid import OrientedScan, orient
from bertswin_ext.errors import VolumeError
from bertswin_ext.geometry import FieldOfView
from tests.unit.data.preparation.raw_scans import hu_of, phantom, write_nifti

SETTINGS = PreparationSettings()
LAS = np.diag([-1.0, 1.0, 1.0, 1.0])


def scan_of(shape=(6, 7, 8), affine=LAS):
    return orient(np.zeros(shape), affine, "a.nii")


def test_a_volume_as_stored(tmp_path):
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    found, affine = read_volume(write_nifti(tmp_path / "a.nii", voxels, LAS))
    np.testing.assert_array_equal(found, voxels)
    np.testing.assert_array_equal(affine, LAS)


@pytest.mark.parametrize(("edge", "found"), [(4e-4, "1 x 0.0004 x 1"), (400.0, "1 x 400 x 1")])
def test_a_spacing_in_other_units(tmp_path, edge, found):
    """In metres there would be one voxel to store, in micrometres more than fit into any memory."""
    path = write_nifti(tmp_path / "a.nii", np.zeros((2, 3, 4), np.int16), np.diag([-1.0, edge, 1.0, 1.0]))
    with pytest.raises(
        VolumeError, match=rf"a\.nii: voxels of {found} mm are those of no scanner, which has 0\.01 to 10"
    ):
        read_volume(path)


# --- voxels ---


@pytest.mark.parametrize("intensity", ["auto", "hu", "percentile"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, r"a\.nii: holds NaN or infinite voxels"),
        (-np.inf, r"a\.nii: holds NaN or infinite voxels"),
        (3.0, r"a\.nii: every voxel is 3\."),
    ],
)
def test_voxels_are_numbers_and_not_all_the_same(tmp_path, intensity, value, message):
    voxels = np.full((4, 4, 4), 3.0)
    voxels[1, 1, 1] = value
    with pytest.raises(VolumeError, match=message):
        check_voxels(tmp_path / "a.nii", voxels, intensity)


def test_only_auto_wants_hu(tmp_path):
    voxels = np.arange(64.0).reshape(4, 4, 4)
    check_voxels(tmp_path, voxels, "hu")
    check_voxels(tmp_path, voxels, "percentile")
    with pytest.raises(
        VolumeError, match=r"do not look like HU\. Correct the rescale tags, or choose `--intensity perc"
    ):
        check_voxels(tmp_path, voxels, "auto")
    check_voxels(tmp_path, hu_of(phantom()), "auto")


def test_percentile_does_not_count_the_fill():
    """Half the scan is fill far below air, which must not become the air."""
    hu = phantom().image
    filled = np.concatenate([hu, np.full_like(hu, -3000.0)])
    fov = FieldOfView((0.0, 0.0, 0.0), len(hu) - 0.5, (0.0, 1.0, 0.0))
    found = intensity_of(OrientedScan(filled, np.eye(4)), fov, "percentile")
    assert found == intensity_of(OrientedScan(hu, np.eye(4)), None, "percentile")
    assert found.method == "percentile"
    assert found != intensity_of(OrientedScan(filled, np.eye(4)), None, "percentile")


def test_hu_are_taken_as_they_are():
    for intensity in ("hu", "auto"):
        assert (intensity_of(scan_of(), None, intensity).scale, intensity_of(scan_of(), None, intensity).offset) == (
            1,
            0,
        )


# --- label maps ---


def label_file(tmp_path, values, affine=LAS, name="l.nii"):
    return write_nifti(tmp_path / name, np.asarray(values), affine)


def test_classes_on_the_grid_of_the_scan(tmp_path):
    values = np.random.default_rng(0).integers(0, 7, (6, 7, 8)).astype(np.int16)
    settings = PreparationSettings(mandible=(2, 4), skull=(5,))
    label = read_label(label_file(tmp_path, values), tmp_path / "a.nii", scan_of(), settings)
    flipped = values[::-1]
    assert label.voxels.dtype == np.uint8
    np.testing.assert_array_equal(label.voxels, np.where(np.isin(flipped, (2, 4)), 1, np.where(flipped == 5, 2, 0)))
    np.testing.assert_array_equal(label.affine, scan_of().affine)


def test_axes_of_the_label_map_may_have_another_order(tmp_path):
    """The same grid in space, stored with other axes."""
    values = np.random.default_rng(0).integers(0, 3, (6, 7, 8)).astype(np.uint8)
    straight = read_label(label_file(tmp_path, values), tmp_path / "a.nii", scan_of(), SETTINGS)
    turned = nib.as_closest_canonical(nib.Nifti1Image(values, LAS))
    swapped = label_file(
        tmp_path, np.asarray(turned.dataobj).transpose(2, 0, 1), turned.affine[:, [2, 0, 1, 3]], "s.nii"
    )
    np.testing.assert_array_equal(read_label(swapped, tmp_path / "a.nii", scan_of(), SETTINGS).voxels, straight.voxels)


@pytest.mark.parametrize(
    ("shape", "affine", "message"),
    [
        ((6, 7, 9), LAS, "6 x 7 x 9 and 6 x 7 x 8 voxels in RAS axes"),
        ((6, 7, 8), np.eye(4), r"corners 5\.0 mm apart\. Resample it onto the scan"),
        ((6, 7, 8), np.diag([-1.0, 1.0, 1.06, 1.0]), r"corners 0\.4 mm apart"),
    ],
)
def test_another_grid(tmp_path, shape, affine, message):
    path = label_file(tmp_path, np.ones(shape, np.uint8), affine)
    with pytest.raises(VolumeError, match=rf"l\.nii: the label map is not on the grid of its scan: .*{message}"):
        read_label(path, tmp_path / "a.nii", scan_of(), SETTINGS)


def test_a_rounded_affine_is_the_same_grid(tmp_path):
    affine = LAS.copy()
    affine[:3, 3] = 0.05
    read_label(label_file(tmp_path, np.ones((6, 7, 8), np.uint8), affine), tmp_path / "a.nii", scan_of(), SETTINGS)


def test_other_values(tmp_path):
    path = label_file(tmp_path, np.arange(6 * 7 * 8, dtype=np.int16).reshape(6, 7, 8) // 100 + 3)
    with pytest.raises(
        VolumeError, match=r"neither mandible \[1\] nor skull \[2\], only \[3.*6.*Say which values they are"
    ):
        read_label(path, tmp_path / "a.nii", scan_of(), SETTINGS)


def test_the_scan_is_no_label_map(tmp_path):
    path = label_file(tmp_path, np.ones((6, 7, 8), np.uint8))
    (tmp_path / "link.nii").symlink_to(path)
    with pytest.raises(VolumeError, match="is scan and label map at once"):
        read_label(tmp_path / "link.nii", path, scan_of(), SETTINGS)
