"""Landmarks: each belongs to one scan, and what belongs to none is known."""

import json
import pickle
from pathlib import Path

import pytest

from bertswin_ext.data.preparation.landmarks import JointCenter, load_landmarks


def mark(path, **joints):
    """A markups file in RAS with points named after joints."""
    points = [{"label": label, "position": list(position)} for label, position in joints.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"markups": [{"coordinateSystem": "RAS", "controlPoints": points}]}))


def table(folder, *lines, encoding="utf-8"):
    path = folder / "joints.csv"
    path.write_bytes("\n".join(lines).encode(encoding))
    return path


def xs(landmarks, scan, patient=""):
    """Joints of a scan with their x."""
    return {center.joint: center.center_mm[0] for center in landmarks.of(Path(scan), patient)}


# --- markups ---


def test_a_file_gives_centers_with_their_origin(tmp_path):
    mark(tmp_path / "a.mrk.json", R_condyle=(41, 2, 3), L_condyle=(-42, 5, 6))
    assert load_landmarks(tmp_path).of(Path("/data/a.nii.gz"), "p") == [
        JointCenter("left", (-42.0, 5.0, 6.0), 'landmark "L_condyle" of a.mrk.json'),
        JointCenter("right", (41.0, 2.0, 3.0), 'landmark "R_condyle" of a.mrk.json'),
    ]


@pytest.mark.parametrize("name", ["a", "a_x", "a-x", "a x", "a.x", "a.nii.gz"])
@pytest.mark.parametrize(("scan", "patient"), [("in/a.nii.gz", "p"), ("in/a", "p"), ("in/ct.nrrd", "a")])
def test_a_file_belongs_to_the_scan_or_patient_it_is_named_after(tmp_path, name, scan, patient):
    mark(tmp_path / f"{name}.mrk.json", L=(7, 0, 0))
    assert xs(load_landmarks(tmp_path), scan, patient) == {"left": 7}


@pytest.mark.parametrize("name", ["b", "ab", "a2", "A", "x_a", ".a"])
def test_a_file_named_otherwise_belongs_to_another_scan(tmp_path, name):
    mark(tmp_path / f"{name}.mrk.json", L=(7, 0, 0))
    mark(tmp_path / "z.mrk.json", L=(7, 0, 0))
    assert xs(load_landmarks(tmp_path), "in/a.nii.gz", "") == {}
    assert xs(load_landmarks(tmp_path), "in/ct.nii.gz", "a") == {}


def test_the_closest_name_wins(tmp_path):
    landmarks = {}
    names = ("ct", "ct_2", "p", "p_2")
    for kept in range(4):
        folder = tmp_path / str(kept)
        for value, name in list(enumerate(names))[kept:]:
            mark(folder / f"{name}.mrk.json", L=(value, 0, 0))
        landmarks[kept] = xs(load_landmarks(folder), "in/ct.nii.gz", "p")
    assert landmarks == {kept: {"left": kept} for kept in range(4)}


def test_two_files_may_hold_one_joint_each(tmp_path):
    mark(tmp_path / "a_left.mrk.json", left=(1, 0, 0))
    mark(tmp_path / "a_right.mrk.json", right=(2, 0, 0))
    assert xs(load_landmarks(tmp_path), "a.nii") == {"left": 1, "right": 2}


def test_two_files_with_the_same_joint_are_refused(tmp_path):
    mark(tmp_path / "a_1.mrk.json", left=(1, 0, 0))
    mark(tmp_path / "a_2.mrk.json", TMJ_L=(2, 0, 0))
    message = r'a\.nii: the left joint is marked by landmark "left" of a_1\.mrk\.json and by landmark "TMJ_L" of a_2'
    with pytest.raises(ValueError, match=message):
        load_landmarks(tmp_path).of(Path("in/a.nii"), "")


