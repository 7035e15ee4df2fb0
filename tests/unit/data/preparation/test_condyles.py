"""Condyles in label maps: phantoms, drawn mandibles, and one real map."""

import math
import os
from functools import cache
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bertswin_ext.data.phantoms.phantom import make_phantom
from bertswin_ext.data.preparation.condyles import find_condyles
from bertswin_ext.errors import VolumeError

DEFAULT = Path(__file__).resolve().parents[5] / "shared" / "data" / "real"
REAL = Path(os.environ.get("BERTSWIN_REAL_DATA", DEFAULT))
JAW = REAL / "L1_cbct_jaw_labels_only" / "PostDentalSurgery_Segmentation.nii.gz"
SPACING = 0.8


@cache
def phantom(seed, side=None, oblique_deg=0.0, spacing_mm=SPACING):
    size = tuple(int(72 / edge) for edge in np.broadcast_to(spacing_mm, 3))
    return make_phantom(seed, size, spacing_mm, side, oblique_deg, noise=False, artefacts=False)


def center(label, affine, **options):
    (found,) = find_condyles(label, affine, **options)
    return np.array(found.center_mm)


def of_phantom(made):
    return center(made.label, made.affine, joint=made.side)


def distance(a, b):
    return float(np.linalg.norm(np.subtract(a, b)))


def turned(axis, degrees):
    """Affine that turns the world about an axis."""
    i, j = sorted({0, 1, 2} - {axis})
    matrix = np.eye(4)
    matrix[i, i] = matrix[j, j] = math.cos(math.radians(degrees))
    matrix[j, i] = math.sin(math.radians(degrees))
    matrix[i, j] = -matrix[j, i]
    return matrix


# --- one joint ---


@pytest.mark.parametrize("seed", range(10))
def test_the_condyle_of_a_phantom_lies_just_below_its_joint(seed):
    made = phantom(seed)
    found = of_phantom(made)
    assert distance(found, made.joint_center_mm) < 4
    # the joint space over the condyle is 2 to 3 mm wide, so its middle is above the bone
    assert 0.5 < made.joint_center_mm[2] - found[2] < 2.5


@pytest.mark.parametrize("seed", range(4))
def test_a_tilted_grid_changes_nothing(seed):
    assert distance(of_phantom(phantom(seed)), of_phantom(phantom(seed, oblique_deg=10.0))) < SPACING


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 2.0), (1.0, 2.0, 1.0), (0.25, 0.8, 1.2)])
def test_voxels_need_not_be_cubes(spacing):
    made = phantom(1, spacing_mm=spacing)
    assert distance(of_phantom(made), of_phantom(phantom(1))) < max(spacing)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("flips", list(product([1, -1], repeat=3)))
def test_the_order_and_direction_of_the_axes_change_nothing(axes, flips):
    made = phantom(0)
    orientation = np.stack([axes, flips], axis=1)
    label = nib.orientations.apply_orientation(made.label, orientation)
    affine = made.affine @ nib.orientations.inv_ornt_aff(orientation, made.label.shape)
    assert distance(center(label, affine, joint=made.side), of_phantom(made)) < 1e-6


@pytest.mark.parametrize("kind", [np.int16, np.float32, bool])
def test_the_type_of_the_map_changes_nothing(kind):
    made = phantom(0)
    label = (made.label == 1).astype(kind)
    assert center(label, made.affine, joint=made.side).tolist() == of_phantom(made).tolist()


def test_the_map_is_not_changed():
    made = phantom(0)
    before = made.label.copy()
    find_condyles(made.label, made.affine, joint="left")
    assert np.array_equal(made.label, before)


def test_the_side_and_the_origin_are_handed_on():
    made = phantom(0, "left")
    (found,) = find_condyles(made.label, made.affine, joint="left", origin="label map a_seg.nii.gz")
    assert (found.joint, found.origin) == ("left", "label map a_seg.nii.gz")
    assert all(type(entry) is float for entry in found.center_mm)


def test_one_joint_of_an_unknown_side_is_refused():
    made = phantom(0)
    with pytest.raises(VolumeError, match=r'^a_seg\.nii: .*side that is unknown.*`joint`, "left" or "right"'):
        find_condyles(made.label, made.affine, origin="a_seg.nii")


# --- drawn mandibles: head, neck and coronoid process of known size ---


def drawn(coronoid_mm=35):
    """A ramus at 1 mm: a head of 16 x 8 mm, its top at k = 40, and a coronoid process before it."""
    label = np.zeros((40, 70, 60), dtype=np.uint8)
    label[16:24, 12:50, 2:26] = 1  # ramus
    label[17:23, 12:18, 20:38] = 1  # neck
    label[12:28, 11:19, 34:41] = 1  # head
    label[18:22, 40:48, 20 : coronoid_mm + 1] = 1
    return label


def test_the_center_is_the_middle_of_the_head_at_its_top():
    assert center(drawn(), np.eye(4), joint="right").tolist() == [19.5, 14.5, 40.0]


