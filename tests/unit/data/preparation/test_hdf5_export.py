"""Export in the authors' HDF5 layout: the numbers in the file, the way back, and what does not fit."""

import numpy as np
import pytest

from bertswin_ext.data.preparation.hdf5_export import export_hdf5
from bertswin_ext.data.preparation.hdf5_import import import_hdf5
from bertswin_ext.geometry import FieldOfView, moved
from bertswin_ext.stored_volume import open_stored_volume, write_stored_volume
from tests.unit.data.preparation.hdf5_files import contents, needed_h5py, write_two_studies


@pytest.fixture
def h5py():
    return needed_h5py()


@pytest.fixture
def source(tmp_path):
    return write_two_studies(tmp_path / "tmj.h5")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("axes", ["LPS", "RAS", "RPI"])
def test_what_was_imported_is_exported_bit_for_bit(axes, compressed, source, tmp_path, h5py):
    with h5py.File(source, "a") as file:
        file.move("a", "P1")
        file.move("b", "P2")
    items = import_hdf5(source, tmp_path / "store", axes).items
    export_hdf5(items, tmp_path / "store", tmp_path / "back.h5", axes, compressed=compressed)
    before, after = contents(source), contents(tmp_path / "back.h5")
    assert before.keys() == after.keys()
    for name, value in before.items():
        if "@" in name:
            is_text = name.endswith("patient_id")
            assert is_text or after[name] == pytest.approx(value, abs=1e-3)
        else:
            assert after[name].dtype == value.dtype
            assert (after[name] == value).all()
    assert [str(after[f"{patient}@patient_id"]) for patient in ("P1", "P2")] == ["P1", "P2"]
    with h5py.File(tmp_path / "back.h5") as file:
        assert file["P1/left_joint/roi_image"].compression == ("gzip" if compressed else None)


def stored_item(folder, name="a", affine=None, shape=(8, 7, 6), with_label=True, **changes):
    """An item as the preparation of raw scans gives it: off the origin, its world not the file's."""
    rng = np.random.default_rng(len(name))
    if affine is None:
        affine = np.diag([0.2, 0.2, 0.2, 1.0])
        affine[:3, 3] = [-61.3, 12.7, 801.0]
    write_stored_volume(folder / f"images/{name}.nii", rng.integers(-1000, 3000, shape, dtype=np.int16), affine)
    item = {"image": f"images/{name}.nii", "patient": "P", "joint": "left", "source": f"scans/{name}"}
    if with_label:
        write_stored_volume(folder / f"labels/{name}.nii", rng.integers(0, 3, shape, dtype=np.uint8), affine)
        item["label"] = f"labels/{name}.nii"
    item["center_mm"] = moved(affine, [3.3, 2.2, 1.1]).tolist()
    item["fov"] = FieldOfView((-5.0, 20.0, 790.0), 88.0).to_item()
    return {key: value for key, value in (item | changes).items() if value is not None}


def voxel_positions(item, folder):
    """Voxels, and centre and axis of the field of view in voxels, of an item."""
    volume = open_stored_volume(folder / item["image"])
    points = moved(np.linalg.inv(volume.affine), [item["center_mm"], item["fov"]["center_mm"]])
    return volume.read(), points


@pytest.mark.parametrize("axes", ["LPS", "RAS", "LAI"])
def test_what_was_exported_is_imported_again(axes, tmp_path, h5py):
    item = stored_item(tmp_path / "a", background_hu=-990)
    export_hdf5([item], tmp_path / "a", tmp_path / "x.h5", axes)
    (back,) = import_hdf5(tmp_path / "x.h5", tmp_path / "b", axes).items
    voxels, points = voxel_positions(item, tmp_path / "a")
    voxels_back, points_back = voxel_positions(back, tmp_path / "b")
    assert (voxels == voxels_back).all()
    assert points_back == pytest.approx(points, abs=1e-3)
    labels = [open_stored_volume(tmp_path / folder / i["label"]).read() for folder, i in (("a", item), ("b", back))]
    assert (labels[0] == labels[1]).all()
    assert (back["patient"], back["joint"], back["background_hu"]) == ("P", "left", -990)


def test_both_joints_of_a_scan_come_back_in_one_world(tmp_path):
    """What lies between them stays, the middle of the field of view becomes the origin."""
    affine = np.diag([0.2, 0.2, 0.2, 1.0])
    affine[:3, 3] = [11.3, 12.7, 799.0]
    items = [
        stored_item(tmp_path / "a", "left", source="scan"),
        stored_item(tmp_path / "a", "right", affine, source="scan", joint="right"),
    ]
    export_hdf5(items, tmp_path / "a", tmp_path / "x.h5")
    back = import_hdf5(tmp_path / "x.h5", tmp_path / "b").items
    for item, imported in zip(items, back, strict=True):
        assert np.add(imported["center_mm"], [-5.0, 20.0, 790.0]) == pytest.approx(item["center_mm"], abs=1e-3)
        origins = [
            open_stored_volume(tmp_path / f / i["image"]).affine[:3, 3] for f, i in (("a", item), ("b", imported))
        ]
        assert origins[1] + [-5.0, 20.0, 790.0] == pytest.approx(origins[0], abs=1e-3)


