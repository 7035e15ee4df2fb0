"""Import of the authors' HDF5 files: where voxels and points land, and what is left out."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from bertswin_ext.data.preparation.hdf5_import import import_hdf5
from bertswin_ext.geometry import FieldOfView, moved
from bertswin_ext.stored_volume import open_stored_volume
from tests.unit.data.preparation.hdf5_files import OFFSET, SHAPE, add_joint, needed_h5py, replaced, write_two_studies


@pytest.fixture
def h5py():
    return needed_h5py()


@pytest.fixture
def source(tmp_path):
    return write_two_studies(tmp_path / "tmj.h5")


# ---- where things land


def test_every_joint_becomes_an_item(source, tmp_path):
    found = import_hdf5(source, tmp_path / "store")
    assert [(item["patient"], item["joint"], item["source"]) for item in found.items] == [
        ("P1", "left", "tmj.h5:/a/left_joint"),
        ("P1", "right", "tmj.h5:/a/right_joint"),
        ("P2", "right", "tmj.h5:/b/right_joint"),
    ]
    assert found.faults == found.notices == []
    assert found.items[0]["image"] == "images/tmj_a_left.nii"
    assert found.items[0]["label"] == "labels/tmj_a_left.nii"
    assert found.items[0]["background_hu"] == -1011
    assert json.loads(json.dumps(found.items)) == found.items


def test_the_checksum_is_that_of_the_stored_bytes(source, tmp_path):
    for item in import_hdf5(source, tmp_path).items:
        volume = open_stored_volume(tmp_path / item["image"])
        voxels = Path(volume.path).read_bytes()[volume.offset :]
        assert hashlib.sha256(voxels).hexdigest() == item["sha256"]


def signs(axes):
    """+1 where x, y, z run to the right, anterior and superior."""
    return np.array([1 if letter in "RAS" else -1 for letter in axes])


@pytest.mark.parametrize("axes", ["LPS", "RAS", "LAS", "RPI", "LPI"])
@pytest.mark.parametrize("voxel", [(0, 0, 0), (5, 0, 0), (0, 6, 0), (0, 0, 7), (4, 1, 6)], ids=str)
def test_a_lit_voxel_lands_where_it_was(axes, voxel, source, tmp_path, h5py):
    with h5py.File(source, "a") as file:
        for name, value in (("roi_image", 1234), ("segmentation_mask", 2)):
            values = np.zeros(SHAPE, file["a/left_joint"][name].dtype)
            values[voxel] = value
            file["a/left_joint"][name][...] = values
    item = import_hdf5(source, tmp_path, axes).items[0]
    # the scan's middle
    origin = np.array(SHAPE) / 2 - OFFSET
    expected = 0.2 * (np.array(voxel) - origin)[::-1] * signs(axes)
    for key, value in (("image", 1234), ("label", 2)):
        volume = open_stored_volume(tmp_path / item[key])
        lit = np.argwhere(volume.read())
        assert len(lit) == 1
        assert volume.read()[tuple(lit[0])] == value
        assert moved(volume.affine, lit[0]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("axes", ["LPS", "RAS", "RPI"])
def test_the_centre_stays_on_its_voxel(axes, source, tmp_path, h5py):
    with h5py.File(source, "a") as file:
        image = np.zeros(SHAPE, np.int16)
        image[2, 3, 6] = 1
        file["a/left_joint/roi_image"][...] = image
        file["a/left_joint"].attrs["relative_tmj_center"] = np.array([2, 3, 6], dtype=np.int64)
    item = import_hdf5(source, tmp_path, axes).items[0]
    volume = open_stored_volume(tmp_path / item["image"])
    lit = moved(volume.affine, np.argwhere(volume.read())[0])
    assert item["center_mm"] == pytest.approx(lit, abs=1e-5)


@pytest.mark.parametrize("axes", ["LPS", "RAS", "RPI"])
def test_the_field_of_view_is_the_authors_cylinder(axes, source, tmp_path, h5py):
    """Which voxels lie inside, counted in the file's own voxels with their rule."""
    with h5py.File(source, "a") as file:
        file["a/left_joint"].attrs["roi_offset_from_center"] = [5.0, 311.3, 311.2]
    item = import_hdf5(source, tmp_path, axes).items[0]
    _, y, x = np.indices(SHAPE)
    inside = (y - (3.5 - 311.3)) ** 2 + (x - (4 - 311.2)) ** 2 <= 440**2
    assert 0.2 < inside.mean() < 0.8
    volume = open_stored_volume(tmp_path / item["image"])
    voxels = np.stack(np.indices(volume.shape), axis=-1)
    found = FieldOfView.of_item(item["fov"]).contains(moved(volume.affine, voxels))
    assert (np.flip(found.T, [2 - axis for axis in np.flatnonzero(signs(axes) < 0)]) == inside).all()


