"""The authors' HDF5 layout: its axes, the checks of a joint, and files that are none."""

import sys

import numpy as np
import pytest

from bertswin_ext.data.preparation.hdf5_export import export_hdf5
from bertswin_ext.data.preparation.hdf5_import import import_hdf5
from bertswin_ext.data.preparation.hdf5_layout import (
    FOV_RADIUS_MM,
    Hdf5Layout,
    joint_faults,
    numbers_of,
    open_hdf5,
    unique_name,
)
from tests.unit.data.preparation.hdf5_files import SHAPE, add_joint, needed_h5py, replaced, write_two_studies


@pytest.fixture
def h5py():
    return needed_h5py()


@pytest.fixture
def joint(tmp_path, h5py):
    """A joint of an open file."""
    with h5py.File(tmp_path / "tmj.h5", "w") as file:
        yield add_joint(file, "a/left_joint")


# ---- axes


def test_the_scanner_of_the_paper():
    layout = Hdf5Layout()
    assert (layout.axes, layout.spacing_mm) == ("LPS", 0.2)
    assert layout.fov_radius_mm == FOV_RADIUS_MM == 440 * 0.2


@pytest.mark.parametrize(("axes", "mirrored"), [("RAS", ()), ("LPS", (0, 1)), ("RPI", (1, 2)), ("LAI", (0, 2))])
def test_axes_that_run_against_ours_are_mirrored(axes, mirrored):
    assert Hdf5Layout(axes).mirrored == mirrored


@pytest.mark.parametrize("axes", ["LPS", "RAS", "LAI"])
def test_a_voxel_moves_as_its_index_does(axes):
    layout = Hdf5Layout(axes)
    array = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    ours = layout.array_of_file(array)
    assert ours.shape == SHAPE[::-1]
    assert ours.flags.c_contiguous
    matrix = layout.index_of_file(ours.shape)
    for voxel in [(0, 0, 0), (5, 6, 7), (1, 2, 3)]:
        i, j, k = (matrix @ [*voxel, 1]).astype(int)[:3]
        assert ours[i, j, k] == array[voxel]


@pytest.mark.parametrize("axes", ["LPS", "RAS", "LAI"])
def test_there_and_back(axes):
    layout, array = Hdf5Layout(axes), np.arange(np.prod(SHAPE)).reshape(SHAPE)
    back = layout.array_to_file(layout.array_of_file(array))
    assert np.array_equal(back, array)
    assert back.flags.c_contiguous


@pytest.mark.parametrize("axes", ["SPL", "lps", "LPSA", "LR", ""])
def test_axes_that_are_none(axes):
    with pytest.raises(ValueError, match="`axes` must say where x, y and z run to"):
        Hdf5Layout(axes)


