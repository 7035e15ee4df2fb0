"""The table of a dataset, and its faults."""

import json

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import Compose

from bertswin_ext.data.datalist_check import check_datalist
from bertswin_ext.data.reading.volume_reader import VolumeReader
from bertswin_ext.transforms.pipelines import volume_preprocessing
from tests.unit.data.reading.dicom_files import write_series
from tests.unit.data.worlds import hounsfield


def save(path, array, affine=None):
    image = nib.Nifti1Image(array, np.diag([0.4, 0.4, 0.5, 1.0]) if affine is None else affine)
    nib.save(image, path)


def head():
    """Something from air to bone."""
    return np.linspace(-1000, 1500, 6 * 5 * 4).reshape(6, 5, 4).astype(np.int16)


def test_the_table(tmp_path, capsys):
    save(tmp_path / "a.nii.gz", head())
    save(tmp_path / "tooth.nii.gz", head() + 1000)
    check_datalist(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["file", "patient", "shape", "spacing", "mm", "values", "verdict"]
    assert sorted(lines[1:3]) == [
        "a.nii.gz      a        6 x 5 x 4        0.4 x 0.4 x 0.5      -1000..1500       ok",
        "tooth.nii.gz  tooth    6 x 5 x 4        0.4 x 0.4 x 0.5      0..2500           "
        "notice: values 0..2500 do not look like HU",
    ]
    assert lines[3].startswith("1 training and 1 validation items, sha256 ")


def test_a_resampled_series_and_an_odd_spacing_are_notices(tmp_path, capsys):
    origins = np.outer([0, 1, 2, 4.5, 7, 9.5], [0, 0, 1])
    write_series(tmp_path / "x" / "ct", origins, hounsfield)
    save(tmp_path / "metres.nii", head(), np.diag([4e-4, 4e-4, 5e-4, 1.0]))
    check_datalist(tmp_path)
    out = capsys.readouterr().out
    assert "notice: unevenly spaced slices (1.00 to 2.50 mm along their normal): resampled from" in out
    assert "notice: a spacing of 0.0004 x 0.0004 x 0.0005 mm is unusual" in out


def test_all_faults_of_all_volumes(tmp_path, capsys):
    save(tmp_path / "a.nii", head())
    save(tmp_path / "flat.nii", np.zeros((3, 3, 3), dtype=np.int16))
    save(tmp_path / "nan.nii", np.where(head() > 1400, np.nan, head()).astype(np.float32))
    (tmp_path / "broken.nii").write_bytes(b"x" * 500)
    with pytest.raises(ValueError, match="3 faults in") as caught:
        check_datalist(tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"3 faults in {tmp_path}:"
    assert sorted(lines[1:])[0].startswith(f"  - {tmp_path}/broken.nii: the file cannot be read")
    assert sorted(lines[1:])[1:] == [
        f"  - {tmp_path}/flat.nii: every voxel is 0. Remove the volume from the datalist.",
        f"  - {tmp_path}/nan.nii: holds NaN or infinite voxels. Replace them, or remove the volume from the datalist.",
    ]
    out = capsys.readouterr().out
    assert out.count("FAULT") == 3
    assert out.count("  ok\n") == 1


def test_a_label_must_lie_on_its_image(tmp_path, capsys):
    affine = np.diag([0.4, 0.4, 0.5, 1.0])
    flipped = affine.copy()
    flipped[1] = [0, -0.4, 0, 1.6]
    moved = affine.copy()
    moved[2, 3] = 3.0
    save(tmp_path / "a.nii", head())
    save(tmp_path / "b.nii", head() - 1)
    save(tmp_path / "a_label.nii", np.ones((6, 5, 4), dtype=np.uint8), flipped)
    save(tmp_path / "b_label.nii", np.ones((6, 5, 4), dtype=np.uint8), moved)
    names = [{"image": f"{name}.nii", "label": f"{name}_label.nii"} for name in "ab"]
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"training": names}))
    with pytest.raises(ValueError, match="1 fault in") as caught:
        check_datalist(path)
    assert str(caught.value) == (
        f"1 fault in {path}:\n  - {tmp_path}/b_label.nii: the label is not on the grid of its image: 6 x 5 x 4 and "
        "6 x 5 x 4 voxels, corners up to 3.0 mm apart. Resample the label onto the image, or remove it."
    )


