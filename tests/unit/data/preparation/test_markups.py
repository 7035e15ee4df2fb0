"""Markups of 3D Slicer: which point is which joint, and where."""

import json

import pytest

from bertswin_ext.data.preparation.markups import as_finite, in_ras, read_label, read_markups, read_system


def point(label, position=(1.0, 2.0, 3.0), **entries):
    return {"id": "1", "label": label, "position": list(position), "positionStatus": "defined", **entries}


def write(folder, *points, **entries):
    """A markups file as 3D Slicer writes it."""
    path = folder / "a.mrk.json"
    markup = {
        "type": "Fiducial",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "controlPoints": list(points),
        **entries,
    }
    path.write_text(json.dumps({"@schema": "markups-schema-v1.0.3.json#", "markups": [markup]}), encoding="utf-8")
    return path


def joints(path):
    return {mark.joint: mark.label for mark in read_markups(path)}


# --- labels ---


LEFT = [
    ("L", False),
    ("l", False),
    ("left", False),
    ("LEFT-1", False),
    ("Lt.", False),
    ("left point", False),
    ("Centre (left)", False),
    ("L_condyle", True),
    ("Condyle-L", True),
    ("condyle l", True),
    ("Co_L", True),
    ("L Co", True),
    ("LCo", True),
    ("lco", True),
    ("CoL", True),
    ("CoLeft", True),
    ("CondL", True),
    ("condL-2", True),
    ("LCond", True),
    ("LCondyle", True),
    ("leftCondyle", True),
    ("CondyleLeft", True),
    ("TMJ left", True),
    ("TMJ_L", True),
    ("TMJL", True),
    ("LTMJ", True),
    ("left temporomandibular joint", True),
    ("Left mandibular condyle, top", True),
    ("Condylion left", True),
    ("caput of the left condyle", True),
]


@pytest.mark.parametrize(("label", "is_named"), LEFT)
def test_a_left_label_is_understood(label, is_named):
    assert read_label(label) == ("left", is_named)


@pytest.mark.parametrize(
    ("label", "is_named"),
    [
        ("R", False),
        ("right", False),
        ("rt", False),
        ("Right_1", False),
        ("R_condyle", True),
        ("Condyle-R", True),
        ("RCo", True),
        ("CoR", True),
        ("Co right", True),
        ("CondR", True),
        ("TMJ right", True),
        ("RTMJ", True),
        ("right joint", True),
    ],
)
def test_a_right_label_is_understood(label, is_named):
    assert read_label(label) == ("right", is_named)


@pytest.mark.parametrize(
    "label",
    [
        "",
        "F-1",
        "1",
        "Ramus",
        "Glabella",
        "Lateral point",
        "lower point",
        "Condyle",  # no side
        "TMJ",
        "joint 2",
        "Co",
        "point",
        "L_gonion",  # a side, but no joint
        "Ramus L",
        "Left ramus",
        "R coronoid",
        "right lateral pole",
        "LR",
        "Rigth condyle",  # misspelt
        "condyle left-right",  # two sides
        "L R",
        "CondL right",
        "Cor",  # short for the coronoid process
        "COR",
        "Cor_L",
        "col",
        "collum",
        "Conch",
        "cold",
        "Lambda",
        "Relief",
        "Orbitale",
    ],
)
def test_any_other_label_is_not(label):
    assert read_label(label) is None


# --- which points ---


def test_both_joints_are_read_left_first(tmp_path):
    path = write(tmp_path, point("R_condyle", (-40.0, -10.0, 5.0)), point("L_condyle", (40.0, -11.0, 6.0)))
    left, right = read_markups(path)
    assert (left.joint, left.label, left.position_mm) == ("left", "L_condyle", (-40.0, 11.0, 6.0))
    assert (right.joint, right.label, right.position_mm) == ("right", "R_condyle", (40.0, 10.0, 5.0))


def test_points_of_several_markups_are_read(tmp_path):
    path = write(tmp_path, point("L"))
    content = json.loads(path.read_text())
    content["markups"].append({"coordinateSystem": "RAS", "controlPoints": [point("R", (7, 8, 9))]})
    path.write_text(json.dumps(content))
    assert [mark.position_mm for mark in read_markups(path)] == [(-1, -2, 3), (7, 8, 9)]


@pytest.mark.parametrize("label", ["Ramus", "Glabella", "Lateral point", "Rigth condyle", "Condyle", "L_gonion"])
def test_a_label_that_may_be_the_other_joint_is_named(tmp_path, label):
    path = write(tmp_path, point("L_condyle"), point(label))
    with pytest.raises(ValueError, match=rf'by the label "{label}"\. Understood is a side \(left.*condyle.*Rename'):
        read_markups(path)


def test_all_such_labels_are_named(tmp_path):
    with pytest.raises(ValueError, match='by the labels "F-1", "F-2"'):
        read_markups(write(tmp_path, point("F-1"), point("F-2")))


def test_other_points_may_be_there_beside_both_joints(tmp_path):
    path = write(tmp_path, point("Glabella"), point("L_condyle"), point("L_gonion"), point("R_condyle"))
    assert joints(path) == {"left": "L_condyle", "right": "R_condyle"}


def test_a_joint_that_is_known_to_be_missing_counts(tmp_path):
    absent = point("R_condyle", positionStatus="missing")
    assert joints(write(tmp_path, point("Glabella"), point("L_condyle"), absent)) == {"left": "L_condyle"}