def test_only_the_upper_4_mm_of_the_head_are_averaged():
    label = drawn()
    label[28:36, 11:19, 34:36] = 1  # a shoulder that ends 5 mm below the top
    assert center(label, np.eye(4), joint="right").tolist() == [19.5, 14.5, 40.0]
    label[28:36, 11:19, 36] = 1  # 4 mm below
    assert center(label, np.eye(4), joint="right")[0] > 19.5


@pytest.mark.parametrize("coronoid_mm", [26, 39, 40, 41, 50])
def test_a_coronoid_process_of_any_height_is_not_taken_for_the_condyle(coronoid_mm):
    assert center(drawn(coronoid_mm), np.eye(4), joint="right").tolist() == [19.5, 14.5, 40.0]


def test_a_saddle_in_the_head_is_no_notch():
    label = drawn(50)
    label[12:28, 13:16, 37:41] = 0
    assert center(label, np.eye(4), joint="right")[1] == pytest.approx(14.5, abs=1)


def test_a_jaw_angle_behind_the_condyle_is_passed():
    label = drawn()
    label[16:24, 2:12, 2:12] = 1
    assert center(label, np.eye(4), joint="right").tolist() == [19.5, 14.5, 40.0]


def test_a_lone_voxel_is_no_top():
    label = drawn()
    label[20, 15, 41:44] = 1
    assert center(label, np.eye(4), joint="right")[2] == 40


@pytest.mark.parametrize(
    ("place", "what"),
    [
        (np.s_[10:14, 10:14, 45:50], "a speck of 80 mm3 above"),
        (np.s_[10:16, 8:13, 43:49], "180 mm3, less than a twentieth of the ramus, just above"),
        (np.s_[4:20, 0:5, 49:58], "720 mm3, less than a fifth, far above"),
    ],
)
def test_specks_are_left_out(place, what):
    label = drawn()
    assert not label[place].any()
    label[place] = 1
    assert center(label, np.eye(4), joint="right").tolist() == [19.5, 14.5, 40.0], what


def test_a_head_apart_from_its_neck_is_kept():
    label = drawn(26)
    label[:, 5:25, 30:33] = 0
    assert center(label, np.eye(4), joint="right").tolist() == [19.5, 14.5, 40.0]


def test_several_labels_may_make_up_the_mandible():
    label = drawn()
    label[:, :, 30:][label[:, :, 30:] == 1] = 7
    assert center(label, np.eye(4), mandible=(1, 7), joint="right").tolist() == [19.5, 14.5, 40.0]


@pytest.mark.parametrize(
    "cut",
    [np.s_[:, :, :41], np.s_[:, :, :37], np.s_[:, 11:, :], np.s_[:, :19, :], np.s_[12:, :, :], np.s_[:28, :, :]],
)
def test_a_condyle_at_the_edge_of_the_map_is_refused(cut):
    with pytest.raises(VolumeError, match=r"^map: the right condyle is cut off by the edge of the label map.*landmark"):
        find_condyles(drawn()[cut], np.eye(4), joint="right", origin="map")


def test_a_condyle_beside_the_edge_and_a_ramus_cut_by_it_are_fine():
    label = drawn()[11:29, 10:45, 10:42]
    assert center(label, np.eye(4), joint="right").tolist() == [8.5, 4.5, 30.0]


# --- both joints ---


def both(gap=40):
    """A left and a right phantom in one map, ``gap`` voxels between them."""
    left, right = phantom(3, "left"), phantom(4, "right")
    between = np.zeros((gap, *left.label.shape[1:]), dtype=np.uint8)
    label = np.concatenate([left.label, between, right.label])
    shift = left.affine[:3, 3] + left.affine[:3, :3] @ [left.label.shape[0] + gap, 0, 0] - right.affine[:3, 3]
    return label, left.affine, of_phantom(left), of_phantom(right) + shift


def test_both_joints_of_one_map_are_found():
    label, affine, left, right = both()
    found = find_condyles(label, affine)
    assert [one.joint for one in found] == ["left", "right"]
    assert distance(found[0].center_mm, left) < 1e-6
    assert distance(found[1].center_mm, right) < 1e-6


@pytest.mark.parametrize("joint", ["left", "right"])
def test_one_of_both_can_be_asked_for(joint):
    label, affine, left, right = both()
    (found,) = find_condyles(label, affine, joint=joint)
    assert found.joint == joint
    assert distance(found.center_mm, {"left": left, "right": right}[joint]) < 1e-6


def arch():
    """A whole mandible at 1 mm: two drawn rami 70 mm apart, and the body between them."""
    label = np.zeros((110, 110, 60), dtype=np.uint8)
    label[:40, :70], label[70:, :70] = drawn(), drawn()
    label[16:24, 50:90, 2:20] = label[86:94, 50:90, 2:20] = 1
    label[16:94, 82:90, 2:20] = 1
    return label


def test_both_joints_of_a_whole_mandible_are_found():
    found = find_condyles(arch(), np.eye(4))
    assert [one.center_mm for one in found] == [(19.5, 14.5, 40.0), (89.5, 14.5, 40.0)]