def test_the_exported_numbers(tmp_path, h5py):
    """Frozen: LPS, indices (z, y, x) from the other ends along x and y."""
    export_hdf5([stored_item(tmp_path)], tmp_path, tmp_path / "x.h5")
    found = contents(tmp_path / "x.h5")
    assert found["P/left_joint/roi_image"].shape == (6, 7, 8)
    assert found["P/left_joint@relative_tmj_center"] == pytest.approx([1.1, 3.8, 3.7], abs=1e-3)
    # x: (-5 + 61.3) / 0.2 = 281.5, mirrored 7 - 281.5; y: 36.5, mirrored 6 - 36.5; z: -55
    assert found["P/left_joint@roi_offset_from_center"] == pytest.approx([3 + 55, 3.5 + 30.5, 4 + 274.5], abs=2e-3)
    assert found["P/left_joint@background_value"] == -1000


def test_a_turned_scan_is_exported_in_its_own_axes(tmp_path, h5py):
    """World and field of view are tilted together: in voxels nothing changes."""
    angle = np.radians(20)
    tilt = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3] = 0.2 * tilt
    affine[:3, 3] = [5, 6, 7]
    fov = FieldOfView(tuple(moved(affine, [100, -50, 20])), 88.0, tuple(-tilt[:, 2])).to_item()
    export_hdf5([stored_item(tmp_path, affine=affine, fov=fov)], tmp_path, tmp_path / "x.h5", "RAS")
    found = contents(tmp_path / "x.h5")
    assert found["P/left_joint@relative_tmj_center"] == pytest.approx([1.1, 2.2, 3.3], abs=1e-3)
    assert found["P/left_joint@roi_offset_from_center"] == pytest.approx([3 - 20, 3.5 + 50, 4 - 100], abs=1e-3)


def test_an_item_without_a_label_has_no_mask(tmp_path, h5py):
    export_hdf5([stored_item(tmp_path, with_label=False)], tmp_path, tmp_path / "x.h5")
    assert "P/left_joint/segmentation_mask" not in contents(tmp_path / "x.h5")


