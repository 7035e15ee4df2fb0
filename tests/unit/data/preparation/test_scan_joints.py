"""Where joints and field of view are, and what contradicts the scan."""

import numpy as np
import pytest

from bertswin_ext.data.preparation.landmarks import JointCenter
from bertswin_ext.data.preparation.scan_joints import cut_off, field_of_view_of, joints_of
from bertswin_ext.data.preparation.scans import Scan
from bertswin_ext.data.preparation.working_grid import OrientedScan, WorkingGrid
from bertswin_ext.errors import VolumeError
from bertswin_ext.geometry import FieldOfView

# a scan of 100 mm along each axis; the first voxel is at -50 mm
AFFINE = np.array([[2.0, 0, 0, -50], [0, 2.0, 0, -50], [0, 0, 2.0, -50], [0, 0, 0, 1]])
SHAPE = (51, 51, 51)
GRID = WorkingGrid(SHAPE, AFFINE, 0.2)
FOV = FieldOfView((0.0, 0.0, 0.0), 40.0)


def center(joint, *position, origin="line 2 of a.csv"):
    return JointCenter(joint, position, origin)


def scan_of(path, *joints, **known):
    return Scan(path / "a.nii", "a.nii", "a", joints=joints, **known)


# --- the field of view ---


def test_the_datalist_comes_first(tmp_path):
    scan = scan_of(tmp_path, extra={"fov": {"center_mm": [1, 2, 3], "radius_mm": 70}})
    source = OrientedScan(np.zeros(SHAPE), AFFINE)
    assert field_of_view_of(scan, source, 88.0) == (FieldOfView((1, 2, 3), 70.0), "datalist")


def test_a_given_radius_stands_round_the_middle(tmp_path):
    lean = np.array([[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]])
    affine = AFFINE.copy()
    affine[:3, :3] = lean * [1.0, 2.0, 3.0]
    fov, origin = field_of_view_of(scan_of(tmp_path), OrientedScan(np.zeros((11, 21, 31)), affine), 30.0)
    assert origin == "given radius"
    assert fov.center_mm == pytest.approx(affine[:3] @ [5, 10, 15, 1])
    assert fov.axis == pytest.approx((0, -0.6, 0.8))
    assert fov.radius_mm == 30.0


def test_it_is_estimated(tmp_path):
    x, y, _ = np.indices((60, 60, 10))
    seen = np.random.default_rng(0).integers(-500, 500, x.shape)
    voxels = np.where(np.hypot(x - 30, y - 28) < 25, seen, -1000)
    fov, origin = field_of_view_of(scan_of(tmp_path), OrientedScan(voxels, np.eye(4)))
    assert origin == "estimated from the fill value"
    assert (fov.radius_mm, *fov.center_mm[:2]) == pytest.approx((25, 30, 28), abs=0.5)


def test_none_shows(tmp_path):
    voxels = np.random.default_rng(0).integers(-500, 500, (20, 20, 20))
    fov, origin = field_of_view_of(scan_of(tmp_path), OrientedScan(voxels, np.eye(4)))
    assert (fov, origin) == (None, "none found: the whole scan is taken as seen")


# --- the joints ---


def test_given_centres_the_right_one_first(tmp_path):
    left, right = center("left", -20, 0, 0), center("right", 20, 0, 0)
    for joints in ((left, right), (right, left)):
        assert joints_of(scan_of(tmp_path, *joints), None, GRID, FOV) == (right, left)


def mandible(*sides):
    """Rami at 20 mm on either side; their tops are at 10 mm."""
    voxels = np.zeros(SHAPE, dtype=np.uint8)
    for x in [{"left": 15, "right": 35}[side] for side in sides]:
        voxels[x - 2 : x + 3, 20:26, 5:31] = 1
    return OrientedScan(voxels, AFFINE)


def test_condyles_of_the_label_map(tmp_path):
    scan = scan_of(tmp_path, label=tmp_path / "a_seg.nii", sides=("left",))
    [joint] = joints_of(scan, mandible("left"), GRID, None)
    assert (joint.joint, joint.origin) == ("left", "label map a_seg.nii")
    assert joint.center_mm == pytest.approx((-20, -5, 10), abs=1.1)


