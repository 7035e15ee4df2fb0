"""The label map of a scan against what the same network would say of the scan's own voxels."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from bertswin_ext.deployment.joint_search import JointsOfScan
from bertswin_ext.deployment.joints_inferer import JointsInferer
from bertswin_ext.deployment.scan_joints import JOINTS_META, ScanJoint
from bertswin_ext.inferers import sliding_window
from bertswin_ext.voxels import VOXELS

AIR, SOFT, BONE = -1000.0, 0.0, 1500.0
THRESHOLDS = [VOXELS.normalized(hu) for hu in (-500.0, 750.0)]


def by_threshold(windows):
    """Logits of air, mandible (soft) and skull (bone): what is between two thresholds is sure to be one of them."""
    low, high = THRESHOLDS
    return 40 * torch.cat([low - windows, torch.minimum(windows - low, high - windows), windows - high], dim=1)


def blocks(shape=(60, 48, 40), affine=None, joints=()):
    """A scan of three blocks, smooth at no edge, with the labels that belong to it."""
    labels = np.zeros(shape, dtype=np.uint8)
    i, j, k = shape
    labels[i // 8 : i // 3, j // 4 : j // 2, k // 4 : 3 * k // 4] = 1
    labels[i // 2 : i - i // 8, j // 3 : j - j // 5, k // 3 : k - k // 6] = 2
    hu = np.choose(labels, [AIR, SOFT, BONE]).astype(np.float32)
    meta = {"filename_or_obj": "head.nii.gz", JOINTS_META: list(joints)}
    affine = np.eye(4) if affine is None else affine
    return MetaTensor(torch.from_numpy(hu)[None, None], affine=torch.from_numpy(affine), meta=meta), labels


def inferer(**arguments):
    return JointsInferer(sliding_window(16, 8), **{"spacing_mm": 1.0, "region_mm": 24.0, **arguments})


def test_a_whole_scan_is_labelled_voxel_by_voxel():
    scan, labels = blocks()
    label = inferer()(scan, by_threshold)
    assert label.dtype == torch.uint8
    assert label.shape == scan.shape
    assert np.array_equal(label.numpy()[0, 0], labels)


def test_nothing_is_labelled_outside_the_box_round_a_joint():
    joint = ScanJoint("right", (40.0, 24.0, 20.0))
    scan, labels = blocks(joints=[joint])
    label = inferer()(scan, by_threshold).numpy()[0, 0]
    expected = np.zeros_like(labels)
    box = (slice(29, 53), slice(13, 37), slice(9, 33))
    expected[box] = labels[box]
    found = [(axis.min(), axis.max()) for axis in np.nonzero(label)]
    assert found == [(axis.min(), axis.max()) for axis in np.nonzero(expected)]
    assert np.array_equal(label, expected)


def test_a_left_joint_is_seen_as_a_right_one_and_labelled_where_it_is():
    seen = {}

    def network(windows):
        seen.setdefault("ramp", windows[0, 0, :, 8, 8])
        return by_threshold(windows)

    scan, _ = blocks()
    # brighter from left to right, below the first threshold on the left
    scan[..., :] = torch.linspace(-900.0, 900.0, 60)[None, None, :, None, None]
    scan.meta[JOINTS_META] = [ScanJoint("left", (30.0, 24.0, 20.0))]
    label = inferer()(scan, network).numpy()[0, 0]
    assert (seen["ramp"].diff() < 0).all()
    columns = label[18:42, 24, 20]
    assert (np.diff(columns.astype(int)) >= 0).all()
    assert columns[0] < columns[-1]


def test_left_and_right_scans_that_mirror_each_other_get_mirrored_labels():
    joint = (40.0, 24.0, 20.0)
    scan, _ = blocks(joints=[ScanJoint("right", joint)])
    mirrored, _ = blocks(joints=[ScanJoint("left", (19.0, 24.0, 20.0))])
    mirrored[...] = scan.as_tensor().flip(2)
    right, left = (inferer(region_mm=25.0)(s, by_threshold).numpy()[0, 0] for s in (scan, mirrored))
    assert right.any()
    assert np.array_equal(right[::-1], left)


def tilted(spacing, turn_deg):
    """An affine of anisotropic voxels that are turned about the third axis."""
    turn = np.deg2rad(turn_deg)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    affine[:3, :3] = affine[:3, :3] @ np.diag(spacing)
    affine[:3, 3] = [-80.0, 12.0, 300.0]
    return affine


@pytest.mark.parametrize("spacing", [(0.7, 1.3, 2.0), (2.0, 0.8, 0.9)])
def test_labels_lie_in_the_same_place_on_tilted_uneven_voxels(spacing):
    affine = tilted(spacing, 11.0)
    center = tuple(affine @ [36.0, 24.0, 22.0, 1.0])[:3]
    scan, labels = blocks(affine=affine, joints=[ScanJoint("left", center)])
    # two tissues only: between air and bone the resampled scan passes through soft tissue
    tissue = labels > 0
    scan[0, 0] = torch.from_numpy(np.where(tissue, BONE, AIR))
    label = inferer(region_mm=30.0)(scan, lambda windows: by_threshold(windows)[:, ::2])
    assert np.allclose(label.affine.numpy(), affine)
    ours = label.numpy()[0, 0]
    inside = tuple(slice(axis.min(), axis.max() + 1) for axis in np.nonzero(ours))
    ours, tissue = ours[inside], tissue[inside]
    # edges are resampled twice; what is two voxels from any of them is not touched
    reference = torch.from_numpy(tissue).float()[None, None]
    lowest, highest = (sign * torch.nn.functional.max_pool3d(sign * reference, 5, 1, 2) for sign in (-1, 1))
    sure = (lowest == highest)[0, 0].numpy()
    assert sure.mean() > 0.2
    assert np.array_equal(ours[sure], tissue[sure])
    assert abs(ours.sum() / tissue.sum() - 1) < 0.05


def test_a_voxel_in_two_boxes_is_that_of_the_nearer_joint():
    joints = [ScanJoint("right", (36.0, 24.0, 20.0)), ScanJoint("left", (24.0, 24.0, 20.0))]
    scan, _ = blocks(joints=joints)
    calls = []

    def network(windows):
        # the first joint is all mandible, the second all skull
        calls.append(len(windows))
        class_id = 1 if len(calls) <= count else 2
        logits = torch.zeros(len(windows), 3, *windows.shape[2:])
        logits[:, class_id] = 1.0
        return logits

    count = 10**9
    scan.meta[JOINTS_META] = joints[:1]
    inferer()(scan, network)
    count, calls = len(calls), []
    scan.meta[JOINTS_META] = joints
    label = inferer()(scan, network).numpy()[0, 0]
    assert set(np.unique(label[31:48, 13:36, 9:32])) == {1}
    assert set(np.unique(label[13:30, 13:36, 9:32])) == {2}


def test_joints_that_nobody_named_are_looked_for():
    scan, _ = blocks()
    joint = ScanJoint("right", (40.0, 24.0, 20.0), 0.9)
    found = JointsOfScan([joint], ["left out, too uncertain: left joint"])
    result = inferer(search=lambda volume: found if volume.ndim == 4 else None).segment(scan, by_threshold)
    assert result.joints == [joint]
    assert result.warnings == found.warnings
    assert result.label.any()
    assert not result.label[0, 0, :28].any()
    assert set(result.seconds) == {"locate", "resample", "network", "invert"}


def test_only_the_largest_part_of_the_mandible_stays_if_asked_for():
    scan, labels = blocks()
    scan[0, 0, 50:52, 4:6, 4:6] = SOFT
    assert (inferer()(scan, by_threshold).numpy()[0, 0] == 1).sum() == (labels == 1).sum() + 8
    assert (inferer(keep_largest=True)(scan, by_threshold).numpy()[0, 0] == 1).sum() == (labels == 1).sum()


def test_the_scan_stays_as_it_was():
    scan, _ = blocks(joints=[ScanJoint("left", (40.0, 24.0, 20.0))])
    before, operations = scan.clone(), list(scan.applied_operations)
    inferer()(scan, by_threshold)
    assert torch.equal(scan, before)
    assert list(scan.applied_operations) == operations


@pytest.mark.parametrize("wrong", [torch.zeros(1, 1, 8, 8, 8), MetaTensor(torch.zeros(2, 1, 8, 8, 8))])
def test_what_is_no_scan_is_refused(wrong):
    with pytest.raises(ValueError, match=r"A scan must be a MetaTensor \(1, 1, i, j, k\)"):
        inferer()(wrong, by_threshold)


def test_an_uncertain_joint_is_told_where_only_the_label_is_taken(caplog):
    found = JointsOfScan([ScanJoint("right", (40.0, 24.0, 20.0), 0.9)], ["left out, too uncertain: left joint"])
    inferer(search=lambda _: found)(blocks()[0], by_threshold)
    assert "left out, too uncertain: left joint" in caplog.text


def test_mixed_precision_is_for_the_network_alone():
    """In bfloat16 the resampling grid of a box would be off by a third of a mm."""
    kinds = []

    def network(windows):
        kinds.append((windows.dtype, torch.is_autocast_enabled("cpu")))
        return by_threshold(windows)

    scan, _ = blocks(affine=tilted((0.3, 0.3, 0.3), 0.0), joints=[ScanJoint("right", (-73.0, 19.0, 306.0))])
    labels = [inferer(spacing_mm=0.4, region_mm=10.0, amp=amp)(scan, network).numpy() for amp in (False, True)]
    assert {enabled for _, enabled in kinds} == {False, True}
    assert {dtype for dtype, _ in kinds} == {torch.float32}
    assert labels[0].any()
    assert np.array_equal(*labels)
