"""DICOM series: even, uneven, tilted, oblique; and those that must be refused."""

import logging
import os
import re

import numpy as np
import pytest

from bertswin_ext.data.reading.dicom_series import is_dicom_file, is_segmentation_file
from bertswin_ext.data.reading.volume_reader import VolumeError, VolumeReader
from tests.unit.data.reading import dicom_files
from tests.unit.data.reading.dicom_files import write_series, write_slice
from tests.unit.data.worlds import AIR, error, hounsfield, load

ORIGIN = np.array([-20.0, 15.0, 40.0])


def straight(steps):
    """Slice origins straight above each other."""
    return ORIGIN + np.outer(np.concatenate([[0.0], np.cumsum(steps)]), [0.0, 0.0, 1.0])


def tilted_orientation(degrees):
    """Slices tilted about the left-right axis, as by a gantry."""
    angle = np.radians(degrees)
    return (1.0, 0.0, 0.0, 0.0, np.cos(angle), -np.sin(angle))


def refusal(path):
    with pytest.raises(VolumeError) as caught:
        VolumeReader().get_data((str(path),))
    return str(caught.value)


def test_an_even_series_is_read_as_it_is(tmp_path, caplog):
    folder = write_series(tmp_path / "ct", straight([2.0] * 7), hounsfield, spacing=(0.5, 0.8))
    volume = load(folder)
    assert tuple(volume.shape) == (1, 12, 10, 8)
    assert volume.pixdim.tolist() == pytest.approx([0.5, 0.8, 2.0])
    assert error(volume) <= 0.51  # int16 in the files
    assert "resampling" not in volume.meta
    assert not caplog.records


def test_file_names_and_instance_numbers_do_not_set_the_order(tmp_path):
    origins = straight([2.0] * 7)[[5, 0, 3, 7, 1, 6, 2, 4]]
    folder = write_series(tmp_path / "ct", origins, hounsfield, number=None)
    assert error(load(folder)) <= 0.51


def test_rescale_slope_and_intercept_are_applied(tmp_path):
    folder = write_series(tmp_path / "ct", straight([2.0] * 7), hounsfield, slope=2.0, intercept=-1024.0)
    assert error(load(folder)) <= 1.01
    folder = write_series(tmp_path / "fine", straight([2.0] * 7), hounsfield, slope=0.25, intercept=-1024.0)
    assert error(load(folder)) <= 0.13


def test_an_oblique_series_keeps_its_orientation(tmp_path):
    row = np.array([0.8, 0.6, 0.0])
    column = np.array([0.0, 0.0, -1.0])
    origins = ORIGIN + np.outer(np.arange(8) * 1.5, np.cross(row, column))
    folder = write_series(tmp_path / "ct", origins, hounsfield, orientation=(*row, *column))
    assert error(load(folder)) <= 0.51


def test_a_tilted_series_is_resampled_to_where_it_is(tmp_path, caplog):
    folder = write_series(
        tmp_path / "ct", straight([2.0] * 9), hounsfield, size=(12, 20), orientation=tilted_orientation(18.5)
    )
    with caplog.at_level(logging.WARNING, logger="bertswin_ext"):
        volume = load(folder)
    inside = volume[0].numpy() > AIR + 1
    assert error(volume, inside) <= 0.51
    assert inside.sum() >= 12 * 19 * 10  # each slice loses at most the line in which the fill begins
    assert volume.pixdim.tolist() == pytest.approx([1.0, 1.0, 2.0 * np.cos(np.radians(18.5))])
    # 18 mm of stack drift by 5.7 mm
    assert tuple(volume.shape) == (1, 12, 26, 10)
    assert caplog.messages == [f"{folder}: {volume.meta['resampling']}"]
    assert volume.meta["resampling"] == (
        "slices tilted by 18.5 degrees against their stacking direction: resampled from 12 x 20 x 10 onto an "
        "upright grid of 12 x 26 x 10 voxels, 1.000 x 1.000 x 1.897 mm"
    )


def test_an_uneven_series_is_resampled_to_where_it_is(tmp_path):
    folder = write_series(tmp_path / "ct", straight([1.0, 1.0, 1.0, 1.0, 2.5, 2.5, 2.5]), hounsfield)
    volume = load(folder)
    assert error(volume) <= 0.51
    assert tuple(volume.shape) == (1, 12, 10, 13)  # 11.5 mm in 12 steps
    assert volume.meta["resampling"] == (
        "unevenly spaced slices (1.00 to 2.50 mm along their normal): resampled from 12 x 10 x 8 onto an upright "
        "grid of 12 x 10 x 13 voxels, 1.000 x 1.000 x 0.958 mm"
    )