def test_folders_tell_files_of_the_same_name_apart(tmp_path):
    for value, patient in enumerate(("p1", "p2")):
        mark(tmp_path / patient / "ct.mrk.json", L=(value, 0, 0))
    landmarks = load_landmarks(tmp_path)
    assert xs(landmarks, "in/p2/ct.nii.gz", "p2") == {"left": 1}
    assert xs(landmarks, "in/p1/ct.nii.gz", "p1") == {"left": 0}
    # the patient's folder does where the scans lie deeper
    assert xs(load_landmarks(tmp_path), "in/p2/baseline/ct.nii.gz", "p2") == {"left": 1}


def test_files_lie_at_any_depth(tmp_path):
    mark(tmp_path / "reader" / "monday" / "a.mrk.json", L=(7, 0, 0))
    landmarks = load_landmarks(str(tmp_path))
    (center,) = landmarks.of(Path("in/a.nii.gz"), "")
    assert center.origin == 'landmark "L" of reader/monday/a.mrk.json'


def test_one_file_is_matched_by_name_too(tmp_path):
    mark(tmp_path / "a.mrk.json", L=(7, 0, 0))
    landmarks = load_landmarks(tmp_path / "a.mrk.json")
    assert xs(landmarks, "in/b.nii.gz") == {}
    assert xs(landmarks, "in/a.nii.gz") == {"left": 7}


def test_one_file_fits_the_only_scan_whatever_its_name(tmp_path):
    mark(tmp_path / "F.mrk.json", L=(7, 0, 0))
    assert xs(load_landmarks(tmp_path / "F.mrk.json", single=True), "in/b.nii.gz") == {"left": 7}


def test_in_a_folder_names_count_even_for_the_only_scan(tmp_path):
    mark(tmp_path / "F.mrk.json", L=(7, 0, 0))
    assert xs(load_landmarks(tmp_path, single=True), "in/b.nii.gz") == {}