def test_left_and_right_are_not_swapped(source, tmp_path, h5py):
    """Left of the scanner's axis is negative x in RAS; a joint of the patient's left must lie there."""
    with h5py.File(source, "a") as file:
        for side, offset in (("left", 250.0), ("right", -250.0)):  # x runs to the left
            file[f"a/{side}_joint"].attrs["roi_offset_from_center"] = [0.0, 0.0, offset]
            file[f"a/{side}_joint/roi_image"][...] = 1 if side == "left" else 2
    left, right, _ = import_hdf5(source, tmp_path).items
    assert left["center_mm"][0] == pytest.approx(-50)
    assert right["center_mm"][0] == pytest.approx(50)
    assert (open_stored_volume(tmp_path / left["image"]).read() == 1).all()
    assert (open_stored_volume(tmp_path / right["image"]).read() == 2).all()


def test_the_byte_order_does_not_matter(source, tmp_path, h5py):
    with h5py.File(source, "a") as file:
        group = file["a/left_joint"]
        values = group["roi_image"][()]
        del group["roi_image"]
        group["roi_image"] = values.astype(">i2")
    item = import_hdf5(source, tmp_path).items[0]
    stored = open_stored_volume(tmp_path / item["image"]).read()
    assert np.array_equal(stored[::-1, ::-1].T, values)


def test_a_patient_lies_the_right_way_round_in_numbers(source, tmp_path):
    """LPS: the last x is the patient's left, the last y the back. Frozen."""
    item = import_hdf5(source, tmp_path).items[0]
    assert open_stored_volume(tmp_path / item["image"]).shape == (8, 7, 6)
    assert item["center_mm"] == pytest.approx([8.1, -5.95, 0.3])
    item = import_hdf5(source, tmp_path, "RAS").items[0]
    assert item["center_mm"] == pytest.approx([-8.1, 5.95, 0.3])


def test_the_scan_and_its_field_of_view_are_about_the_origin(source, tmp_path):
    item = import_hdf5(source, tmp_path).items[0]
    assert item["fov"] == {"center_mm": [0, 0, 0], "radius_mm": 88.0, "axis": [0, 0, 1]}
    assert np.diag(open_stored_volume(tmp_path / item["image"]).affine) == pytest.approx([0.2, 0.2, 0.2, 1])
    item = import_hdf5(source, tmp_path, spacing_mm=0.3, fov_radius_mm=60).items[0]
    assert item["fov"]["radius_mm"] == 60
    assert item["center_mm"] == pytest.approx([1.5 * 8.1, 1.5 * -5.95, 1.5 * 0.3])


SCAN = np.arange(12 * 14 * 30, dtype=np.int16).reshape(12, 14, 30)  # z, y, x; every voxel has a value of its own


@pytest.fixture
def scan_file(tmp_path, h5py):
    """Both joints of a scan whose middle is (6, 7, 15): regions of 8 x 9 x 16, their offsets worked out by hand."""
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        left = add_joint(file, "s/left_joint", relative_tmj_center=[4, 5, 6], roi_offset_from_center=[1, -0.5, 6])
        replaced(left, "roi_image", SCAN[3:11, 2:11, 13:29])
        right = add_joint(file, "s/right_joint", relative_tmj_center=[6, 3, 9], roi_offset_from_center=[-1, 1.5, -6])
        replaced(right, "roi_image", SCAN[1:9, 4:13, 1:17])
        for joint in (left, right):
            del joint["segmentation_mask"]
    return path


