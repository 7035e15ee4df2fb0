"""What is named on the command line becomes one item for each scan, with its joints and a name of its own."""

import json
import logging
import zipfile
from pathlib import Path

import pytest

from bertswin_ext.data.reading.zipped_series import ZipLimits
from bertswin_ext.deployment.scan_source import open_scans

RIGHT = {"joint": "right", "center_mm": [50.0, 1.0, 2.0]}
LEFT = {"joint": "left", "center_mm": [-50.0, 1.0, 2.0]}


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 200)
    return folder


def zipped(path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x" * 200)
    return path


def names(scans):
    return [scan["name"] for scan in scans]


def datalist(folder, *items, file="datalist.json"):
    (folder / file).write_text(json.dumps({"training": list(items)}))
    return folder / file


@pytest.mark.parametrize("file", ["head.nii.gz", "head.nrrd", "head.mha", "head.dcm"])
def test_a_file(tmp_path, file):
    (scan,) = open_scans(touch(tmp_path, file, "other.nii") / file)
    name = "head.dcm" if file == "head.dcm" else "head"
    assert scan == {
        "source": str(tmp_path / file),
        "image": str(tmp_path / file),
        "patient": name,
        "folder": ".",
        "name": name,
    }


def test_a_folder_of_volumes_a_series_and_a_tree_of_series(tmp_path):
    touch(tmp_path / "volumes", "a.nii", "b.mha", "b_seg.nii", "note.txt")
    touch(tmp_path / "series", "1.dcm", "2.dcm")
    touch(tmp_path / "tree", "anna/2020/ct/1.dcm", "anna/2020/ct/2.dcm", "anna/2021/ct/1.dcm", "ben/cbct/1.dcm")
    assert names(open_scans(tmp_path / "volumes")) == ["a", "b"]
    (scan,) = open_scans(str(tmp_path / "series"))
    assert (scan["image"], scan["name"], scan["patient"]) == (str(tmp_path / "series"), "series", "series")
    scans = open_scans(tmp_path / "tree")
    assert names(scans) == ["anna_2020_ct", "anna_2021_ct", "cbct"]
    assert [scan["patient"] for scan in scans] == ["anna", "anna", "ben"]


def test_several_sources_in_their_order_with_names_of_their_own(tmp_path):
    touch(tmp_path, "x/head.nii", "y/head.nii", "y/Head.nrrd", "y/z/head.mha")
    scans = open_scans([tmp_path / "y", str(tmp_path / "x" / "head.nii"), tmp_path / "x", tmp_path / "x"])
    assert [Path(scan["image"]).relative_to(tmp_path).as_posix() for scan in scans] == [
        "y/Head.nrrd",
        "y/head.nii",
        "y/z/head.mha",
        "x/head.nii",
    ]
    assert names(scans) == ["Head", "head_2", "z_head", "head_3"]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("Jürgen Müller (2).nii", "Jurgen_Muller_2"),
        ("..a.nii", "a"),
        ("-rf.nii", "rf"),
        ("con.nii", "scan_con"),
        ("患者.nii", "scan"),
        ("a" * 200 + ".nii", "a" * 100),
    ],
)
def test_names_are_safe_for_every_file_system(tmp_path, file, name):
    assert names(open_scans(touch(tmp_path, file) / file)) == [name]


def test_the_items_of_one_image_are_one_scan_with_two_joints(tmp_path):
    touch(tmp_path, "a.nii", "b.nii", "c.nii", "d.nii")
    path = datalist(
        tmp_path,
        {"image": "a.nii", "patient": "p", **RIGHT, "fov": {"center_mm": [0, 0, 0], "radius_mm": 88}},
        {"image": "b.nii", "joints": [RIGHT, LEFT], "note": 1},
        {"image": "a.nii", "patient": "p", **LEFT},
        {"image": "c.nii", "joint": "left"},
        {"image": "d.nii", "center_mm": [1, 2, 3]},
    )
    for source in (path, tmp_path):
        a, b, c, d = open_scans(source)
        assert (a["joints"], a["patient"], a["fov"]["radius_mm"]) == ([LEFT, RIGHT], "p", 88)
        assert (b["joints"], b["note"]) == ([LEFT, RIGHT], 1)
        assert "joints" not in c
        assert d["joints"] == [{"joint": None, "center_mm": [1.0, 2.0, 3.0]}]
        assert not {"joint", "center_mm"} & (set(a) | set(c) | set(d))


