"""Volumes that cannot be trained on are stopped by name."""

import re

import pytest
import torch
from monai.data import MetaTensor

from bertswin_ext.transforms.checks import CheckSized, CheckVolumed


def volume(*size, spacing=(0.4, 0.4, 0.5)):
    values = torch.arange(float(torch.Size(size).numel())).reshape(size)
    affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    return MetaTensor(values, affine=affine, meta={"filename_or_obj": "/data/a.nii.gz"})


def refusal(transform, image):
    with pytest.raises(ValueError, match=r".") as caught:
        transform({"image": image})
    return str(caught.value)


@pytest.mark.parametrize("transform", [CheckVolumed("image"), CheckSized("image", (4, 3, 2))])
def test_a_good_volume_passes_through(transform):
    item = {"image": volume(1, 4, 3, 2), "patient": "x"}
    result = transform(item)
    assert result["image"] is item["image"]
    assert result == item
    assert result is not item


def test_missing_keys_follow_monai():
    assert CheckVolumed("label", allow_missing_keys=True)({"image": 1}) == {"image": 1}
    assert CheckSized("label", 4, allow_missing_keys=True)({"image": 1}) == {"image": 1}
    with pytest.raises(KeyError, match="label"):
        CheckVolumed("label")({"image": 1})


def test_channels():
    assert refusal(CheckVolumed("image"), volume(3, 4, 3, 2)) == (
        "/data/a.nii.gz: has 3 channels, must have 1. Write every channel to a file of its own, or remove the volume "
        "from the datalist."
    )
    assert CheckVolumed("image", channels=3)({"image": volume(3, 4, 3, 2)})


def test_channel_axis():
    assert refusal(CheckVolumed("image"), volume(4, 3, 2)) == (
        "/data/a.nii.gz: a volume must be (c, i, j, k), got 4 x 3 x 2. Add `EnsureChannelFirstd` before this check."
    )


def test_no_voxels():
    assert refusal(CheckVolumed("image"), volume(1, 4, 0, 2)) == (
        "/data/a.nii.gz: has no voxels (4 x 0 x 2). Convert the scan again, or remove it from the datalist."
    )


@pytest.mark.parametrize("bad", [[float("nan")], [float("inf"), float("-inf")], [float("nan"), float("inf")]])
def test_voxels_that_are_not_numbers(bad):
    image = volume(1, 4, 3, 2)
    for index, value in enumerate(bad):
        image[0, 2, 1 + index, 1] = value
    assert refusal(CheckVolumed("image"), image) == (
        f"/data/a.nii.gz: {len(bad)} voxels are NaN or infinite, the first at (c, i, j, k) = (0, 2, 1, 1). Replace "
        "them (for example by air, -1000 HU) and save the volume again, or remove it from the datalist."
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.int16])
def test_a_constant_volume(dtype):
    image = MetaTensor(torch.full((1, 4, 3, 2), -1024, dtype=dtype))
    assert refusal(CheckVolumed("image"), image) == (
        "the volume: every voxel is -1024, there is nothing to learn from. Export the scan again, or remove it from "
        "the datalist."
    )


def test_a_volume_smaller_than_the_crop():
    assert refusal(CheckSized("image", (64, 2, 64)), volume(1, 40, 30, 20)) == (
        "/data/a.nii.gz: 40 x 30 x 20 voxels (16.0 x 12.0 x 10.0 mm) are fewer than the crop `roi_size` = 64 x 2 x 64 "
        "along i, k. Use a smaller crop (`img_size` in the bundles) or a finer `spacing_mm`, pad the volume, or remove "
        "it from the datalist."
    )


def test_a_deficit_within_the_tolerance():
    check = CheckSized("image", (5, 4, 2), tolerance_vox=1)
    assert check({"image": volume(1, 4, 3, 2)})["image"].shape == (1, 4, 3, 2)
    assert "along i. Use" in refusal(check, volume(1, 3, 3, 2))
    with pytest.raises(ValueError, match=r"`tolerance_vox` must not be negative, got -1\. Use 0 or 1\."):
        CheckSized("image", 4, tolerance_vox=-1)


def test_one_size_for_all_axes_and_a_plain_tensor():
    assert refusal(CheckSized("image", 4), torch.zeros(1, 4, 3, 4)).startswith(
        "the volume: 4 x 3 x 4 voxels are fewer than the crop `roi_size` = 4 x 4 x 4 along j. "
    )


def test_the_spacing_of_an_oblique_volume():
    image = volume(1, 4, 3, 2)
    image.affine = torch.tensor([[0.0, 0.8, 0, 0], [0.6, 0, 0, 0], [0.8, 0, 0.5, 0], [0, 0, 0, 1]])
    assert re.search(r"\(4\.0 x 2\.4 x 1\.0 mm\)", refusal(CheckSized("image", 8), image))