@pytest.mark.parametrize("axes", ["LPS", "RAS", "LAI"])
def test_both_joints_of_a_scan_lie_in_one_world(axes, scan_file, tmp_path):
    found = import_hdf5(scan_file, tmp_path / "store", axes)
    assert found.faults == []
    seen = []
    for item in found.items:
        volume = open_stored_volume(tmp_path / "store" / item["image"])
        voxels = np.stack(np.indices(volume.shape), axis=-1).reshape(-1, 3)
        seen.append(dict(zip(volume.read().ravel().tolist(), moved(volume.affine, voxels), strict=True)))
    shared = seen[0].keys() & seen[1].keys()
    assert len(shared) == 6 * 7 * 4
    assert max(np.abs(seen[0][value] - seen[1][value]).max() for value in shared) < 1e-5
    for values in seen:
        for value, position in values.items():
            z, y, x = np.unravel_index(value, SCAN.shape)
            expected = 0.2 * (np.array([x, y, z]) - [15, 7, 6]) * signs(axes)
            assert np.allclose(position, expected, atol=1e-5)
    left, right = found.items
    assert left["center_mm"] == pytest.approx(0.2 * (np.array([6 + 13, 5 + 2, 4 + 3]) - [15, 7, 6]) * signs(axes))
    assert right["center_mm"] == pytest.approx(0.2 * (np.array([9 + 1, 3 + 4, 6 + 1]) - [15, 7, 6]) * signs(axes))
    assert left["fov"] == right["fov"]


# ---- faults


def test_a_bad_joint_is_reported_and_the_others_are_written(source, tmp_path, h5py):
    with h5py.File(source, "a") as file:
        replaced(file["a/right_joint"], "segmentation_mask", np.full(SHAPE, 3, np.uint8))
    found = import_hdf5(source, tmp_path / "store")
    assert found.faults == [
        "tmj.h5:/a/right_joint: segmentation_mask must hold 0 background, 1 mandible and 2 skull, found 3."
    ]
    assert [item["source"] for item in found.items] == ["tmj.h5:/a/left_joint", "tmj.h5:/b/right_joint"]
    written = sorted(path.name for path in (tmp_path / "store").rglob("*.nii"))
    assert written == ["tmj_a_left.nii"] * 2 + ["tmj_b_right.nii"] * 2


def test_all_faults_of_a_joint_are_reported(source, tmp_path, h5py):
    with h5py.File(source, "a") as file:
        group = file["a/right_joint"]
        group.pop("roi_image")
        del group.attrs["background_value"]
    first, second = import_hdf5(source, tmp_path).faults
    assert first == "tmj.h5:/a/right_joint: roi_image is missing or not a dataset."
    assert second.startswith("tmj.h5:/a/right_joint: background_value must be a finite number")


def test_other_things_in_the_file_are_reported(source, tmp_path, h5py):
    with h5py.File(source, "a") as file:
        add_joint(file, "a/joint")
        file["b/left_joint"] = np.zeros(3)
        file["notes"] = "text"
        file.create_group("void")
        file["lost"] = h5py.SoftLink("/nowhere")
        file["b/scale"] = h5py.SoftLink("/nowhere")
    found = import_hdf5(source, tmp_path)
    assert [fault.split(": ")[0] for fault in found.faults] == [
        "tmj.h5:/a/joint",
        "tmj.h5:/b/left_joint",
        "tmj.h5:/b/scale",
        "tmj.h5:/lost",
        "tmj.h5:/notes",
        "tmj.h5:/void",
    ]
    assert len(found.items) == 3