def test_a_scan_that_is_named_twice_is_one(tmp_path):
    touch(tmp_path, "a.nii")
    path = datalist(tmp_path, {"image": "a.nii", **RIGHT}, file="list.json")
    (tmp_path / "link.nii").symlink_to(tmp_path / "a.nii")
    (scan,) = open_scans([tmp_path / "a.nii", path, tmp_path / "link.nii"])
    assert scan["joints"] == [RIGHT]


def test_joints_of_a_single_scan_come_before_the_list_s(tmp_path):
    touch(tmp_path, "a.nii", "b.nii")
    path = datalist(tmp_path, {"image": "a.nii", **RIGHT})
    (scan,) = open_scans(path, joints={"right": [1, 2, 3], "left": (-1, 2, 3)})
    assert scan["joints"] == [
        {"joint": "left", "center_mm": [-1.0, 2.0, 3.0]},
        {"joint": "right", "center_mm": [1.0, 2.0, 3.0]},
    ]
    (scan,) = open_scans(tmp_path / "b.nii", joints={"right": [1, 2, 3]})
    assert scan["joints"] == [{"joint": "right", "center_mm": [1.0, 2.0, 3.0]}]


@pytest.mark.parametrize("nothing", [None, "", {}])
def test_no_joints(tmp_path, nothing):
    (scan,) = open_scans(touch(tmp_path, "a.nii"), joints=nothing, landmarks=nothing)
    assert "joints" not in scan


def test_landmarks_as_prepare_reads_them(tmp_path, caplog):
    touch(tmp_path, "a.nii", "b.nii", "c.nii")
    table = tmp_path / "points.csv"
    table.write_text(
        "scan;joint;x;y;z;coordinate_system\na;R;50;1;2;RAS\na;left;50;-1;2;LPS\nb.nii;left;-50;1;2;\nz;R;1;2;3;\n"
    )
    with caplog.at_level(logging.WARNING, logger="bertswin_ext"):
        a, b, c = open_scans(tmp_path, landmarks=table)
    assert (a["joints"], b["joints"]) == ([LEFT, RIGHT], [LEFT])
    assert "joints" not in c
    assert caplog.messages == [f"1 fault in {table}:\n  - line 5 of points.csv (z) belongs to no scan"]


def test_landmarks_of_zipped_scans(tmp_path):
    zipped(tmp_path / "anna.zip", "1.dcm", "2.dcm")
    table = tmp_path / "points.csv"
    table.write_text("scan,joint,x,y,z\nanna,right,50,1,2\n")
    with open_scans(tmp_path / "anna.zip", landmarks=table) as scans:
        assert scans[0]["joints"] == [RIGHT]


@pytest.mark.parametrize(
    ("joints", "fault"),
    [
        ({"right": [1, 2]}, r"the centre of a joint must be 3 finite numbers, .* got \[1, 2\]"),
        ({"right": [1, 2, float("nan")]}, "must be 3 finite numbers"),
        ({"right": None}, "must be 3 finite numbers"),
        ({"middle": [1, 2, 3]}, 'a joint must be "left" or "right", got \'middle\''),
        ([1, 2, 3], r"`joints` must be \{\"left\": \[x, y, z\]"),
    ],
)
def test_wrong_joints_are_refused(tmp_path, joints, fault):
    with pytest.raises(ValueError, match=fault):
        open_scans(touch(tmp_path, "a.nii"), joints=joints)


def test_joints_are_of_one_scan(tmp_path):
    with pytest.raises(
        ValueError, match="`joints` are those of one scan, but there are 2; give a table as `landmarks`"
    ):
        open_scans(touch(tmp_path, "a.nii", "b.nii"), joints={"right": [1, 2, 3]})
    with pytest.raises(ValueError, match="give either `joints` or `landmarks`, not both"):
        open_scans(tmp_path / "a.nii", joints={"right": [1, 2, 3]}, landmarks="points.csv")


