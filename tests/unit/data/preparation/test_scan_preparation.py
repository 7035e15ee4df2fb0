"""What is stored of one scan: its own voxels, in their place, and a record that says so."""

import errno
import hashlib
import logging

import numpy as np
import pytest

from bertswin_ext.data.preparation import scan_preparation
from bertswin_ext.data.preparation.landmarks import JointCenter
from bertswin_ext.data.preparation.preparation_settings import PreparationSettings
from bertswin_ext.data.preparation.scan_preparation import NO_SPACE, prepare_scan, refused
from bertswin_ext.data.preparation.scans import Scan
from bertswin_ext.geometry import moved
from bertswin_ext.stored_volume import open_stored_volume
from tests.unit.data.preparation.raw_scans import hu_of, phantom, write_nifti, write_phantom
from tests.unit.data.worlds import hounsfield

SETTINGS = PreparationSettings(spacing_mm=1.6, roi_size=24)
MIDDLE = (0.0, 0.0, 0.0)
# 40 mm along each axis, axes to the left, to the front and up, the middle of the scan in the middle of the world
LAS = np.array([[-1.0, 0, 0, 20], [0, 1.0, 0, -20], [0, 0, 1.0, -20], [0, 0, 0, 1]])


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    """Drawing takes longer than all the rest; one test draws."""
    original = scan_preparation.write_thumbnail
    monkeypatch.setattr(scan_preparation, "write_thumbnail", lambda *_: None)
    return original


def center(joint="right", position=MIDDLE):
    return JointCenter(joint, position, "line 2 of a.csv")


def scan_of(path, *joints, **known):
    return Scan(path, path.name, "p", joints=joints or (center(),), **known)


def linear(affine=LAS, shape=(41, 41, 41)):
    """HU as a linear function of the world, with air, bone and soft tissue."""
    return hounsfield(moved(affine, np.moveaxis(np.indices(shape), 0, -1))) + 1000.0


def noise(low=-1000, high=2000, shape=(41, 41, 41)):
    return np.random.default_rng(0).integers(low, high, shape).astype(np.int16)


def prepared(tmp_path, voxels, *joints, affine=LAS, settings=SETTINGS, **known):
    path = write_nifti(tmp_path / "a.nii", voxels, affine)
    return prepare_scan(scan_of(path, *joints, **known), settings, tmp_path)


def image_of(tmp_path, record, number=0, key="image"):
    return open_stored_volume(tmp_path / record["items"][number][key])


def hu(settings, **others):
    return PreparationSettings(**{**vars(settings), "intensity": "hu", **others})


# --- voxels ---


def test_values_keep_their_place_in_the_world(tmp_path):
    settings = hu(SETTINGS, spacing_mm=0.7)
    record = prepared(tmp_path, linear().astype(np.float32), center(position=(5.0, -3.0, 2.0)), settings=settings)
    stored = image_of(tmp_path, record)
    assert record["verdict"] == "ok"
    assert stored.shape == (24, 24, 24)
    assert stored.dtype == "int16"
    world = moved(stored.affine, np.moveaxis(np.indices(stored.shape), 0, -1))
    np.testing.assert_allclose(stored.read(), hounsfield(world) + 1000.0, atol=0.51)
    assert np.abs(moved(stored.affine, [12, 12, 12]) - (5.0, -3.0, 2.0)).max() <= 0.36


def test_a_scan_with_the_spacing_is_cut_bit_for_bit(tmp_path):
    voxels = noise()
    record = prepared(tmp_path, voxels, settings=hu(SETTINGS, spacing_mm=1.0))
    stored = image_of(tmp_path, record)
    np.testing.assert_array_equal(stored.read(), voxels[::-1][8:32, 8:32, 8:32])
    np.testing.assert_allclose(stored.affine[:3, 3], [-12, -12, -12])


def test_values_outside_the_window_survive_and_are_counted(tmp_path):
    voxels = noise()
    voxels[20, 20, 20], voxels[21, 20, 20], voxels[22, 20, 20], voxels[23, 20, 20] = -1024, 3071, -1011, 1992
    record = prepared(tmp_path, voxels, settings=hu(SETTINGS, spacing_mm=1.0))
    stored = image_of(tmp_path, record).read()
    assert {-1024, 3071, -1011, 1992} <= set(np.unique(stored).tolist())
    outside = np.count_nonzero((stored < -1011) | (stored > 1992))
    assert outside > 2
    assert (record["outside_window"], record["clipped"], record["stored_voxels"]) == (outside, 0, 24**3)
    assert record["values"] == [-1024.0, 3071.0]


def test_values_beyond_int16_are_clipped_and_counted(tmp_path):
    voxels = noise().astype(np.int32)
    voxels[20, 20, 20], voxels[21, 20, 20], voxels[0, 0, 0] = 40000, -40000, 50000
    record = prepared(tmp_path, voxels, settings=hu(SETTINGS, spacing_mm=1.0))
    stored = image_of(tmp_path, record).read()
    assert (stored[24 - 12, 12, 12], stored[11, 12, 12]) == (32767, -32768)
    assert record["clipped"] == 2  # the third is not in the region
    assert record["values"] == [-40000.0, 50000.0]


