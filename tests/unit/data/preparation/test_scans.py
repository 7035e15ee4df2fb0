"""The scans of a folder, of a datalist, or a single one."""

import json
import os

import pytest

from bertswin_ext.data.preparation.scans import Scan, content_sha256, find_scans, source_files

FOV = {"center_mm": [0.0, 0.0, 0.0], "radius_mm": 80.0}


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def save_list(folder, *training, validation=()):
    for item in (*training, *validation):
        touch(folder, item["image"], *([item["label"]] if "label" in item else []))
    (folder / "datalist.json").write_text(json.dumps({"training": training, "validation": validation}))
    return folder / "datalist.json"


# --- where they lie ---


def test_a_folder(tmp_path):
    touch(tmp_path, "p2/a.nii.gz", "p1/b.nrrd", "p1/b_seg.nrrd", "p1/series/0.dcm", "p1/series/1.dcm", "notes.txt")
    scans = find_scans(tmp_path)
    assert [(s.scan, s.patient) for s in scans] == [("p1/b.nrrd", "p1"), ("p1/series", "p1"), ("p2/a.nii.gz", "p2")]
    assert [s.path for s in scans] == [tmp_path / s.scan for s in scans]


def test_one_series_or_one_file(tmp_path):
    touch(tmp_path / "series", "0.dcm", "1.dcm")
    assert [(s.path, s.scan) for s in find_scans(tmp_path / "series")] == [(tmp_path / "series", "series")]
    touch(tmp_path, "a.nii.gz")
    [scan] = find_scans(tmp_path / "a.nii.gz")
    assert (scan.path, scan.scan, scan.patient) == (tmp_path / "a.nii.gz", "a.nii.gz", "a")


def test_a_relative_path_and_one_from_home(tmp_path, monkeypatch):
    touch(tmp_path, "in/a.nii")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_scans("in") == find_scans("~/in") == find_scans("./in/../in") == find_scans(tmp_path / "in")


def test_linked_folders(tmp_path):
    touch(tmp_path, "elsewhere/a.nii", "in/b.nii")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    assert [s.scan for s in find_scans(tmp_path / "in")] == ["b.nii", "link/a.nii"]


def test_stores_are_left_out(tmp_path):
    """Finished ones, and those of a run that was killed."""
    touch(tmp_path, "a.nii", "new/images/b.nii", "new/scans/b.json", "new/.lock", "old/images/c.nii", "images/d.nii")
    touch(tmp_path, "scans/e.nii")
    (tmp_path / "old" / "datalist.json").write_text('{"prepared": {}}')
    assert [s.scan for s in find_scans(tmp_path)] == ["a.nii", "images/d.nii", "scans/e.nii"]
    with pytest.raises(ValueError, match=r"new holds no scans, only volumes that `prepare` has stored"):
        find_scans(tmp_path / "new")