def test_studies_are_scans_of_a_patient(tmp_path, h5py):
    sources = ["old.h5:/s1/left_joint", "old.h5:/s1/right_joint", "scan2", "scan2", "other"]
    sides, patients = ["left", "right", "left", "right", "left"], ["P/1"] * 4 + ["."]
    items = [
        stored_item(tmp_path, name=f"i{n}", source=source, joint=side, patient=patient)
        for n, (source, side, patient) in enumerate(zip(sources, sides, patients, strict=True))
    ]
    export_hdf5(items, tmp_path, tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5") as file:
        assert {name: list(study) for name, study in file.items()} == {
            "P_1": ["left_joint", "right_joint"],
            "P_1_2": ["left_joint", "right_joint"],
            "_": ["left_joint"],
        }
        assert [study.attrs["patient_id"] for study in file.values()] == ["P/1", "P/1", "."]


def test_chunks_are_no_larger_than_the_region(tmp_path, h5py):
    export_hdf5([stored_item(tmp_path, shape=(70, 7, 6))], tmp_path, tmp_path / "x.h5", compressed=True)
    with h5py.File(tmp_path / "x.h5") as file:
        dataset = file["P/left_joint/roi_image"]
        assert dataset.chunks == (6, 7, 64)
        assert (dataset.compression, dataset.compression_opts, dataset.shuffle) == ("gzip", 1, True)


TILTED = FieldOfView((0.0, 0.0, 0.0), 88.0, (0.0, 0.1, 1.0)).to_item()
MISFITS = {
    "no joint": ({"joint": None}, "must have joint"),
    "no centre": ({"center_mm": None}, "must have center_mm"),
    "no joint and field of view": ({"joint": None, "fov": None}, "must have joint, fov"),
    "joint in the middle": ({"joint": "middle"}, "left or right, .*got middle"),
    "centre of 2": ({"center_mm": [1.0, 2.0]}, "at 3 numbers"),
    "centre elsewhere": ({"center_mm": [0.0, 0.0, 0.0]}, "relative_tmj_center must be inside 6 x 7 x 8 voxels"),
    "nan centre": ({"center_mm": [np.nan, 0.0, 0.0]}, "relative_tmj_center must be inside"),
    "no radius": ({"fov": {"center_mm": [0, 0, 0]}}, "missing: radius_mm"),
    "fov is a number": ({"fov": 3}, "int"),
    "other radius": ({"fov": {"center_mm": [0, 0, 0], "radius_mm": 60}}, "`fov_radius_mm` 88, got 60"),
    "tilted": ({"fov": TILTED}, "axis must be the voxels' third"),
    "lost image": ({"image": "images/none.nii"}, "none.nii: the stored volume does not exist"),
    "image is a label": ({"image": "labels/b.nii"}, "image must be int16, got uint8"),
    "label is an image": ({"label": "images/b.nii"}, "label must be uint8, got int16"),
    "label elsewhere": ({"label": "labels/moved.nii"}, "label must be on the image's grid"),
    "other size": ({"label": "labels/large.nii"}, "label must be on the image's grid"),
}


@pytest.fixture
def store(tmp_path, h5py):
    """A store with volumes that do not fit each other."""
    far = np.diag([0.2, 0.2, 0.2, 1.0])
    for name, affine, shape in (("moved", far, (8, 7, 6)), ("large", None, (9, 7, 6))):
        stored_item(tmp_path, name, affine, shape)
    return tmp_path


@pytest.mark.parametrize(("changes", "message"), MISFITS.values(), ids=MISFITS)
def test_an_item_that_does_not_fit_is_named_and_nothing_is_written(changes, message, store):
    items = [stored_item(store, "a"), stored_item(store, "b", **changes)]
    (store / "x.h5").write_text("what was there")
    with pytest.raises(ValueError, match=rf"(?s)1 fault in .*items\[1\] .*{message}"):
        export_hdf5(items, store, store / "x.h5")
    assert (store / "x.h5").read_text() == "what was there"


@pytest.mark.parametrize(
    "matrix",
    [np.diag([0.2, 0.2, 0.3]), np.diag([0.25] * 3), np.array([[0.2, 0.02, 0], [0, 0.199, 0], [0, 0, 0.2]])],
    ids=["slices", "larger", "sheared"],
)
def test_voxels_of_another_form(matrix, tmp_path, h5py):
    affine = np.eye(4)
    affine[:3, :3] = matrix
    with pytest.raises(ValueError, match=r"voxels must be cubes of `spacing_mm` 0\.2, got"):
        export_hdf5([stored_item(tmp_path, affine=affine)], tmp_path, tmp_path / "x.h5")
    assert not list(tmp_path.glob("*.h5"))


def test_another_spacing_and_radius_on_request(tmp_path, h5py):
    fov = FieldOfView((1.0, 2.0, 3.0), 60.0).to_item()
    item = stored_item(tmp_path, affine=np.diag([0.3, 0.3, 0.3, 1.0]), fov=fov)
    export_hdf5([item], tmp_path, tmp_path / "x.h5", spacing_mm=0.3, fov_radius_mm=60)
    (back,) = import_hdf5(tmp_path / "x.h5", tmp_path / "b", spacing_mm=0.3, fov_radius_mm=60).items
    assert voxel_positions(back, tmp_path / "b")[1] == pytest.approx(voxel_positions(item, tmp_path)[1], abs=1e-3)


def test_all_items_that_do_not_fit_are_listed(tmp_path, h5py):
    items = [stored_item(tmp_path, name, joint=None) for name in ("a", "b")]
    with pytest.raises(
        ValueError, match=r"(?s)^2 faults in .*items\[0\] \(images/a.nii\).*items\[1\] \(images/b.nii\)"
    ):
        export_hdf5(items, tmp_path, tmp_path / "x.h5")


def test_two_joints_on_one_side(tmp_path, h5py):
    items = [stored_item(tmp_path, name, source="scan") for name in ("a", "b")]
    with pytest.raises(ValueError, match=r"items\[1\] .*have a joint on this side already"):
        export_hdf5(items, tmp_path, tmp_path / "x.h5")


def test_no_items(tmp_path, h5py):
    with pytest.raises(ValueError, match="there are none"):
        export_hdf5([], tmp_path, tmp_path / "x.h5")


def test_an_export_that_breaks_off_leaves_what_was_there(tmp_path, h5py, monkeypatch):
    items = [stored_item(tmp_path, name) for name in ("a", "b")]
    (tmp_path / "x.h5").write_text("what was there")
    read = type(open_stored_volume(tmp_path / "images/a.nii")).read

    def failing(volume, *box):
        if volume.path.endswith("images/b.nii"):
            raise OSError("the disk has gone")
        return read(volume, *box)

    monkeypatch.setattr("bertswin_ext.stored_volume.StoredVolume.read", failing)
    with pytest.raises(OSError, match="the disk has gone"):
        export_hdf5(items, tmp_path, tmp_path / "x.h5")
    assert (tmp_path / "x.h5").read_text() == "what was there"
    assert not list(tmp_path.glob(".*.tmp"))
