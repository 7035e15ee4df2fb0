import nibabel as nib
import numpy as np
import pytest

from bertswin_ext.data.phantoms.head_files import write_heads
from bertswin_ext.data.phantoms.nifti_files import write_nifti
from tests.unit.data.phantoms.test_labelled_heads import jaw_map

SMALL = {"heads": 2, "bodies": 2, "joints": 1, "spacing_mm": 9.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("heads") / "train"


@pytest.fixture(scope="module")
def items(folder):
    return write_heads(folder, **SMALL)


def test_every_volume_is_there_with_its_joints(items):
    assert [len(item["joints"]) for item in items] == [2, 2, 0, 0, 1]
    for item in items:
        image = nib.load(item["image"])
        assert image.get_data_dtype() == np.int16
        assert image.header.get_zooms() == (9.0, 9.0, 9.0)
    assert {joint["joint"] for joint in items[0]["joints"]} == {"left", "right"}


def test_what_is_there_is_used_again(folder, items):
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert write_heads(folder, **SMALL) == items
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_volumes_of_other_parameters_are_refused(folder, items):
    with pytest.raises(ValueError, match=r"holds volumes of other parameters: .*'seed': 0"):
        write_heads(folder, **SMALL, seed=1)


def test_a_smaller_set_holds_the_first_of_a_larger_one(items, tmp_path):
    smaller = write_heads(tmp_path / "fewer", heads=1, bodies=1, joints=0, spacing_mm=9.0)
    for ours, theirs in zip(smaller, (items[0], items[2]), strict=True):
        np.testing.assert_array_equal(nib.load(ours["image"]).get_fdata(), nib.load(theirs["image"]).get_fdata())


def test_label_maps_give_heads(tmp_path):
    label, affine = jaw_map()
    write_nifti(tmp_path / "jaw.nii.gz", label, affine)
    maps = [tmp_path / "jaw.nii.gz"]
    items = write_heads(tmp_path / "out", 0, 0, 0, label_maps=maps, heads_per_map=2, spacing_mm=9.0)
    assert [len(item["joints"]) for item in items] == [2, 2]


def test_a_negative_number_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`bodies` must not be negative, got -1"):
        write_heads(tmp_path / "out", bodies=-1)
