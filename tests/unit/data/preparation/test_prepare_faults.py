"""Every fault is named, with a remedy, and costs nothing but the scan that has it."""

import re
import shutil
import struct

import numpy as np
import pytest

from bertswin_ext.stored_volume import open_stored_volume
from tests.unit.data.preparation.raw_scans import (
    SIZE,
    command,
    hu_of,
    items_of,
    phantom,
    records_of,
    status_of,
    write_csv,
    write_dicom,
    write_itk,
    write_nifti,
    write_phantom,
)
from tests.unit.data.reading.dicom_files import write_slice

GOOD = phantom(1)
PIXDIM = 76


# --- how to spoil a scan; all get a folder of their own ---


def truncated(name):
    def spoil(folder):
        path = write_phantom(folder / name)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
        return path

    return spoil


def truncated_slice(folder):
    series = write_dicom(folder / "series")
    path = series / "007.dcm"
    path.write_bytes(path.read_bytes()[:-500])
    return series


def missing_slices(folder):
    series = write_dicom(folder / "series")
    (series / "007.dcm").unlink()
    (series / "008.dcm").unlink()
    return series


def mixed_series(folder):
    series = write_dicom(folder / "series")
    other = write_dicom(folder / "other", series="1.2.3.9")
    for path in list(other.iterdir()):
        path.rename(series / f"other-{path.name}")
    other.rmdir()
    return series


def doubled_slices(folder):
    series = write_dicom(folder / "series")
    shutil.copy(series / "007.dcm", series / "copy.dcm")
    return series


def stored_otherwise(scale=1.0, offset=0.0, **tags):
    """The scanner did not store HU, and the tags do not say so."""

    def spoil(folder):
        series, hu = write_dicom(folder / "series"), hu_of(phantom())
        for k, path in enumerate(sorted(series.iterdir())):
            stored = hu[::-1, ::-1, k].T * scale + offset
            write_slice(path, stored, (0, 0, 1.6 * k), spacing=(1.6, 1.6), number=k + 1, **tags)
        return series

    return spoil


def header_with(form, offset, *values):
    """A NIfTI file with other numbers in its header."""

    def spoil(folder):
        path = write_phantom(folder / "a.nii")
        content = bytearray(path.read_bytes())
        struct.pack_into(form, content, offset, *values)
        path.write_bytes(content)
        return path

    return spoil


def nrrd_with(pattern, new):
    """A NRRD file with another header."""

    def spoil(folder):
        path = write_itk(folder / "a.nrrd", hu_of(phantom()), phantom().affine)
        changed, count = re.subn(pattern, new, path.read_bytes(), count=1)
        assert count == 1
        path.write_bytes(changed)
        return path

    return spoil


def voxels(change):
    """A phantom whose voxels have been changed."""

    def spoil(folder):
        return write_nifti(folder / "a.nii", change(phantom().image.copy()), phantom().affine)

    return spoil


def with_value(value, where=(3, 4, 5)):
    def change(image):
        image[where] = value
        return image

    return voxels(change)


def sheared(folder):
    affine = phantom().affine.copy()
    affine[0, 2] = 0.5
    return write_nifti(folder / "a.nii", hu_of(phantom()), affine)


def broken_link(folder):
    (folder / "a.nii").symlink_to(folder / "gone.nii")
    return folder / "a.nii"


def text(name, content):
    def spoil(folder):
        (folder / name).write_bytes(content)
        return folder / name

    return spoil