@pytest.mark.parametrize("name", ["spacing_mm", "fov_radius_mm"])
@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf])
def test_lengths_that_are_none(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be above 0, got {value}"):
        Hdf5Layout(**{name: value})


# ---- joints


def test_a_joint_of_the_layout_has_no_faults(joint):
    assert joint_faults(joint) == []


def test_a_joint_needs_no_mask(joint):
    del joint["segmentation_mask"]
    assert joint_faults(joint) == []


BAD = {
    "no image": (lambda g: g.pop("roi_image"), "roi_image is missing"),
    "image is a group": (lambda g: (g.pop("roi_image"), g.create_group("roi_image")), "roi_image is missing or not a"),
    "image of floats": (lambda g: replaced(g, "roi_image", np.zeros(SHAPE, np.float32)), "int16, got .* of float32"),
    "flat image": (lambda g: replaced(g, "roi_image", np.zeros((4, 4), np.int16)), r"int16, got \(4, 4\)"),
    "empty image": (lambda g: replaced(g, "roi_image", np.zeros((4, 0, 4), np.int16)), r"got \(4, 0, 4\)"),
    "mask of int16": (lambda g: replaced(g, "segmentation_mask", np.zeros(SHAPE, np.int16)), "uint8, got .* of int16"),
    "other mask": (
        lambda g: replaced(g, "segmentation_mask", np.zeros((4, 5, 6), np.uint8)),
        r"size of roi_image, got",
    ),
    "no centre": (lambda g: g.attrs.pop("relative_tmj_center"), "relative_tmj_center must be 3 .*got nothing"),
    "nan centre": (
        lambda g: g.attrs.update(relative_tmj_center=[1, np.nan, 2]),
        "relative_tmj_center must be 3 finite",
    ),
    "centre of 2": (lambda g: g.attrs.update(relative_tmj_center=[1, 2]), "relative_tmj_center must be 3 finite"),
    "centre of words": (lambda g: g.attrs.update(relative_tmj_center="here"), "must be 3 finite .*got here"),
    "centre above": (lambda g: g.attrs.update(relative_tmj_center=[5.1, 0, 0]), "inside 6 x 7 x 8 voxels, got .5.1"),
    "centre below": (lambda g: g.attrs.update(relative_tmj_center=[0, -0.1, 0]), "inside 6 x 7 x 8 voxels, got"),
    "infinite offset": (lambda g: g.attrs.update(roi_offset_from_center=[0, np.inf, 0]), "roi_offset_from_center must"),
    "no background": (lambda g: g.attrs.pop("background_value"), "background_value must be a finite number"),
    "nan background": (lambda g: g.attrs.update(background_value=np.nan), "background_value must be a finite number"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD)
def test_what_does_not_follow_the_layout_is_a_fault(spoil, message, joint):
    spoil(joint)
    (fault,) = joint_faults(joint)
    with pytest.raises(ValueError, match=message):
        raise ValueError(fault)


def test_all_faults_of_a_joint_are_listed_in_the_order_of_the_layout(joint):
    del joint["roi_image"]
    for key in list(joint.attrs):
        del joint.attrs[key]
    names = ["roi_image", "relative_tmj_center", "roi_offset_from_center", "background_value"]
    assert [fault.split()[0] for fault in joint_faults(joint)] == names


def test_a_mask_that_leads_nowhere_is_a_fault(joint, h5py):
    replaced(joint, "segmentation_mask", h5py.SoftLink("/nowhere"))
    assert joint_faults(joint) == ["segmentation_mask is missing or not a dataset."]


def test_what_is_no_group_is_no_joint(joint):
    for other in (None, joint["roi_image"]):
        assert joint_faults(other) == ["must be a group named left_joint or right_joint."]


def test_numbers_of_any_kind(joint):
    joint.attrs.update(one=np.int16(3), two=[[1.5, 2.5]], word="here")
    assert [numbers_of(joint, name).tolist() for name in ("one", "two", "word", "none")] == [[3], [1.5, 2.5], [], []]


def test_names_are_unique_whatever_their_case():
    taken = {"b"}
    assert [unique_name(name, taken) for name in ("a", "A", "a", "B", "a_2")] == ["a", "A_2", "a_3", "B_2", "a_2_2"]


# ---- files


@pytest.mark.parametrize("spoil", [lambda b: b[:-100], lambda b: b[:2000], lambda _: b"", lambda _: b"text" * 500])
def test_a_file_that_is_no_hdf5_or_cut_off(spoil, tmp_path):
    path = write_two_studies(tmp_path / "tmj.h5")
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=r"tmj\.h5: must be a complete HDF5 file"):
        open_hdf5(path)


@pytest.mark.usefixtures("h5py")
def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"none\.h5: must be a complete HDF5 file .*No such file"):
        open_hdf5(tmp_path / "none.h5")


def test_without_h5py_there_is_a_hint(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r'pip install "bertswin-ext\[hdf5\]"'):
        import_hdf5(tmp_path / "a.h5", tmp_path)
    with pytest.raises(ImportError, match=r'pip install "bertswin-ext\[hdf5\]"'):
        export_hdf5([], tmp_path, tmp_path / "a.h5")