def test_faults_of_all_files_are_told_at_once(tmp_path):
    mark(tmp_path / "a.mrk.json", Ramus=(1, 2, 3))
    mark(tmp_path / "b.mrk.json", L=(1, 2, 3))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.mrk.json").write_text("x")
    with pytest.raises(ValueError, match=r"^2 faults in ") as caught:
        load_landmarks(tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"2 faults in {tmp_path}:"
    assert lines[1].startswith('  - a.mrk.json: no joint is told by the label "Ramus"')
    assert lines[2].startswith("  - sub/c.mrk.json: it is not a JSON file")


def test_files_that_start_with_a_dot_are_not_read(tmp_path):
    mark(tmp_path / "a.mrk.json", L=(7, 0, 0))
    (tmp_path / "._a.mrk.json").write_bytes(b"\0")
    assert xs(load_landmarks(tmp_path), "a.nii") == {"left": 7}


# --- one landmark, one scan ---


@pytest.mark.parametrize("kind", ["markups", "table"])
def test_what_fits_no_scan_is_known(tmp_path, kind):
    if kind == "markups":
        mark(tmp_path / "in" / "a.mrk.json", L=(1, 0, 0))
        mark(tmp_path / "in" / "sub" / "b.mrk.json", L=(1, 0, 0))
        landmarks, names = load_landmarks(tmp_path / "in"), ["a.mrk.json", "sub/b.mrk.json"]
    else:
        path = table(tmp_path, "patient,scan,joint,x,y,z", ",a.nii,L,1,2,3", "b,,R,1,2,3")
        landmarks, names = load_landmarks(path), ["line 2 of joints.csv (a.nii)", "line 3 of joints.csv (b)"]
    assert landmarks.unused() == names
    landmarks.of(Path("in/c.nii"), "c")
    assert landmarks.unused() == names
    landmarks.of(Path("in/a.nii"), "a")
    assert landmarks.unused() == names[1:]
    landmarks.of(Path("in/b.nii"), "b")
    assert landmarks.unused() == []


def test_a_file_that_lost_to_a_closer_name_is_unused(tmp_path):
    mark(tmp_path / "a.mrk.json", L=(1, 0, 0))
    mark(tmp_path / "a_old.mrk.json", L=(1, 0, 0))
    landmarks = load_landmarks(tmp_path)
    landmarks.of(Path("a.nii"), "")
    assert landmarks.unused() == ["a_old.mrk.json"]


def test_a_landmark_for_two_scans_is_refused_to_both(tmp_path):
    mark(tmp_path / "p.mrk.json", L=(1, 0, 0))
    landmarks = load_landmarks(tmp_path)
    first, second = Path("in/p/1.nii"), Path("in/p/2.nii")
    assert landmarks.of(first, "p") == landmarks.of(first, "p") != []
    for scan in (second, first, second):  # what the first one was told is taken back once it is known better
        message = r"landmark p\.mrk\.json fits 2 scans, in/p/1\.nii and in/p/2\.nii\. Tell them apart"
        with pytest.raises(ValueError, match=message):
            landmarks.of(scan, "p")


def test_landmarks_can_be_sent_to_a_worker(tmp_path):
    mark(tmp_path / "a.mrk.json", L=(7, 0, 0))
    assert xs(pickle.loads(pickle.dumps(load_landmarks(tmp_path))), "a.nii") == {"left": 7}


# --- a table ---


def test_a_table_gives_centers_with_their_lines(tmp_path):
    path = table(tmp_path, "scan,joint,x,y,z", "a.nii.gz,right,41,2.5,-3", "", "a.nii.gz,L_condyle,-42,5,6e0")
    assert load_landmarks(path).of(Path("/data/a.nii.gz"), "p") == [
        JointCenter("left", (-42.0, 5.0, 6.0), "line 4 of joints.csv"),
        JointCenter("right", (41.0, 2.5, -3.0), "line 2 of joints.csv"),
    ]


@pytest.mark.parametrize(
    "name", ["a.nii.gz", "a", "p/a.nii.gz", "p/a", "./a", "in/p/a.nii.gz", "/in/p/a", "p\\a.nii.gz"]
)
def test_a_line_names_the_end_of_a_path(tmp_path, name):
    path = table(tmp_path, "scan,joint,x,y,z", f"{name},L,7,0,0")
    assert xs(load_landmarks(path), "/in/p/a.nii.gz") == {"left": 7}


@pytest.mark.parametrize("name", ["b", "q/a.nii.gz", "/p/a", "a.nii", "ii.gz", "/x/in/p/a", "p"])
def test_another_path_does_not_fit(tmp_path, name):
    path = table(tmp_path, "scan,joint,x,y,z", f"{name},L,7,0,0")
    assert xs(load_landmarks(path), "/in/p/a.nii.gz", "p") == {}


def test_a_line_can_name_the_patient(tmp_path):
    path = table(tmp_path, "Patient,Joint,X,Y,Z", "p1,L,7,0,0", "p2,L,8,0,0", "p2,R,9,0,0")
    landmarks = load_landmarks(path)
    assert xs(landmarks, "in/a.nii", "p1") == {"left": 7}
    assert xs(landmarks, "in/b.nii", "p2") == {"left": 8, "right": 9}


def test_of_scan_and_patient_both_must_fit(tmp_path):
    path = table(tmp_path, "scan,patient,joint,x,y,z", "ct,p1,L,7,0,0", "ct,p2,L,8,0,0")
    landmarks = load_landmarks(path)
    assert xs(landmarks, "in/p2/ct.nii", "p2") == {"left": 8}
    assert xs(landmarks, "in/p2/x.nii", "p2") == {}
    assert xs(landmarks, "in/p3/ct.nii", "p3") == {}


def test_patients_may_be_numbers(tmp_path):
    assert xs(load_landmarks(table(tmp_path, "patient,joint,x,y,z", "12,L,7,0,0")), "a.nii", 12) == {"left": 7}


@pytest.mark.parametrize(
    ("system", "expected"), [("", (1, 2, 3)), ("RAS", (1, 2, 3)), ("LPS", (-1, -2, 3)), ("lps", (-1, -2, 3))]
)
def test_a_line_has_its_coordinate_system(tmp_path, system, expected):
    path = table(tmp_path, "scan,joint,x,y,z,coordinate_system", f"a,L,1,2,3,{system}")
    assert load_landmarks(path).of(Path("a.nii"), "")[0].center_mm == expected


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["", "\r"])
def test_the_dialects_of_spreadsheets_are_read(tmp_path, delimiter, mark, end):
    lines = ["scan,joint,x,y,z,note", " Müller , left ,7,8,9", '"b",R,1,2,3,x']
    path = table(tmp_path, *[line.replace(",", delimiter) + end for line in [mark + lines[0], *lines[1:]]])
    landmarks = load_landmarks(path)
    assert xs(landmarks, "in/Müller.nii") == {"left": 7}
    assert xs(landmarks, "in/b.nii") == {"right": 1}