def test_faults_of_the_list_come_before_any_volume(tmp_path, capsys):
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"training": [{"image": "none.nii"}]}))
    with pytest.raises(ValueError, match=r'1 fault in .*\n  - training\[0\]: "image" does not exist'):
        check_datalist(path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("size", [(6, 5, 4), (4, 6, 5), (5, 4, 6)])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("img_size", [(8, 7, 6), (10, 8, 6), (12, 7, 7)])
def test_a_volume_too_small_for_the_crop_is_what_the_transforms_refuse(tmp_path, capsys, size, axes, img_size):
    affine = np.eye(4)
    affine[:3, :3] = np.diag([0.4, -0.4, 0.5])[:, axes]
    spacing_mm = (0.2, 0.25, 0.4)
    for name, low in {"a": -1000, "b": -999}.items():
        save(tmp_path / f"{name}.nii", np.linspace(low, 1500, int(np.prod(size))).reshape(size), affine)
    transform = Compose(volume_preprocessing(img_size, spacing_mm, VolumeReader()))
    try:
        transform({"image": str(tmp_path / "a.nii")})
        refusal = ""
    except RuntimeError as error:
        refusal = str(error.__cause__)
    if img_size == (8, 7, 6):  # fits the smallest of them, one voxel short along every axis
        assert refusal == ""
    if not refusal:
        check_datalist(tmp_path, spacing_mm=spacing_mm, img_size=img_size)
        return
    assert "are fewer than the crop" in refusal
    with pytest.raises(ValueError, match="2 faults in") as caught:
        check_datalist(tmp_path, spacing_mm=spacing_mm, img_size=img_size)
    assert f"are fewer than the crop {img_size[0]} x {img_size[1]} x {img_size[2]} along" in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"img_size": 8}, r"must be given together: .* Add `spacing_mm`, or leave both out\."),
        ({"spacing_mm": 0.4}, r"must be given together: .* Add `img_size`, or leave both out\."),
        ({"img_size": 8, "spacing_mm": 0}, r"`spacing_mm` must be one or three positive numbers, got 0\. Use"),
        (
            {"img_size": (8, 8), "spacing_mm": 1},
            r"`img_size` must be one or three positive whole numbers, got \(8, 8\)",
        ),
        ({"img_size": 8.5, "spacing_mm": 1}, r"`img_size` must be one or three positive whole numbers, got 8\.5"),
    ],
)
def test_bad_crops(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        check_datalist(tmp_path, **arguments)


def test_joints_outside_their_volume_are_faults(tmp_path):
    save(tmp_path / "a.nii", np.linspace(-1000, 1500, 1000).reshape(10, 10, 10), np.eye(4))
    fov = {"center_mm": [0, 0, 0], "radius_mm": 6.0}
    items = [
        {"image": "a.nii", "patient": "a", "joint": "left", "center_mm": [4.0, 4.0, 4.0], "fov": fov},
        {"image": "a.nii", "patient": "a", "joint": "right", "center_mm": [4.0, 40.0, 4.0], "fov": fov},
        {"image": "a.nii", "patient": "a", "center_mm": [8.0, 8.0, 4.0], "fov": fov},
    ]
    (tmp_path / "list.json").write_text(json.dumps({"training": items}))
    with pytest.raises(ValueError, match="2 faults in") as caught:
        check_datalist(tmp_path / "list.json")
    assert '"center_mm" [4.0, 40.0, 4.0] lies outside the volume' in str(caught.value)
    assert '"center_mm" [8.0, 8.0, 4.0] lies outside the field of view' in str(caught.value)


def test_a_prepared_region_may_be_smaller_than_the_crop(tmp_path, capsys):
    save(tmp_path / "a.nii", np.linspace(-1000, 1500, 1000).reshape(10, 10, 10), np.eye(4))
    content = {"training": [{"image": "a.nii", "patient": "a"}]}
    (tmp_path / "raw.json").write_text(json.dumps(content))
    (tmp_path / "store.json").write_text(json.dumps({"prepared": {"spacing_mm": 1.0}, **content}))
    with pytest.raises(ValueError, match="fewer than the crop"):
        check_datalist(tmp_path / "raw.json", spacing_mm=1.0, img_size=16)
    check_datalist(tmp_path / "store.json", spacing_mm=1.0, img_size=16)
    assert "notice: smaller than the crop: what lies beyond the region is never visible" in capsys.readouterr().out
