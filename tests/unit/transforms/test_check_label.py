"""Labels that do not fit their image are stopped by name."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from bertswin_ext.errors import VolumeError
from bertswin_ext.stored_volume import open_stored_volume, write_stored_volume
from bertswin_ext.transforms.check_label import CheckLabeld

SIZE = (4, 3, 2)
AFFINE = np.diag([0.4, 0.4, 0.5, 1.0])


def volume(values, name, affine=AFFINE):
    return MetaTensor(values, affine=torch.from_numpy(affine), meta={"filename_or_obj": f"/data/{name}.nii.gz"})


def item(label=None, affine=AFFINE):
    label = torch.zeros(1, *SIZE) if label is None else label
    return {"image": volume(torch.zeros(1, *SIZE), "image"), "label": volume(label, "label", affine)}


def refusal(data, **arguments):
    with pytest.raises(VolumeError) as caught:
        CheckLabeld("label", **arguments)(data)
    return str(caught.value)


def shifted(mm, axis=0):
    affine = AFFINE.copy()
    affine[axis, 3] += mm
    return affine


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8, torch.int16, torch.int64])
def test_a_good_label_passes_through(dtype):
    given = item(torch.arange(24).reshape(1, *SIZE).remainder(3).to(dtype))
    result = CheckLabeld()(given)
    assert result["label"] is given["label"]
    assert result == given
    assert result is not given


def test_a_label_of_background_alone_is_one():
    assert not CheckLabeld()(item())["label"].any()


def test_missing_keys_follow_monai():
    assert CheckLabeld(allow_missing_keys=True)({"image": 1}) == {"image": 1}
    with pytest.raises(KeyError, match="label"):
        CheckLabeld()({"image": 1})


def test_channels():
    assert refusal(item(torch.zeros(3, *SIZE))) == (
        "/data/label.nii.gz: the label has 3 channels, must have 1. Write the id of its class into every voxel, rather "
        "than one mask for each class."
    )


def test_another_size():
    assert refusal(item(torch.zeros(1, 4, 3, 3))) == (
        "/data/label.nii.gz: the label is not on the grid of its image /data/image.nii.gz: they have 4 x 3 x 3 and "
        "4 x 3 x 2 voxels. The label has 4 x 3 x 3 voxels and the affine [[0.4, 0.0, 0.0, 0.0], [0.0, 0.4, 0.0, 0.0], "
        "[0.0, 0.0, 0.5, 0.0]], the image 4 x 3 x 2 voxels and the affine [[0.4, 0.0, 0.0, 0.0], [0.0, 0.4, 0.0, 0.0], "
        "[0.0, 0.0, 0.5, 0.0]]. Resample the label onto the image with nearest neighbours, or correct the pair in the "
        "datalist."
    )


@pytest.mark.parametrize("axis", range(3))
def test_another_place(axis):
    message = refusal(item(affine=shifted(0.45, axis)))
    assert "they lie up to 0.45 mm apart. The label has 4 x 3 x 2 voxels and the affine" in message


def test_flipped_axes():
    flipped = AFFINE @ np.diag([-1.0, 1, 1, 1])
    flipped[0, 3] = 0.4 * 3
    assert "they lie up to 1.2 mm apart." in refusal(item(affine=flipped))


def test_what_adds_up_to_the_far_end_counts():
    """A hundredth of a voxel more per voxel is little, and a whole one at the far end."""
    wider = AFFINE + np.diag([4e-3, 0, 0, 0])
    for size, fits in ((40, True), (100, False)):
        data = {
            "image": volume(torch.zeros(1, size, 3, 2), "image"),
            "label": volume(torch.zeros(1, size, 3, 2), "label", wider),
        }
        if fits:
            assert CheckLabeld()(data)
        else:
            assert "0.396 mm apart" in refusal(data)


@pytest.mark.parametrize("turn_deg", [0.05, 0.5, 2.0])
def test_a_label_that_came_through_a_quaternion(tmp_path, turn_deg):
    """NIfTI's qform holds a small rotation of a large volume to some tenths of a millimetre."""
    turn = np.deg2rad(turn_deg)
    affine = np.diag([-0.3, -0.3, 0.3, 1.0])
    affine[:2, :2] = affine[:2, :2] @ [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    written = nib.Nifti1Image(np.zeros((500, 500, 2), dtype=np.uint8), None)
    written.set_qform(affine)
    written.set_sform(None, code=0)
    nib.save(written, tmp_path / "label.nii")
    label = nib.load(tmp_path / "label.nii")
    data = {
        "image": volume(torch.zeros(1, 500, 500, 2), "image", affine),
        "label": volume(torch.zeros(1, 500, 500, 2), "label", label.affine),
    }
    np.testing.assert_array_equal(CheckLabeld()(data)["label"].affine.numpy(), affine)


def test_a_rounded_affine_is_replaced_by_the_images():
    """So that both have the same size when they are resampled."""
    given = item(torch.ones(1, *SIZE), shifted(0.15))
    label = CheckLabeld()(given)["label"]
    np.testing.assert_array_equal(label.affine.numpy(), AFFINE)
    np.testing.assert_array_equal(given["label"].affine.numpy(), shifted(0.15))
    assert torch.equal(label.as_tensor(), torch.ones(1, *SIZE))
    assert label.meta["filename_or_obj"] == "/data/label.nii.gz"


@pytest.mark.parametrize(("value", "written"), [(0.5, "0.5"), (float("nan"), "nan"), (float("inf"), "inf")])
def test_values_that_are_no_ids(value, written):
    label = torch.ones(1, *SIZE)
    label[0, 2, 1, 1] = value
    assert refusal(item(label)) == (
        f"/data/label.nii.gz: 1 voxel of the label are not whole numbers, the first is {written} at (i, j, k) = "
        "(2, 1, 1). Save the ids of the classes, and resample labels with nearest neighbours."
    )
    label[0, 3] = value
    message = refusal(item(label))
    assert "7 voxels of the label are" in message
    assert "(2, 1, 1)" in message


def test_unknown_ids():
    label = torch.ones(1, *SIZE, dtype=torch.int16)
    label[0, 0] = 3
    label[0, 1, 0] = 255
    label[0, 3, 2, 1] = -1
    assert refusal(item(label)) == (
        "/data/label.nii.gz: holds the unknown ids -1 (1 voxel), 3 (6 voxels), 255 (2 voxels); known are 0 background, "
        "1 mandible, 2 skull. Give these voxels a known id, or remove the label from the datalist."
    )


def test_many_unknown_ids_are_not_all_listed():
    message = refusal(item(torch.arange(24).reshape(1, *SIZE)))
    assert "ids 3 (1 voxel), 4 (1 voxel), " in message
    assert "10 (1 voxel), 13 more; known are" in message


@pytest.mark.parametrize(
    ("labels", "known"), [(2, "0, 1"), (["air", "bone"], "0 air, 1 bone"), (3, "0 background, 1 mandible, 2 skull")]
)
def test_other_labels(labels, known):
    label = torch.full((1, *SIZE), 3.0)
    assert f"holds the unknown id 3 (24 voxels); known are {known}. Give" in refusal(item(label), labels=labels)


@pytest.mark.parametrize("bad", [False, True])
def test_stored_volumes(tmp_path, bad):
    label = np.ones(SIZE, dtype=np.uint8)
    label[1, 1] = 7 if bad else 2
    write_stored_volume(tmp_path / "image.nii", np.zeros(SIZE, dtype=np.int16), AFFINE)
    write_stored_volume(tmp_path / "label.nii", label, AFFINE)
    data = {name: open_stored_volume(tmp_path / f"{name}.nii") for name in ("image", "label")}
    if bad:
        assert refusal(data).startswith(f"{tmp_path}/label.nii: holds the unknown id 7 (2 voxels); known are 0 back")
    else:
        assert CheckLabeld()(data)["label"] is data["label"]