def rami(width):
    """Two rami in one map, of this width in all."""
    label = np.zeros((75, 70, 60), dtype=np.uint8)
    label[5 : 5 + width, 50:60, 2:20] = 1
    label[:32] |= drawn()[7:39]
    label[width - 23 : width + 5] |= drawn()[12:40]
    return label


def test_two_rami_at_most_60_mm_wide_are_not_those_of_one_head():
    assert [one.joint for one in find_condyles(rami(62), np.eye(4))] == ["left", "right"]
    with pytest.raises(VolumeError, match="side that is unknown"):
        find_condyles(rami(61), np.eye(4))  # 60 mm between the middles of the outermost voxels


def test_a_mandible_without_a_chin_is_still_one():
    label = arch()
    label[40:70] = 0
    assert [one.joint for one in find_condyles(label, np.eye(4))] == ["left", "right"]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("degrees", [-15, 15])
def test_a_turned_head_is_still_read(axis, degrees):
    turn = turned(axis, degrees)
    found = [one.center_mm @ turn[:3, :3] for one in find_condyles(arch(), turn)]
    assert distance(found[0], (19.5, 14.5, 40.0)) < 5  # another part of a flat top is the highest
    assert distance(found[1], (89.5, 14.5, 40.0)) < 5


def half():
    """The arch without its left ramus."""
    label = arch()
    label[:40, :60] = 0
    return label


def test_the_only_condyle_of_a_wide_map_has_a_side():
    (found,) = find_condyles(half(), np.eye(4))
    assert (found.joint, found.center_mm) == ("right", (89.5, 14.5, 40.0))
    (found,) = find_condyles(half()[::-1], np.eye(4))
    assert (found.joint, found.center_mm) == ("left", (19.5, 14.5, 40.0))


def test_the_stump_of_a_ramus_is_no_condyle():
    label = arch()
    label[:40, :60, 8:] = 0
    assert [one.joint for one in find_condyles(label, np.eye(4))] == ["right"]


def test_a_joint_that_a_wide_map_does_not_show_is_refused():
    with pytest.raises(VolumeError, match="shows no left condyle, only the right one"):
        find_condyles(half(), np.eye(4), joint="left")


def test_a_cut_condyle_does_not_spoil_the_other_one():
    cut = arch()[12:]
    with pytest.raises(VolumeError, match="the left condyle is cut off"):
        find_condyles(cut, np.eye(4))
    assert center(cut, np.eye(4), joint="right").tolist() == [77.5, 14.5, 40.0]


# --- what cannot be used ---


def test_a_map_without_a_mandible_names_its_labels():
    label = np.zeros((20, 20, 20), dtype=np.int16)
    label[2:9], label[12, 3, 4] = 3, 12
    with pytest.raises(VolumeError, match=r"a\.nii: it shows no mandible \(label 1, 2\).*found are 0, 3, 12\."):
        find_condyles(label, np.eye(4), mandible=[1, 2], origin="a.nii")


def test_specks_alone_are_no_mandible():
    label = np.zeros((20, 20, 20), dtype=np.int16)
    label[2:6, 2:7, 3:7] = 1  # 80 mm3
    with pytest.raises(VolumeError, match="of at least 100 mm3"):
        find_condyles(label, np.eye(4), joint="left")
    label[2:6, 2:7, 7] = 1  # 100 mm3
    assert center(label, np.eye(4), joint="left")[2] == 7


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"label": np.ones((1, 9, 9, 9))}, r"`label` must be one volume \(i, j, k\), got shape \(1, 9, 9, 9\)"),
        ({"affine": np.eye(3)}, r"`affine` must map voxels to mm, \(4, 4\)"),
        ({"affine": np.diag([1, 1, 0, 1])}, "`affine` must map voxels to mm"),
        ({"affine": np.full((4, 4), np.nan)}, "`affine` must map voxels to mm"),
        ({"mandible": ()}, "`mandible` must name at least one label"),
        ({"joint": "Left"}, '`joint` must be "left", "right" or None, got \'Left\''),
    ],
)
def test_a_wrong_argument_is_named(change, text):
    arguments = {"label": np.ones((9, 9, 9), dtype=np.uint8), "affine": np.eye(4), **change}
    with pytest.raises(ValueError, match=text):
        find_condyles(**arguments)


# --- a real map ---


@pytest.mark.skipif(not JAW.is_file(), reason="no real volumes: set BERTSWIN_REAL_DATA to the folder that holds them")
def test_the_condyles_of_a_real_mandible_are_where_they_are_seen():
    image = nib.load(JAW)
    label = np.asarray(image.dataobj)
    left, right = (image.affine @ (*voxel, 1) for voxel in ((279, 224, 192), (89, 221, 195)))  # by eye, +-3 mm
    found = find_condyles(label, image.affine, mandible=2)
    assert [one.joint for one in found] == ["left", "right"]
    assert distance(found[0].center_mm, left[:3]) < 5
    assert distance(found[1].center_mm, right[:3]) < 5