def test_damaged_voxels_stop_one_joint_only(source, tmp_path, h5py):
    with h5py.File(source, "a") as file:
        group = file["a/left_joint"]
        values = group["roi_image"][()]
        del group["roi_image"]
        dataset = group.create_dataset("roi_image", data=values, chunks=SHAPE, compression="gzip", fletcher32=True)
        place = dataset.id.get_chunk_info(0).byte_offset
    data = bytearray(source.read_bytes())
    data[place + 20 : place + 60] = bytes(40)
    source.write_bytes(data)
    found = import_hdf5(source, tmp_path / "store")
    (fault,) = found.faults
    assert fault.startswith("tmj.h5:/a/left_joint: cannot be read (")
    assert len(found.items) == 2
    assert not (tmp_path / "store/images/tmj_a_left.nii").exists()


def test_a_disk_that_cannot_be_written_is_not_a_fault_of_the_joint(source, tmp_path):
    (tmp_path / "store").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="store"):
        import_hdf5(source, tmp_path / "store")


def test_without_a_mask_there_is_no_label(source, tmp_path, h5py):
    with h5py.File(source, "a") as file:
        del file["a/left_joint/segmentation_mask"]
    found = import_hdf5(source, tmp_path)
    assert found.faults == []
    assert ["label" in item for item in found.items] == [False, True, True]
    assert not (tmp_path / "labels/tmj_a_left.nii").exists()


@pytest.mark.parametrize(("value", "patient"), [(None, "a"), ("", "a"), ("  ", "a"), (17, "17"), (["x", "y"], "a")])
def test_a_study_without_a_patient_is_its_own(value, patient, source, tmp_path, h5py):
    with h5py.File(source, "a") as file:
        del file["a"].attrs["patient_id"]
        if value is not None:
            file["a"].attrs["patient_id"] = value
    found = import_hdf5(source, tmp_path)
    assert [item["patient"] for item in found.items] == [patient, patient, "P2"]
    assumed = ["tmj.h5:/a: has no patient_id; the study's name is taken for it."]
    assert found.notices == (assumed if patient == "a" else [])


def test_names_of_studies_become_names_of_files(source, tmp_path, h5py):
    with h5py.File(source, "a") as file:
        for name in ("x y", "x-y", "X y", "Ä..", ".."):
            add_joint(file, f"{name}/left_joint")
    found = import_hdf5(source, tmp_path / "store")
    assert found.faults == []
    names = {item["image"].lower() for item in found.items}
    assert len(names) == len(found.items) == 8
    assert all((tmp_path / "store/images").resolve() == (tmp_path / "store" / name).resolve().parent for name in names)


def test_names_that_are_not_unicode(source, tmp_path, h5py):
    with h5py.File(source, "a") as file:
        add_joint(file, b"caf\xe9/left_joint")
        file[b"caf\xe9"].attrs["patient_id"] = np.bytes_(b"M\xfcller")
        file["b"].attrs.create("patient_id", b"M\xfcller", dtype=h5py.string_dtype("ascii"))
    found = import_hdf5(source, tmp_path)
    assert found.faults == []
    assert [item["patient"][::5] for item in found.items[2:]] == ["Mr", "Mr"]
    json.dumps(found.items, ensure_ascii=False).encode()


def test_no_volume_is_a_hidden_file(source, tmp_path):
    source.rename(tmp_path / ".tmj.h5")
    assert import_hdf5(tmp_path / ".tmj.h5", tmp_path).items[0]["image"] == "images/tmj_a_left.nii"


def test_a_bar_is_shown_on_request(source, tmp_path, capsys):
    import_hdf5(source, tmp_path)
    assert capsys.readouterr().err == ""
    import_hdf5(source, tmp_path, progress=True)
    assert "tmj.h5" in capsys.readouterr().err


def test_wrong_arguments_and_files_are_refused(source, tmp_path):
    with pytest.raises(ValueError, match="`axes` must say"):
        import_hdf5(source, tmp_path, "SPL")
    with pytest.raises(ValueError, match="`fov_radius_mm` must be above 0"):
        import_hdf5(source, tmp_path, fov_radius_mm=0)
    source.write_bytes(source.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"tmj\.h5: must be a complete HDF5 file"):
        import_hdf5(source, tmp_path)