def test_a_tilted_and_uneven_series_is_resampled_to_where_it_is(tmp_path):
    folder = write_series(
        tmp_path / "ct",
        straight([4.2] * 4 + [1.1] + [7.4] * 4),
        hounsfield,
        size=(12, 30),
        orientation=tilted_orientation(-15.0),
        spacing=(0.5, 0.6),
    )
    volume = load(folder)
    inside = volume[0].numpy() > AIR + 1
    assert error(volume, inside) <= 0.51
    assert inside.sum() >= 12 * 29 * volume.shape[-1]


@pytest.mark.parametrize(("padding", "becomes"), [(-2000, -1000), (-500, -500)])
def test_padding_below_air_does_not_blend_into_tissue(tmp_path, padding, becomes):
    folder = tmp_path / "ct"
    folder.mkdir()
    for index, height in enumerate([0.0, 1.0, 2.0, 4.5, 7.0, 9.5]):
        stored = np.full((10, 12), 40)
        stored[:, 6:] = padding
        # the shear puts new voxels between tissue and padding
        position = (0.5 * height, 0.0, height)
        write_slice(folder / f"{index}.dcm", stored, position, padding=padding, number=index)
    values = load(folder).numpy()
    assert values.min() == -1000  # outside the slices
    assert values.max() == 40
    assert (values == becomes).sum() >= 5 * 10 * 11
    assert ((values > becomes) & (values < 40)).any()


@pytest.mark.parametrize("suffix", ["", ".0000123", ".IMA"])
def test_files_without_a_dicom_suffix_are_found(tmp_path, suffix):
    folder = write_series(tmp_path / "ct", straight([2.0] * 7), hounsfield, series="")
    for path in folder.iterdir():
        path.rename(path.with_name(f"CT.1.2.{path.stem}{suffix}"))
    (folder / "readme.txt").write_text("x" * 200)
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    assert is_dicom_file(folder / f"CT.1.2.000{suffix}")
    assert error(load(folder)) <= 0.51


def test_a_multi_frame_file_is_one_volume(tmp_path, caplog):
    path = tmp_path / "cbct.dcm"
    write_slice(path, np.arange(240).reshape(4, 10, 6), (0, 0, 0))
    array, _ = VolumeReader().get_data((str(path),))
    assert array.shape == (6, 10, 4)
    assert array[1, 0, 2] == 121
    assert caplog.messages == [f"{path}: multi-frame DICOM: the positions of its slices are taken on trust."]
    array, _ = VolumeReader().get_data((str(tmp_path),))
    assert array.shape == (6, 10, 4)


def test_two_multi_frame_files_are_two_volumes(tmp_path):
    for name in ("a.dcm", "b.dcm"):
        write_slice(tmp_path / name, np.zeros((4, 10, 6)), (0, 0, 0))
    assert refusal(tmp_path) == (
        f"{tmp_path}: a.dcm and b.dcm hold several slices each, but a folder is one volume. "
        "Move the slices that do not belong (a localizer, a second reconstruction) out of the folder."
    )


def test_one_slice_is_not_a_volume(tmp_path):
    folder = write_series(tmp_path / "ct", straight([]), hounsfield)
    assert refusal(folder) == (
        f"{folder}: the series has a single slice (000.dcm). A volume needs at least 2: copy the missing slices into "
        "the folder, or remove it from the datalist."
    )
    assert refusal(folder / "000.dcm") == (
        f"{folder}/000.dcm: is one slice of 12 x 10 voxels. Name the folder of the series: {folder}."
    )