def test_a_given_centre_comes_before_the_label_map(tmp_path):
    given = center("left", -20, 0, 0)
    scan = scan_of(tmp_path, given, label=tmp_path / "a_seg.nii")
    assert joints_of(scan, mandible("left"), GRID, None) == (given,)


def test_the_label_map_gives_what_is_lacking(tmp_path):
    scan = scan_of(tmp_path, center("left", -20, 0, 0), sides=("right",), label=tmp_path / "a_seg.nii")
    found = joints_of(scan, mandible("right"), GRID, None)
    assert [(j.joint, j.origin) for j in found] == [("right", "label map a_seg.nii"), ("left", "line 2 of a.csv")]


@pytest.mark.parametrize(
    ("joints", "sides", "what"),
    [
        ([], (), "a joint"),
        ([], ("left", "right"), "its left and its right joint"),
        (["left"], ("right",), "its right joint"),
    ],
)
def test_centres_that_are_not_known(tmp_path, joints, sides, what):
    scan = scan_of(tmp_path, *[center(joint, 0, 0, 0) for joint in joints], sides=sides)
    with pytest.raises(VolumeError, match=rf"a\.nii: where {what} lies is not known\. Give --landmarks or --labels"):
        joints_of(scan, None, GRID, None)


def test_two_centres_for_one_joint(tmp_path):
    scan = scan_of(tmp_path, center("left", -20, 0, 0), center("left", -21, 0, 0))
    with pytest.raises(VolumeError, match=r"a\.nii: has several centres for the same joint \(left, left\)\. Keep one"):
        joints_of(scan, None, GRID, None)


@pytest.mark.parametrize("position", [(50.2, 0, 0), (0, -50.2, 0), (0, 0, 90)])
def test_outside_the_scan(tmp_path, position):
    scan = scan_of(tmp_path, center("right", *position))
    message = (
        r"a\.nii: the right joint \(line 2 of a\.csv\) at RAS \(.*\) mm lies outside the scan, which reaches from RAS "
        r"\(-50\.0, -50\.0, -50\.0\) mm to RAS \(50\.0, 50\.0, 50\.0\) mm\. Are the coordinates LPS"
    )
    with pytest.raises(VolumeError, match=message):
        joints_of(scan, None, GRID, None)


def test_the_edge_of_the_scan_is_inside(tmp_path):
    assert joints_of(scan_of(tmp_path, center("right", 50, -50, 50)), None, GRID, None)


def test_outside_the_field_of_view(tmp_path):
    scan = scan_of(tmp_path, center("right", 30, 30, 0))
    with pytest.raises(VolumeError, match=r"outside the field of view, 42 mm from its axis with a radius of 40 mm"):
        joints_of(scan, None, GRID, FOV)
    assert joints_of(scan, None, GRID, None)


# --- notices ---


def test_crops_show_the_outside():
    """140 of the 224 voxels round a joint are in every crop: 14 mm on each side of it at 0.2 mm."""
    assert list(cut_off([center("right", 0, 0, 35.9)], GRID, None, 400)) == []
    [notice] = cut_off([center("right", 0, 0, 36.3)], GRID, None, 400)
    assert notice == "The scan ends 13.8 mm beside the right joint; crops will show its outside."
    [notice] = cut_off([center("left", -27, 0, 0)], GRID, FOV, 400)
    assert notice == "The field of view ends 13.0 mm beside the left joint; crops will show its outside."
    assert list(cut_off([center("left", -27, 0, 0)], GRID, None, 400)) == []
    both = [center("right", 30, 0, 0), center("left", 0, 0, -40)]
    assert len(list(cut_off(both, GRID, FOV, 400))) == 2


def test_a_smaller_region_needs_less():
    assert list(cut_off([center("right", 0, 0, 43.7)], GRID, None, 100)) == []
    assert len(list(cut_off([center("right", 0, 0, 44.1)], GRID, None, 100))) == 1