AIR = np.random.default_rng(0).integers(-1010, -980, (SIZE,) * 3).astype(np.int16)
DAMAGED = "the file cannot be read, it is damaged, cut off or not what its suffix says"
FAULTS = {
    "nii-cut": (truncated("a.nii"), DAMAGED),
    "gz-cut": (truncated("a.nii.gz"), DAMAGED),
    "slice-cut": (truncated_slice, "007.dcm: is not a readable DICOM image. Copy the file again"),
    "slices-missing": (missing_slices, "slices are missing: the usual distance is 1.60 mm, but there are gaps of 4.80"),
    "series-mixed": (mixed_series, "the folder holds 2 DICOM series, not one"),
    "slices-doubled": (doubled_slices, "1 slices are at the position of another slice"),
    "no-intercept": (
        stored_otherwise(offset=1024.0),
        "look like HU + 1024: the rescale intercept is missing. Correct the rescale tags",
    ),
    "slope-lost": (stored_otherwise(0.25), "do not look like HU. Correct the rescale tags"),
    "slope-0": (stored_otherwise(slope=0.0), "RescaleSlope of 000.dcm is 0, which would make every voxel the same"),
    "spacing-0": (header_with("<f", PIXDIM + 8, 0.0), "the voxel spacing in the header (pixdim) must be above 0 mm"),
    "nrrd-spacing-0": (nrrd_with(rb"\(0,0,[^)]*\)", b"(0,0,0)"), DAMAGED),
    "air": (voxels(lambda _: AIR), "are nothing but air"),
    "constant": (voxels(lambda image: np.full_like(image, 7)), "every voxel is 7"),
    "nan": (with_value(np.nan), "holds NaN or infinite voxels"),
    "inf": (with_value(np.inf), "holds NaN or infinite voxels"),
    "4d": (
        voxels(lambda image: np.stack([image, image], -1)),
        f"holds {SIZE} x {SIZE} x {SIZE} x 2 voxels: a time series",
    ),
    "2d": (voxels(lambda image: image[:, :, :1]), "is a 2D image"),
    "sheared": (sheared, "degrees away from perpendicular"),
    "link": (broken_link, "the file does not exist"),
    "empty": (text("a.nii.gz", b""), "the file is empty"),
    "rubbish": (text("a.nhdr", b"\0\xff" * 5000), DAMAGED),
    "nrrd-in-metres": (nrrd_with(rb"\(0,0,[^)]*\)", b"(0,0,0.0016)"), "mm are those of no scanner"),
    "no-dicom": (lambda folder: text("a.dcm", b"rubbish")(folder).parent, "is not a readable DICOM image"),
    "beyond-int16": (with_value(40000.0), "do not fit into int16, as HU do"),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """All faults in one folder, with a good scan first and last."""
    folder = tmp_path_factory.mktemp("faults")
    spoilt = {}
    for name, (spoil, _) in FAULTS.items():
        (folder / "raw" / name).mkdir(parents=True)
        spoilt[name] = spoil(folder / "raw" / name)
    for name in ("0-good", "z-good"):
        write_phantom(folder / "raw" / name / f"{name}.nii", GOOD)
    scans = {path.relative_to(folder / "raw").as_posix(): phantom() for path in spoilt.values()}
    csv = write_csv(folder / "joints.csv", **scans, **dict.fromkeys(("0-good", "z-good"), GOOD))
    status = status_of(command(folder / "raw", folder / "store", "--landmarks", csv))
    return folder, status, records_of(folder / "store"), spoilt


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(prepared, fault):
    folder, _, records, spoilt = prepared
    record = records[spoilt[fault].relative_to(folder / "raw").as_posix()]
    assert (record["verdict"], record["items"], record["patient"]) == ("refused", [], fault)
    reasons = " ".join(record["reasons"])
    assert FAULTS[fault][1] in reasons
    assert str(folder / "raw" / fault) in reasons


def test_the_good_ones_come_through(prepared):
    folder, status, records, _ = prepared
    assert status == 1
    assert len(records) == len(FAULTS) + 2
    assert [item["patient"] for item in items_of(folder / "store")] == ["0-good", "z-good"]
    assert [records[f"{name}/{name}.nii"]["verdict"] for name in ("0-good", "z-good")] == ["ok", "ok"]
    assert len(list((folder / "store" / "images").iterdir())) == 2
    table = (folder / "store" / "report.csv").read_text()
    assert table.count(",refused,") == len(FAULTS)
    page = (folder / "store" / "report.html").read_text()
    assert f"Refused ({len(FAULTS)})" in page


def test_the_input_is_left_alone(prepared):
    folder, *_ = prepared
    files = [path for path in (folder / "raw").rglob("*") if path.is_file()]
    newest = max(path.stat().st_mtime_ns for path in files)
    assert newest < (folder / "store" / "datalist.json").stat().st_mtime_ns
    assert not [path for path in files if path.name.startswith(".")]


# --- odd, but readable ---


@pytest.mark.parametrize(
    "spoil", [header_with("<f", PIXDIM + 8, -1.6), header_with("<fff", PIXDIM + 4, -1.6, 1.6, -1.6)]
)
def test_a_negative_spacing_beside_an_sform(tmp_path, quick, spoil):
    """The sform says where the voxels are."""
    (tmp_path / "raw").mkdir()
    spoil(tmp_path / "raw")
    assert status_of(command(tmp_path / "raw", tmp_path / "store", "--whole_volume")) == 0
    assert_stored_in_place(tmp_path / "store")


def test_a_negative_spacing_in_nrrd_is_a_direction(tmp_path, quick):
    (tmp_path / "raw").mkdir()
    scan = phantom()
    flipped = scan.affine.copy()
    flipped[:3, 3] += flipped[:3, 2] * (SIZE - 1)
    path = write_itk(tmp_path / "raw" / "a.nrrd", hu_of(scan)[:, :, ::-1], flipped)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"(0,0,1.6", b"(0,0,-1.6"))
    assert status_of(command(tmp_path / "raw", tmp_path / "store", "--whole_volume")) == 0
    assert records_of(tmp_path / "store")["a.nrrd"]["orientation"] == "RAI"
    assert_stored_in_place(tmp_path / "store")


def assert_stored_in_place(store):
    """The one volume of a store is the phantom."""
    [item] = items_of(store)
    stored = open_stored_volume(store / item["image"])
    np.testing.assert_array_equal(stored.read(), hu_of(phantom()))
    np.testing.assert_allclose(stored.affine, phantom().affine, atol=1e-4)
