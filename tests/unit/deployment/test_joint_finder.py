from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from bertswin_ext.data.phantoms.bodies import make_body
from bertswin_ext.data.phantoms.heads import make_head
from bertswin_ext.deployment.joint_finder import FoundJoint, JointFinder, load_joint_finder
from bertswin_ext.networks.joint_locator import JointLocator
from bertswin_ext.networks.record import AdaptationRecord, read_record, save_network
from bertswin_ext.voxels import VOXELS

WEIGHTS = Path(__file__).parents[3] / "bundles" / "inference" / "models" / "locator" / "model.pt"


class Spots(nn.Module):
    """Scores by the value of a voxel: a joint is where one value is, the left one's or the right one's."""

    def __init__(self, left_hu=400.0, right_hu=1200.0, score=6.0):
        super().__init__()
        self.values = [VOXELS.normalized(hu) for hu in (left_hu, right_hu)]
        self.score = score

    def forward(self, x):
        return torch.cat([torch.where((x - value).abs() < 0.05, self.score, -60.0) for value in self.values], dim=1)


def scan_with(left=None, right=None, spacing=2.0):
    """A volume of 160 mm in air with an 8 mm cube about either place of the world."""
    size = int(160 / spacing)
    scan = torch.full((1, size, size, size), -1000.0)
    affine = torch.diag(torch.tensor([spacing, spacing, spacing, 1.0], dtype=torch.float64))
    affine[:3, 3] = -80.0 + spacing / 2
    for place, hu in ((left, 400.0), (right, 1200.0)):
        if place is not None:
            low = [round((c - 4.0 + 80.0) / spacing) for c in place]
            high = [round((c + 4.0 + 80.0) / spacing) for c in place]
            scan[(0, *(slice(a, b) for a, b in zip(low, high, strict=True)))] = hu
    return MetaTensor(scan, affine=affine)


LEFT, RIGHT = (-52.0, 4.0, 12.0), (52.0, -4.0, 8.0)


@pytest.mark.parametrize("spacing", [1.0, 2.0])
def test_both_joints_are_found_where_they_are_in_the_world(spacing):
    left, right = JointFinder(Spots(), 4.0)(scan_with(LEFT, RIGHT, spacing))
    assert (left.joint, right.joint) == ("left", "right")
    assert left.center_mm == pytest.approx(LEFT, abs=0.5)
    assert right.center_mm == pytest.approx(RIGHT, abs=0.5)
    assert min(left.confidence, right.confidence) > 0.95


def test_a_scan_of_one_joint_gives_one_and_says_what_was_seen_of_the_other():
    finder = JointFinder(Spots(), 4.0)
    scan = scan_with(right=RIGHT)
    assert [found.joint for found in finder(scan)] == ["right"]
    candidates = finder.candidates(scan)
    assert [found.joint for found in candidates] == ["left", "right"]
    assert candidates[0].confidence < 1e-6


def test_an_empty_scan_gives_none():
    assert JointFinder(Spots(), 4.0)(scan_with()) == []


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (RIGHT, LEFT),  # sides exchanged
        ((-20.0, 4.0, 12.0), (20.0, 4.0, 12.0)),  # too near
        ((-72.0, 4.0, 12.0), (72.0, 4.0, 12.0)),  # too far
        ((-52.0, 4.0, 60.0), (52.0, 4.0, 0.0)),  # one much higher
    ],
)
def test_two_joints_that_are_no_pair_make_each_other_doubtful(left, right):
    found = JointFinder(Spots(), 4.0).candidates(scan_with(left, right))
    assert all(joint.confidence < 0.55 for joint in found)


def test_of_an_impossible_pair_the_surer_one_is_believed():
    class Uneven(Spots):
        def forward(self, x):
            scores = super().forward(x)
            return torch.cat([scores[:, :1].clamp(max=-3.0), scores[:, 1:]], dim=1)

    left, right = JointFinder(Uneven(), 4.0).candidates(scan_with(RIGHT, LEFT))
    assert right.confidence > 0.9
    assert left.confidence < 0.1