def test_slabs_add_up_to_the_region(tmp_path, monkeypatch):
    whole = prepared(tmp_path / "whole", linear().astype(np.float32), settings=hu(SETTINGS))
    monkeypatch.setattr(scan_preparation, "_SLAB_VOXELS", 24 * 24 * 5)
    parts = prepared(tmp_path / "parts", linear().astype(np.float32), settings=hu(SETTINGS))
    assert parts == whole


def test_percentile_makes_hu_of_any_values(tmp_path):
    """A scanner with a scale and an offset of its own."""
    scan = phantom()
    grey = (scan.image * 0.5 + 3000).astype(np.float32)
    path = write_nifti(tmp_path / "a.nii", grey, scan.affine)
    settings = PreparationSettings(spacing_mm=1.6, roi_size=24, intensity="percentile")
    record = prepare_scan(scan_of(path, center(scan.side, scan.joint_center_mm)), settings, tmp_path)
    stored = image_of(tmp_path, record).read()
    assert record["intensity"]["method"] == "percentile"
    assert np.percentile(stored, 99) == pytest.approx(1500, abs=150)
    start = np.rint(moved(np.linalg.inv(scan.affine), scan.joint_center_mm)).astype(int) - 12
    true = scan.image[tuple(slice(first, first + 24) for first in start)]
    assert np.corrcoef(stored.ravel(), true.ravel())[0, 1] > 0.9999
    assert np.median(stored[true < -900]) == pytest.approx(-1000, abs=60)


# --- label maps ---


def test_labels_lie_on_the_image(tmp_path):
    scan = phantom()
    image = write_phantom(tmp_path / "a.nii")
    values = np.array([0, 4, 7], dtype=np.int16)[scan.label]
    values[0, 0, 0] = 9
    label = write_nifti(tmp_path / "l.nii", values, scan.affine)
    settings = PreparationSettings(spacing_mm=1.6, roi_size=24, mandible=(4,), skull=(7,))
    known = scan_of(image, center(scan.side, scan.joint_center_mm), label=label)
    record = prepare_scan(known, settings, tmp_path)
    stored, mask = image_of(tmp_path, record), image_of(tmp_path, record, key="label")
    assert mask.dtype == "uint8"
    np.testing.assert_array_equal(mask.affine, stored.affine)
    first = np.rint(moved(np.linalg.inv(scan.affine), stored.affine[:3, 3])).astype(int)
    box = tuple(slice(i, i + 24) for i in first)
    np.testing.assert_array_equal(mask.read(), scan.label[box])
    np.testing.assert_array_equal(stored.read(), hu_of(scan)[box])
    assert set(np.unique(mask.read())) == {0, 1, 2}


# --- the record ---


def test_the_record_and_the_item(tmp_path):
    joints = [center("left", (-3.0, 0.0, 0.123456)), center("right", (3.0, 0.0, 0.0))]
    fov = {"center_mm": [0.0, 0.0, 0.0], "radius_mm": 60.0, "axis": [0.0, 0.0, 1.0]}
    record = prepared(tmp_path, noise(), *joints, settings=hu(SETTINGS), extra={"fov": fov, "fold": 3})
    assert record["verdict"] == "ok"
    assert (record["scan"], record["patient"], record["section"]) == ("a.nii", "p", "training")
    assert (record["shape"], record["spacing_mm"], record["orientation"]) == ([41] * 3, [1.0] * 3, "LAS")
    assert (record["fov"], record["fov_origin"]) == (fov, "datalist")
    assert sum(record["histogram"]["counts"]) == 41**3
    name = record["name"]
    assert [item["image"] for item in record["items"]] == [f"images/{name}_right.nii", f"images/{name}_left.nii"]
    right, left = record["items"]
    stored = image_of(tmp_path, record, 1)
    assert left == {
        "image": f"images/{name}_left.nii",
        "patient": "p",
        "joint": "left",
        "center_mm": [-3.0, 0.0, 0.1235],
        "center_origin": "line 2 of a.csv",
        "fov": fov,
        "fold": 3,
        "source": "a.nii",
        "size": list(stored.shape),
        "sha256": hashlib.sha256(stored.read().tobytes()).hexdigest(),
    }
    assert right["sha256"] != left["sha256"]


def test_a_whole_volume(tmp_path):
    voxels = noise()
    settings = hu(SETTINGS, spacing_mm=1.0, whole_volume=True)
    path = write_nifti(tmp_path / "a.nii", voxels, LAS)
    for joints in ((), (center(),)):
        record = prepare_scan(Scan(path, "a.nii", "p", joints=joints), settings, tmp_path)
        [item] = record["items"]
        assert item.keys() == {"image", "patient", "source", "size", "sha256"}
        np.testing.assert_array_equal(image_of(tmp_path, record).read(), voxels[::-1])


