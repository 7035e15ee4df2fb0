import pytest
import torch
from monai.data import MetaTensor

from bertswin_ext.deployment.scan_joints import JOINTS_META, NoteJointsd, ScanJoint, joints_of


def scan(**meta):
    return MetaTensor(torch.zeros(1, 8, 8, 8), meta={"filename_or_obj": "head.nii.gz", **meta})


def test_an_item_with_a_centre_is_one_joint():
    assert joints_of({"joint": "right", "center_mm": [1, 2, 3]}) == [ScanJoint("right", (1.0, 2.0, 3.0))]


def test_an_item_without_a_centre_names_none():
    assert joints_of({"image": "head.nii.gz", "joint": "left"}) == []


def test_both_joints_of_a_head_in_their_order():
    entries = [{"joint": "left", "center_mm": [-50, 0, 0]}, {"joint": "right", "center_mm": [50, 0, 0]}]
    assert [joint.joint for joint in joints_of({"joints": entries})] == ["left", "right"]


def test_the_list_of_joints_comes_before_a_centre():
    assert joints_of({"joints": [], "center_mm": [1, 2, 3]}) == []


@pytest.mark.parametrize("entry", [{"joint": "left"}, {"center_mm": [1, 2]}, [1, 2, 3]])
def test_a_joint_must_have_a_place(entry):
    with pytest.raises(ValueError, match=r"A joint must be .*center_mm"):
        joints_of({"joints": [entry]})


def test_joints_are_noted_beside_the_voxels():
    noted = NoteJointsd("image")({"image": scan(), "joint": "left", "center_mm": [1, 2, 3]})
    assert noted["image"].meta[JOINTS_META] == [ScanJoint("left", (1.0, 2.0, 3.0))]


def test_a_joint_outside_the_scan_is_refused_by_name():
    with pytest.raises(ValueError, match=r"head\.nii\.gz: the joint's centre \[1\.0, 2\.0, 30\.0\] mm"):
        NoteJointsd("image")({"image": scan(), "center_mm": [1, 2, 30]})


def test_a_third_side_is_refused_by_name():
    with pytest.raises(ValueError, match=r'head\.nii\.gz: `joint` must be "left" or "right"'):
        NoteJointsd("image")({"image": scan(), "joint": "middle", "center_mm": [1, 2, 3]})


@pytest.mark.parametrize(
    ("joint", "name"),
    [(ScanJoint("left", (0, 0, 0)), "left"), (ScanJoint(None, (0, 0, 0)), "joint"), (ScanJoint(None, None), "scan")],
)
def test_a_joint_has_a_name_for_files(joint, name):
    assert joint.name == name


def test_exchanged_sides_are_refused():
    joints = [{"joint": "left", "center_mm": [6, 4, 4]}, {"joint": "right", "center_mm": [2, 4, 4]}]
    with pytest.raises(ValueError, match=r"right joint \(x = 2\) must lie to the right of the left one \(x = 6\).*LPS"):
        NoteJointsd("image")({"image": scan(), "joints": joints})
    assert NoteJointsd("image")({"image": scan(), "joints": joints[:1]})["image"].meta[JOINTS_META]
