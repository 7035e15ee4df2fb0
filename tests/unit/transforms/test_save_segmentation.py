"""Every item's label map has a file of its own."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SaveImaged

from bertswin_ext.transforms.save_segmentation import SaveSegmentationd

AFFINE = np.array([[0.4, 0.1, 0, 3], [-0.1, 0.4, 0, 4], [0, 0, 0.7, 5], [0, 0, 0, 1.0]])


def label(value=1, name="scans/head.nii.gz"):
    voxels = torch.full((1, 3, 4, 5), value)
    return MetaTensor(voxels, affine=torch.from_numpy(AFFINE), meta={"filename_or_obj": name})


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("item", "name"),
    [
        ({}, "head_seg.nii.gz"),
        ({"joint": "left"}, "head_seg.nii.gz"),
        ({"joint": "left", "center_mm": [1.0, 2.0, 3.0]}, "head_left_seg.nii.gz"),
        ({"center_mm": [1.0, 2.0, 3.0]}, "head_seg.nii.gz"),
        ({"folder": "a/b"}, "a/b/head_seg.nii.gz"),
    ],
)
def test_names(tmp_path, item, name):
    SaveSegmentationd("pred", tmp_path)({"pred": label(), **item})
    assert files(tmp_path) == [name]


def test_two_joints_of_one_scan(tmp_path):
    save = SaveSegmentationd("pred", tmp_path)
    for value, joint in ((1, "left"), (2, "right")):
        save({"pred": label(value), "joint": joint, "center_mm": [0.0, 0.0, 0.0]})
    assert files(tmp_path) == ["head_left_seg.nii.gz", "head_right_seg.nii.gz"]
    assert np.asarray(nib.load(tmp_path / "head_left_seg.nii.gz").dataobj).max() == 1
    assert np.asarray(nib.load(tmp_path / "head_right_seg.nii.gz").dataobj).max() == 2


def test_the_geometry_and_the_type(tmp_path):
    SaveSegmentationd("pred", tmp_path)({"pred": label(2)})
    saved = nib.load(tmp_path / "head_seg.nii.gz")
    assert saved.get_data_dtype() == np.uint8
    assert saved.shape == (3, 4, 5)
    np.testing.assert_allclose(saved.affine, AFFINE, atol=1e-6)


def test_it_is_what_servers_leave_out():
    """MONAI Label drops instances of SaveImaged: it saves by itself."""
    assert issubclass(SaveSegmentationd, SaveImaged)