def test_a_region_ends_with_the_scan(tmp_path):
    record = prepared(tmp_path, noise(), center(position=(0.0, 15.0, -19.0)), settings=hu(SETTINGS, spacing_mm=1.0))
    stored = image_of(tmp_path, record)
    assert stored.shape == (24, 18, 13)
    np.testing.assert_array_equal(stored.affine[:3, 3], [-12, 3, -20])
    assert record["verdict"] == "notice"
    assert record["reasons"] == ["The scan ends 1.5 mm beside the right joint; crops will show its outside."]


def test_the_picture(tmp_path, monkeypatch, no_picture):
    monkeypatch.setattr(scan_preparation, "write_thumbnail", no_picture)
    record = prepared(tmp_path, noise(), settings=hu(SETTINGS))
    assert (tmp_path / record["thumbnail"]).read_bytes()[1:4] == b"PNG"


def test_what_is_drawn(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(scan_preparation, "write_thumbnail", lambda *arguments: calls.append(arguments))
    voxels = linear().astype(np.float32)
    prepared(
        tmp_path, voxels, settings=hu(SETTINGS, spacing_mm=0.5), extra={"fov": {"center_mm": MIDDLE, "radius_mm": 60.0}}
    )
    [(path, volume, affine, centers, fov, [(start, stop)])] = calls
    assert path.parent == tmp_path / "thumbnails"
    np.testing.assert_array_equal(volume, voxels[::-1])
    assert centers == [("right", MIDDLE)]
    assert fov.radius_mm == 60.0
    np.testing.assert_allclose(moved(affine, start), [-6, -6, -6])
    np.testing.assert_allclose(moved(affine, stop), [6, 6, 6])


# --- what goes wrong ---


def test_a_refused_scan_says_what_was_seen(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(scan_preparation, "write_thumbnail", lambda *arguments: calls.append(arguments))
    record = prepared(tmp_path, noise(), center(position=(99.0, 0.0, 0.0)), settings=hu(SETTINGS))
    assert (record["verdict"], record["items"]) == ("refused", [])
    # a picture without joints, to look for them in
    [(path, _, _, centers, _, boxes)] = calls
    assert (path, centers, boxes) == (tmp_path / record["thumbnail"], [], [])
    assert (record["shape"], record["values"]) == ([41] * 3, [-1000.0, 1999.0])
    [reason] = record["reasons"]
    assert "lies outside the scan" in reason
    assert record.keys() == refused(scan_of(tmp_path / "a.nii")).keys()


def test_a_fault_that_is_known_beforehand(tmp_path):
    record = prepared(tmp_path, noise(), fault="The landmarks contradict each other.")
    assert record == refused(scan_of(tmp_path / "a.nii"), "The landmarks contradict each other.")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("tag"), "a.nii: KeyError: 'tag'"),
        (RuntimeError("odd"), "a.nii: RuntimeError: odd"),
        (MemoryError(), "a.nii: does not fit into memory. Use fewer --workers, or more memory."),
        (OSError(errno.EIO, "Input/output error"), "a.nii: OSError: [Errno 5] Input/output error"),
        (ValueError("two words"), "two words"),
    ],
)
def test_whatever_goes_wrong_is_named(tmp_path, monkeypatch, error, said):
    def fail(path):
        raise error

    monkeypatch.setattr(scan_preparation, "read_volume", fail)
    record = prepared(tmp_path, noise())
    assert record["verdict"] == "refused"
    assert record["reasons"][0].endswith(said)


@pytest.mark.parametrize("number", NO_SPACE)
def test_a_full_disk_is_no_fault_of_the_scan(tmp_path, monkeypatch, number):
    def fail(*arguments):
        raise OSError(number, "full")

    monkeypatch.setattr(scan_preparation, "write_stored_volume", fail)
    with pytest.raises(OSError, match="full"):
        prepared(tmp_path, noise(), settings=hu(SETTINGS))


def test_warnings_of_the_reader_are_notices(tmp_path, monkeypatch, caplog):
    """They are in the record instead of on the console, with whatever logging the program has set up."""
    read = scan_preparation.read_volume

    def warn(path):
        logging.getLogger("bertswin_ext.data.reading.volume_reader").warning("%s: left and right are a guess", path)
        logging.getLogger("bertswin_ext.data.reading.volume_reader").info("nothing")
        return read(path)

    monkeypatch.setattr(scan_preparation, "read_volume", warn)
    record = prepared(tmp_path, noise(), settings=hu(SETTINGS))
    assert record["verdict"] == "notice"
    assert record["reasons"] == [f"{tmp_path}/a.nii: left and right are a guess"]
    assert caplog.records == []
    logging.getLogger("bertswin_ext").warning("after")
    assert [r.getMessage() for r in caplog.records] == ["after"]
