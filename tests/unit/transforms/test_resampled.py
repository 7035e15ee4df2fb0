"""What stands beside a volume does not matter."""

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Spacingd

from bertswin_ext.transforms.resampled import Resampled


def volume():
    voxels = torch.arange(4.0 * 5 * 6).reshape(1, 4, 5, 6)
    return MetaTensor(voxels, meta={"filename_or_obj": "a.nii.gz"})


@pytest.mark.parametrize("value", [7, "a.nii.gz", None])
def test_entries_with_similar_names_are_left_alone(value):
    resample = Resampled("image", pixdim=(2.0, 2.0, 2.0))
    item = resample({"image": volume(), "image_path": value, "patient": "p"})
    assert (item["image_path"], item["patient"]) == (value, "p")
    expected = Spacingd("image", pixdim=(2.0, 2.0, 2.0))({"image": volume()})["image"]
    assert torch.equal(item["image"], expected)
    back = resample.inverse(item)
    assert back["image"].shape == (1, 4, 5, 6)


def test_a_volume_that_is_missing():
    with pytest.raises(KeyError):
        Resampled("image", pixdim=(2.0, 2.0, 2.0))({"image_path": "a"})
    assert Resampled("image", pixdim=(2.0, 2.0, 2.0), allow_missing_keys=True)({"a": 1}) == {"a": 1}