def test_all_faults_of_a_table_are_told_at_once(tmp_path):
    path = table(
        tmp_path,
        "scan,patient,joint,x,y,z,coordinate_system",
        "a,,L,1,2,3,",
        "b,,ramus,1,two,nan,IJK",
        ",,R,1,2,3,",
        "",
        "c,,R,1",
        "d,,R,1,5,2,5,3,5",
        "a,,left,4,5,6,",
    )
    with pytest.raises(ValueError, match="faults in") as caught:
        load_landmarks(path)
    assert str(caught.value).splitlines() == [
        f"9 faults in {path}:",
        "  - line 7: it has 9 cells for 7 columns. Write decimals with a point.",
        '  - line 3: the joint must be "left" or "right", got "ramus".',
        '  - line 3: y must be a finite number of mm, with a decimal point, got "two".',
        '  - line 3: z must be a finite number of mm, with a decimal point, got "nan".',
        "  - line 3: the coordinate system must be RAS or LPS, got 'IJK'. Correct it.",
        "  - line 4: it names neither a scan nor a patient. Fill in one of them.",
        '  - line 6: y must be a finite number of mm, with a decimal point, got "".',
        '  - line 6: z must be a finite number of mm, with a decimal point, got "".',
        "  - line 8 of joints.csv (a): line 2 of joints.csv (a) already has its left joint. Keep one of them.",
    ]


def test_lines_that_name_a_scan_in_two_ways_are_refused_with_the_scan(tmp_path):
    landmarks = load_landmarks(table(tmp_path, "scan,joint,x,y,z", "a,L,1,2,3", "a.nii,L,4,5,6"))
    with pytest.raises(ValueError, match=r"in/a\.nii: the left joint is marked by line 2 of joints\.csv and by line 3"):
        landmarks.of(Path("in/a.nii"), "")


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("scan,joint,x,y", 'it lacks "z" and names scan, joint, x, y'),
        ("joint,x,y,z", 'it lacks "scan" or "patient"'),
        ("a.nii,L,1,2,3", 'it lacks "joint", "x", "y", "z", "scan" or "patient"'),
        ("", "and names none"),
    ],
)
def test_missing_columns_are_named(tmp_path, header, text):
    with pytest.raises(ValueError, match=rf"joints\.csv: the first line must name the columns; .*{text}"):
        load_landmarks(table(tmp_path, header))


def test_a_table_without_lines_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"joints\.csv has no lines below its header"):
        load_landmarks(table(tmp_path, "scan,joint,x,y,z", ""))


def test_a_table_in_another_encoding_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"joints\.csv is not in UTF-8 .*CSV UTF-8"):
        load_landmarks(table(tmp_path, "scan,joint,x,y,z", "Müller,L,1,2,3", encoding="latin-1"))


# --- nothing to load ---


def test_what_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"landmarks .*nowhere do not exist\. Give a \.mrk\.json file, a folder"):
        load_landmarks(tmp_path / "nowhere")


def test_a_folder_without_markups_is_refused(tmp_path):
    (tmp_path / "a.fcsv").write_text("x")
    with pytest.raises(ValueError, match=r"holds no \.mrk\.json files"):
        load_landmarks(tmp_path)


def test_another_kind_of_file_is_refused(tmp_path):
    (tmp_path / "a.fcsv").write_text("x")
    with pytest.raises(ValueError, match=r"a\.fcsv: unknown kind of landmarks\. Give a \.mrk\.json file"):
        load_landmarks(tmp_path / "a.fcsv")