def test_faults_of_the_joints_are_listed(tmp_path):
    touch(tmp_path, "a.nii", "b.nii", "c.nii")
    path = datalist(
        tmp_path,
        {"image": "a.nii", **RIGHT},
        {"image": "a.nii", "joint": "right", "center_mm": [51, 1, 2]},
        {"image": "b.nii", "joints": [{"joint": "up", "center_mm": [1, 2, 3]}, {"joint": "left"}]},
        {"image": "c.nii", "joints": {"left": [1, 2, 3]}},
    )
    (tmp_path / "points.csv").write_text("scan,joint,x,y,z\na,up,1,2,3\n")
    with pytest.raises(ValueError, match="5 faults in what is known of the joints") as caught:
        open_scans(path, landmarks=tmp_path / "points.csv")
    text = str(caught.value)
    assert f'{tmp_path / "b.nii"}: a joint must be "left" or "right", got \'up\'' in text
    assert f"{tmp_path / 'b.nii'}: the centre of a joint must be 3 finite numbers" in text
    assert f'{tmp_path / "c.nii"}: "joints" must be a list' in text
    assert f"{tmp_path / 'a.nii'}: the right joint has 2 centres" in text
    assert 'line 2: the joint must be "left" or "right", got "up"' in text


def test_faults_of_the_sources_are_listed(tmp_path):
    touch(tmp_path, "a.nii")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.zip").write_bytes(b"PK")
    datalist(tmp_path, {"image": "gone.nii"}, file="list.json")
    places = [tmp_path / name for name in ("a.nii", "gone.nii.gz", "empty", "bad.zip", "list.json")]
    with pytest.raises(ValueError, match=r"^4 faults in the sources:") as caught:
        open_scans(places)
    for part in (
        "gone.nii.gz does not exist",
        "empty holds no volumes",
        "bad.zip: cannot be unpacked",
        '"image" does not',
    ):
        assert part in str(caught.value)
    with pytest.raises(ValueError, match=r"^`source` .*gone\.nii\.gz does not exist"):
        open_scans(tmp_path / "gone.nii.gz")


@pytest.mark.parametrize("nothing", ["", None, [], [""], ["a.nii", None]])
def test_no_source(nothing):
    with pytest.raises(
        ValueError, match="`source` must name a volume, a DICOM folder, a ZIP file, a datalist or a list"
    ):
        open_scans(nothing)


def test_a_zip_is_unpacked_and_removed(tmp_path):
    work = tmp_path / "work"
    zipped(tmp_path / "Anna.zip", "ct/1.dcm", "ct/2.dcm")
    zipped(tmp_path / "many.zip", "scans/a.nii", "scans/b.nii")
    with open_scans([tmp_path / "Anna.zip", tmp_path / "many.zip"], work_dir=work) as scans:
        assert names(scans) == ["Anna_ct", "many_scans_a", "many_scans_b"]
        assert scans[1]["archive"] == f"{tmp_path / 'many.zip'}:scans/a.nii"
        assert all(Path(scan["image"]).exists() and work in Path(scan["image"]).parents for scan in scans)
        assert [scan["source"] for scan in scans] == [str(tmp_path / n) for n in ("Anna.zip", "many.zip", "many.zip")]
        assert [scan["patient"] for scan in scans] == ["Anna", "many scans", "many scans"]
    assert list(work.iterdir()) == []
    scans.close()
    assert (tmp_path / "Anna.zip").is_file()


def test_what_was_unpacked_is_removed_when_the_process_ends(tmp_path, monkeypatch):
    at_end = []
    monkeypatch.setattr("atexit.register", at_end.append)
    items = list(open_scans(zipped(tmp_path / "a.zip", "1.dcm"), work_dir=tmp_path / "work"))
    assert Path(items[0]["image"], "1.dcm").is_file()
    for action in at_end:
        action()
    assert list((tmp_path / "work").iterdir()) == []


def test_a_zip_without_volumes_is_named_and_leaves_nothing(tmp_path):
    path = zipped(tmp_path / "a.zip", "note.txt")
    with pytest.raises(ValueError, match="holds no volumes") as caught:
        open_scans([path], work_dir=tmp_path / "work")
    assert str(caught.value).startswith(f"{path} holds no volumes")
    assert str(tmp_path / "work") not in str(caught.value)
    assert list((tmp_path / "work").iterdir()) == []


def test_limits_of_zips_are_passed_on(tmp_path):
    path = zipped(tmp_path / "a.zip", "1.dcm", "2.dcm")
    with pytest.raises(ValueError, match="it holds 2 files, at most 1 are unpacked"):
        open_scans(path, work_dir=tmp_path, limits=ZipLimits(max_files=1))
