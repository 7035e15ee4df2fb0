"""What is reported of a joint."""

import json

import pytest

from bertswin_ext.outputs.joint_report import JointReport
from bertswin_ext.outputs.joint_space import JointSpace

SPACE = JointSpace(2.34567, (1.0, 2.0, 3.00004), (1.0, 2.0, 5.34571))


@pytest.mark.parametrize(
    ("center", "confidence", "origin"),
    [(None, None, "none"), ((0.0, 0.0, 0.0), None, "given"), ((0.0, 0.0, 0.0), 0.0, "found")],
)
def test_where_the_centre_comes_from(center, confidence, origin):
    assert JointReport("left", center, confidence).origin == origin


def test_a_measured_joint():
    found = JointReport("right", (50.12345, -1.0, 2.0), 0.87654321, SPACE, (80.0, 80.0, 80.0)).to_json()
    assert found == {
        "joint": "right",
        "center_mm": [50.123, -1.0, 2.0],
        "center_origin": "found",
        "confidence": 0.8765,
        "box_mm": [80.0, 80.0, 80.0],
        "joint_space_mm": 2.346,
        "joint_space_at_mandible_mm": [1.0, 2.0, 3.0],
        "joint_space_at_skull_mm": [1.0, 2.0, 5.346],
        "joint_space_missing_because": None,
    }
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("space", "reason"), [(None, "not measured"), (JointSpace(None, reason="no skull"), "no skull")]
)
def test_a_joint_without_a_distance_says_why(space, reason):
    found = JointReport("left", (0.0, 0.0, 0.0), space=space).to_json()
    assert found["joint_space_mm"] is found["joint_space_at_skull_mm"] is None
    assert found["joint_space_missing_because"] == reason


def test_bones_that_touch_have_a_distance():
    assert JointReport("left", (0.0, 0.0, 0.0), space=JointSpace(0.0, (0,) * 3, (0,) * 3)).to_json()[
        "joint_space_mm"
    ] == pytest.approx(0)


@pytest.mark.parametrize(("joint", "name"), [("left", "left joint"), (None, "joint")])
def test_names(joint, name):
    assert JointReport(joint, None).name == name