def test_of_several_points_of_a_side_the_one_that_names_the_joint_is_taken(tmp_path):
    path = write(tmp_path, point("L-1"), point("L_condyle"), point("left"), point("R-1"))
    assert joints(path) == {"left": "L_condyle", "right": "R-1"}


@pytest.mark.parametrize("labels", [("L-1", "L-2"), ("L_condyle", "TMJ left"), ("L_condyle", "L_condyle")])
def test_several_points_of_a_side_are_refused(tmp_path, labels):
    path = write(tmp_path, *map(point, labels))
    with pytest.raises(ValueError, match=f'2 points mark the left joint: "{labels[0]}", "{labels[1]}"'):
        read_markups(path)


@pytest.mark.parametrize("status", ["undefined", "missing", "preview"])
def test_a_point_that_is_not_placed_is_skipped(tmp_path, status):
    unplaced = point("L_condyle", positionStatus=status)
    assert joints(write(tmp_path, unplaced, point("L"), point("R"))) == {"left": "L", "right": "R"}
    with pytest.raises(ValueError, match=rf'no joint; "L_condyle" is not placed \(positionStatus "{status}"\)'):
        read_markups(write(tmp_path, unplaced))


def test_a_point_that_is_not_placed_needs_no_position(tmp_path):
    unplaced = point("L_condyle", positionStatus="undefined")
    del unplaced["position"]
    assert joints(write(tmp_path, unplaced, point("R"))) == {"right": "R"}


def test_a_file_without_points_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"it has no joint\. Place the points"):
        read_markups(write(tmp_path))


# --- coordinates ---


@pytest.mark.parametrize(
    ("system", "expected"),
    [("LPS", (-1, -2, 3)), ("RAS", (1, 2, 3)), ("1", (-1, -2, 3)), ("0", (1, 2, 3)), (0, (1, 2, 3)), (1, (-1, -2, 3))],
)
def test_the_coordinate_system_is_heeded(tmp_path, system, expected):
    (mark,) = read_markups(write(tmp_path, point("L"), coordinateSystem=system))
    assert mark.position_mm == expected


def test_a_file_that_names_no_system_and_no_unit_is_in_lps_and_mm(tmp_path):
    path = write(tmp_path, point("L"))
    content = json.loads(path.read_text())
    del content["markups"][0]["coordinateSystem"], content["markups"][0]["coordinateUnits"]
    path.write_text(json.dumps(content))
    assert read_markups(path)[0].position_mm == (-1, -2, 3)


@pytest.mark.parametrize("system", ["IJK", "2", None])
def test_another_system_is_refused(tmp_path, system):
    with pytest.raises(ValueError, match=f"coordinate system must be RAS or LPS, got {system!r}"):
        read_markups(write(tmp_path, point("L"), coordinateSystem=system))


def test_a_unit_may_come_with_its_meaning(tmp_path):
    assert joints(write(tmp_path, point("L"), coordinateUnits=["mm", "UCUM", "millimeter"])) == {"left": "L"}


@pytest.mark.parametrize("unit", ["cm", "um", ["cm", "UCUM", "centimeter"], [], None])
def test_another_unit_is_refused(tmp_path, unit):
    with pytest.raises(ValueError, match=r'coordinateUnits must be "mm", got .*Save it in mm'):
        read_markups(write(tmp_path, point("L"), coordinateUnits=unit))


@pytest.mark.parametrize("position", [[1, 2], [1, 2, 3, 4], [1, 2, "x"], [1, 2, float("nan")], [1, 2, float("inf")]])
def test_a_position_that_is_not_three_numbers_is_refused(tmp_path, position):
    with pytest.raises(ValueError, match='position of "L_condyle" must be three finite numbers, got'):
        read_markups(write(tmp_path, point("L_condyle", position)))


@pytest.mark.parametrize("value", [None, "1 2 3", {"x": 1}])
def test_a_position_that_is_no_list_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match="must be three finite numbers"):
        read_markups(write(tmp_path, {"label": "L", "position": value}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is not a JSON file"),
        ("x", "it is not a JSON file"),
        ("[]", 'the file has no list "markups"'),
        ('{"training": []}', 'the file has no list "markups"'),
        ('{"markups": [1]}', 'the file has no list "markups"'),
        ('{"markups": [{"type": "Fiducial"}]}', 'a markup has no list "controlPoints"'),
    ],
)
def test_another_file_is_refused(tmp_path, text, message):
    path = tmp_path / "a.mrk.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_markups(path)


def test_a_binary_file_is_refused(tmp_path):
    path = tmp_path / "a.mrk.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="it is not a JSON file"):
        read_markups(path)


@pytest.mark.parametrize(
    ("value", "number"),
    [("1.5", 1.5), (" -2e1 ", -20.0), (3, 3.0), ("", None), ("1,5", None), ("nan", None), ("inf", None), (None, None)],
)
def test_numbers_are_read_or_not(value, number):
    assert as_finite(value) == number


def test_the_two_systems_differ_in_two_signs():
    assert in_ras((1.0, 2.0, 3.0), read_system(" lps ")) == (-1.0, -2.0, 3.0)
    assert in_ras((1.0, 2.0, 3.0), read_system("ras")) == (1.0, 2.0, 3.0)