def test_the_least_confidence_is_the_callers():
    scan = scan_with(LEFT, RIGHT)
    assert len(JointFinder(Spots(score=-1.0), 4.0, min_confidence=0.99)(scan)) == 0
    assert len(JointFinder(Spots(score=-1.0), 4.0, min_confidence=0.1)(scan)) == 2


def test_a_tilted_scan_gives_places_in_the_world():
    scan = scan_with(LEFT, RIGHT)
    lean = np.eye(4)
    lean[:3, :3] = [[1.0, 0.0, 0.0], [0.0, 0.96, -0.28], [0.0, 0.28, 0.96]]
    tilted = MetaTensor(scan.as_tensor(), affine=torch.from_numpy(lean) @ scan.affine)
    seen = JointFinder(_Bright(), 4.0).candidates(tilted)
    for found, place in zip(seen, (LEFT, RIGHT), strict=True):
        assert found.center_mm == pytest.approx((lean[:3, :3] @ place).tolist(), abs=2.0)


class _Bright(nn.Module):
    """Brighter than air on the left side of the scan is the left joint, on the right side the right one."""

    def forward(self, x):
        half = x.shape[2] // 2
        bright = torch.where(x > VOXELS.normalized(0.0), 6.0, -60.0)
        left, right = bright.clone(), bright.clone()
        left[:, :, half:] = -60.0
        right[:, :, :half] = -60.0
        return torch.cat([left, right], dim=1)


def test_a_finder_comes_from_a_file(tmp_path):
    torch.manual_seed(0)
    network = JointLocator(channels=(4, 8)).eval()
    save_network(network, tmp_path / "model.pt", AdaptationRecord.of(network, 5.0))
    finder = load_joint_finder(tmp_path / "model.pt", min_confidence=0.3)
    scan = scan_with(LEFT, RIGHT)
    assert (finder.spacing_mm, finder.min_confidence) == (5.0, 0.3)
    assert finder.candidates(scan) == JointFinder(network, 5.0).candidates(scan)
    assert isinstance(finder.candidates(scan)[0], FoundJoint)


def test_the_weights_of_another_network_are_refused(tmp_path):
    save_network(nn.Conv3d(1, 1, 1), tmp_path / "model.pt", AdaptationRecord("Conv3d", {}, "RAS", (4.0, 4.0, 4.0)))
    with pytest.raises(ValueError, match=r"model\.pt holds the weights of a Conv3d, not of a JointLocator"):
        load_joint_finder(tmp_path / "model.pt")


@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_a_confidence_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match=r"`min_confidence` must be from 0 to 1"):
        JointFinder(Spots(), 4.0, value)


@pytest.fixture(scope="module")
def shipped():
    return load_joint_finder(WEIGHTS)


def scan_of(volume):
    return MetaTensor(torch.from_numpy(volume.image)[None], affine=torch.from_numpy(volume.affine))


def test_the_shipped_weights_are_small_and_say_what_they_expect():
    record = read_record(WEIGHTS)
    assert WEIGHTS.stat().st_size < 1e6
    assert (record.spacing_mm, record.labels) == ((4.0, 4.0, 4.0), ("left", "right"))


def test_the_shipped_weights_find_the_joints_of_a_head_that_they_have_not_seen(shipped):
    head = make_head(12345, spacing_mm=4.0)
    found = shipped(scan_of(head))
    assert [joint.joint for joint in found] == ["left", "right"]
    for joint in found:
        assert np.linalg.norm(np.subtract(joint.center_mm, head.joints[joint.joint])) < 10


@pytest.mark.parametrize("seed", [12346, 12347])
def test_the_shipped_weights_find_none_in_a_body(shipped, seed):
    assert shipped(scan_of(make_body(seed, spacing_mm=4.0))) == []