def test_a_folder_without_dicom(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    assert refusal(tmp_path) == (
        f"{tmp_path}: the folder holds no DICOM file (suffix .dcm, or 'DICM' at byte 128). "
        "Name the folder that directly holds the slices, or a volume file."
    )


def test_several_series_are_listed(tmp_path):
    folder = write_series(tmp_path / "ct", straight([2.0] * 3), hounsfield, series="1.2.3.4")
    more = write_series(tmp_path / "more", straight([2.0] * 2), hounsfield, series="1.2.3.5")
    for path in more.iterdir():
        path.rename(folder / f"b{path.name}")
    assert refusal(folder) == (
        f"{folder}: the folder holds 2 DICOM series, not one. Put every series into a folder of its own:\n"
        "  - 1.2.3.4: 4 files\n"
        "  - 1.2.3.5: 3 files"
    )


def test_a_missing_slice(tmp_path):
    folder = write_series(tmp_path / "ct", straight([2.0] * 7), hounsfield)
    (folder / "003.dcm").unlink()
    assert refusal(folder) == (
        f"{folder}: slices are missing: the usual distance is 2.00 mm, but there are gaps of 4.00 mm\n"
        "  - 002.dcm and 004.dcm\n"
        "Copy the missing slices into the folder, or remove it from the datalist."
    )


def test_doubled_slices(tmp_path):
    folder = write_series(tmp_path / "ct", straight([2.0] * 7), hounsfield)
    (folder / "002b.dcm").write_bytes((folder / "002.dcm").read_bytes())
    assert refusal(folder) == (
        f"{folder}: 1 slices are at the position of another slice\n"
        "  - 002.dcm and 002b.dcm\n"
        "Keep one time point and one reconstruction per folder."
    )


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"orientation": (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)}, "are not parallel"),
        ({"spacing": (1.0, 1.1)}, "differ in pixel spacing"),
        ({"size": (12, 11)}, "differ in size (12 x 10 x 1 and 12 x 11 x 1)"),
    ],
)
def test_slices_that_do_not_belong_together(tmp_path, change, fault):
    folder = write_series(tmp_path / "ct", straight([2.0] * 5), hounsfield)
    odd = write_series(tmp_path / "odd", straight([]) + np.array([0, 0, 20.0]), hounsfield, **change)
    (odd / "000.dcm").rename(folder / "odd.dcm")
    assert refusal(folder) == (
        f"{folder}: 000.dcm and odd.dcm {fault}. "
        "Move the slices that do not belong (a localizer, a second reconstruction) out of the folder."
    )


def test_a_slice_without_a_position(tmp_path):
    folder = write_series(tmp_path / "ct", straight([2.0] * 5), hounsfield)
    write_slice(folder / "003.dcm", np.zeros((10, 12)), None)
    assert refusal(folder) == (
        f"{folder}/003.dcm: DICOM tag (0020,0032) must hold 3 numbers, got ''. Without it the slice has no place in "
        "space: export the series again as original CT images."
    )


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"spacing": (0.0, 1.0)}, "PixelSpacing must be above 0 mm, got [1.0, 0.0]. Export the series again."),
        (
            {"orientation": (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)},
            "ImageOrientationPatient must be two perpendicular unit vectors, got [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]. "
            "Export the series again.",
        ),
    ],
)
def test_an_impossible_geometry(tmp_path, change, fault):
    folder = write_series(tmp_path / "ct", straight([2.0] * 5), hounsfield, **change)
    assert refusal(folder) == f"{folder}/000.dcm: {fault}"


@pytest.mark.parametrize("keep", [0, 100, 1000])
def test_a_damaged_slice_is_named(tmp_path, keep):
    folder = write_series(tmp_path / "ct", straight([2.0] * 5), hounsfield, size=(40, 40))
    os.truncate(folder / "002.dcm", keep)
    assert re.match(rf"{folder}/002.dcm: is not a readable DICOM image\. Copy the file again", refusal(folder))


@pytest.mark.parametrize(
    ("kind", "is_one"), [("66.4", True), ("66.7", True), ("66", False), ("2", False), ("66.40", False)]
)
def test_a_segmentation_says_so_in_its_first_bytes(tmp_path, monkeypatch, kind, is_one):
    monkeypatch.setattr(dicom_files, "CT_IMAGE", f"1.2.840.10008.5.1.4.1.1.{kind}")
    write_slice(tmp_path / "label.dcm", np.zeros((3, 4)), ORIGIN)
    assert is_segmentation_file(tmp_path / "label.dcm") is is_one
    (tmp_path / "note.dcm").write_bytes(b"66.4")
    assert not is_segmentation_file(tmp_path / "note.dcm")


def test_a_segmentation_beside_its_series_is_no_slice(tmp_path, monkeypatch):
    folder = write_series(tmp_path / "ct", straight([2.0] * 7), hounsfield)
    monkeypatch.setattr(dicom_files, "CT_IMAGE", "1.2.840.10008.5.1.4.1.1.66.4")
    write_slice(folder / "label.dcm", np.zeros((3, 4)), ORIGIN, series="1.2.3.5")
    assert error(load(folder)) <= 0.51
