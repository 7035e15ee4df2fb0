import pytest
import torch
from monai.data import MetaTensor

from bertswin_ext.deployment.joint_finder import FoundJoint
from bertswin_ext.deployment.joint_search import JointSearch
from bertswin_ext.deployment.scan_joints import JOINTS_META, ScanJoint

LEFT, RIGHT = FoundJoint("left", (20.0, 24.0, 20.0), 0.8), FoundJoint("right", (44.0, 24.0, 20.0), 0.2)


class Finder:
    """A finder that has its answer."""

    min_confidence = 0.5

    def __init__(self, *found):
        self.found = found

    def candidates(self, scan):
        assert scan.ndim == 4
        return self.found


def scan(*joints):
    return MetaTensor(torch.zeros(1, 4, 4, 4), meta={"filename_or_obj": "head.nii.gz", JOINTS_META: list(joints)})


def search_of(*found):
    return JointSearch(lambda: Finder(*found))


def test_an_uncertain_joint_is_named_and_left_out():
    joints, warnings = search_of(LEFT, RIGHT)(scan())
    assert joints == [ScanJoint("left", (20.0, 24.0, 20.0), 0.8)]
    assert warnings == ["left out, too uncertain: right joint at [44.0, 24.0, 20.0] mm, confidence 0.20"]


def test_without_a_sure_joint_places_are_asked_for():
    message = (
        r"head\.nii\.gz: no joint found .*0\.5 \(best guesses: right joint .*0\.20\)\. Give the places, .*--joints"
    )
    with pytest.raises(ValueError, match=message):
        search_of(RIGHT)(scan())


def test_named_joints_need_no_locator():
    def never():
        raise AssertionError("nothing has to be found")

    named = ScanJoint("right", (1.0, 2.0, 3.0))
    assert JointSearch(never)(scan(named)) == ([named], [])


def test_the_locator_is_loaded_once():
    loaded = []

    def load():
        loaded.append(1)
        return Finder(LEFT)

    search = JointSearch(load)
    assert loaded == []
    assert search(scan()) == search(scan())
    assert loaded == [1]


def test_a_locator_that_is_not_there_is_named_with_the_way_out():
    def absent():
        raise ValueError("Checkpoint locator.pt does not exist.")

    with pytest.raises(ValueError, match=r"cannot be loaded: Checkpoint locator\.pt does not exist\. Give the places"):
        JointSearch(absent)(scan())


def test_none_is_looked_for():
    with pytest.raises(ValueError, match=r"no joint is named, and none is looked for\. Give the places"):
        JointSearch(None)(scan())