def test_nothing_there(tmp_path):
    with pytest.raises(ValueError, match=r"`input` .*nowhere does not exist\. Give a folder of scans"):
        find_scans(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no volumes"):
        find_scans(tmp_path)


# --- a datalist ---


def test_a_datalist(tmp_path):
    entries = {"patient": "p", "label": "l/a.nii", "fov": FOV, "fold": 2, "other": 7}
    save_list(
        tmp_path,
        {"image": "i/a.nii", "joint": "left", "center_mm": [1, 2.5, 3], **entries},
        {"image": "i/a.nii", "joint": "right", "center_mm": [4, 5, 6], **entries},
        {"image": "i/b.nii", "joint": "right", "patient": 5},
        validation=[{"image": "i/c.nii"}],
    )
    both, side, plain = find_scans(tmp_path)
    assert (both.path, both.scan, both.patient) == (tmp_path / "i/a.nii", "i/a.nii", "p")
    assert (both.label, both.extra) == (tmp_path / "l/a.nii", {"fold": 2, "fov": FOV})
    assert [(j.joint, j.center_mm, j.origin) for j in both.joints] == [
        ("left", (1, 2.5, 3), "datalist"),
        ("right", (4, 5, 6), "datalist"),
    ]
    assert (side.patient, side.joints, side.sides) == ("5", (), ("right",))
    assert (plain.section, plain.patient, plain.label, plain.extra) == ("validation", "c", None, {})
    assert find_scans(tmp_path / "datalist.json") == [both, side, plain]


@pytest.mark.parametrize(
    "change", [{"patient": "q"}, {"fold": 1}, {"label": "m.nii"}, {"fov": {**FOV, "radius_mm": 70.0}}]
)
def test_items_of_one_scan_agree(tmp_path, change):
    item = {"image": "a.nii", "patient": "p", "joint": "left", "center_mm": [0, 0, 0]}
    save_list(tmp_path, item, {**item, "joint": "right", **change})
    with pytest.raises(ValueError, match=r"datalist\.json: the items of a\.nii must agree in everything but the joint"):
        find_scans(tmp_path)


def test_faults_of_a_datalist(tmp_path):
    (tmp_path / "datalist.json").write_text('{"training": [{"image": "a.nii"}, {"image": "b.nii"}]}')
    with pytest.raises(ValueError, match=r'2 faults in (.|\n)*"image" does not exist: .*a\.nii'):
        find_scans(tmp_path)


# --- names ---


def name_of(scan):
    return Scan(path=None, scan=scan, patient="").name


@pytest.mark.parametrize(
    ("scan", "readable"),
    [
        ("a.nii.gz", "a"),
        ("p1/ct 1.nrrd", "p1_ct_1"),
        ("J\u00fcrgen M\u00fcller/s\u00e9rie", "J_rgen_M_ller_s_rie"),
        ("\u60a3\u8005.nii", "scan"),
        ("../x/a.nii", "x_a"),
        ("-rf.nii", "rf"),
        ("caf\udce9.nii", "caf"),
        ("x/" * 200 + "a.nii", ("x_" * 200 + "a")[-100:].strip("_")),
    ],
)
def test_names_are_fit_for_files(scan, readable):
    name = name_of(scan)
    assert name.rsplit("-", 1)[0] == readable
    assert len(name.rsplit("-", 1)[1]) == 10
    assert name.isascii()


def test_names_differ_where_scans_do():
    scans = ["a b.nii", "a_b.nii", "a/b.nii", "a?b.nii", "A b.nii", "a b.nii.gz", "a b", "\u60a3.nii", "\u8005.nii"]
    assert len({name_of(scan).lower() for scan in scans}) == len(scans)


def test_names_are_the_same_everywhere(tmp_path):
    """A store goes on where it stopped, also after input and output were moved."""
    assert name_of("p1/a.nii") == "p1_a-d269322017"
    for place in ("here", "there"):
        touch(tmp_path / place, "p1/a.nii")
        assert find_scans(tmp_path / place)[0].name == name_of("p1/a.nii")


# --- their files ---


def test_files_of_a_series(tmp_path):
    touch(tmp_path, "1.dcm", "0.dcm", "notes.txt", ".2.dcm")
    assert source_files(tmp_path) == [tmp_path / "0.dcm", tmp_path / "1.dcm"]


@pytest.mark.parametrize(
    ("name", "header", "data"),
    [
        ("a.nhdr", "NRRD0004\ndata file: a.raw\nencoding: raw\n", ["a.raw"]),
        ("a.nhdr", "NRRD0004\r\ndatafile: sub/a.raw.gz\r\n\r\nb.raw\n", ["sub/a.raw.gz"]),
        ("a.nhdr", "NRRD0004\nencoding: raw\ndata file: LIST 2\nb.raw\na.raw\n", ["b.raw", "a.raw"]),
        ("a.nhdr", "NRRD0004\ndata file: s%03d.raw 1 2 1\n", ["s001.raw", "s002.raw"]),
        ("a.nrrd", "NRRD0004\ndata file: a.raw\n\n", ["a.raw"]),
        ("a.mhd", "NDims = 3\nElementDataFile = a.raw", ["a.raw"]),
        ("a.mhd", "NDims = 3\nElementDataFile = LIST\na.raw\nb.raw\n", ["a.raw", "b.raw"]),
        ("a.mhd", "ElementDataFile = s%d.raw 1 2 1\n", ["s001.raw", "s002.raw"]),
        ("a.MHD", "ElementDataFile = gone.raw\n", []),
        ("a.mha", "ElementDataFile = LOCAL\nrubbish", []),
        ("a.nrrd", "NRRD0004\nencoding: raw\n\ndata file: a.raw\n", []),
        ("a.nii", "data file: a.raw\n", []),
        ("a.mhd", "\0\xff" * 999, []),
    ],
)
def test_files_of_a_header(tmp_path, name, header, data):
    touch(tmp_path, "a.raw", "b.raw", "sub/a.raw.gz", "s001.raw", "s002.raw")
    (tmp_path / name).write_bytes(header.encode("latin-1"))
    assert source_files(tmp_path / name) == [tmp_path / name, *(tmp_path / d for d in data)]


def test_the_hash_knows_names_sizes_and_bytes(tmp_path):
    contents = [(b"ab", b"c"), (b"a", b"bc"), (b"ab", b"d")]
    hashes = set()
    for first, second in contents:
        (tmp_path / "a").write_bytes(first)
        (tmp_path / "b").write_bytes(second)
        hashes.add(content_sha256([tmp_path / "a", tmp_path / "b"]))
        os.utime(tmp_path / "a", (5, 5))
        hashes.add(content_sha256([tmp_path / "a", tmp_path / "b"]))
    (tmp_path / "b").rename(tmp_path / "c")
    hashes.add(content_sha256([tmp_path / "a", tmp_path / "c"]))
    assert len(hashes) == 4
