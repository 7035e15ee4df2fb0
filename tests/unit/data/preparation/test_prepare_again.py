"""A second run prepares what has changed, and nothing else."""

import os
import shutil
import sys

import numpy as np
import pytest

from bertswin_ext.data.preparation.preparation_settings import PreparationSettings
from bertswin_ext.data.preparation.store import Store
from tests.unit.data.preparation.raw_scans import (
    SETTINGS,
    contents,
    datalist_of,
    hu_of,
    item_of,
    items_of,
    phantom,
    records_of,
    run,
    write_csv,
    write_dicom,
    write_itk,
    write_list,
    write_nifti,
    write_phantom,
)

MODULE = sys.modules["bertswin_ext.data.preparation.prepare"]


@pytest.fixture
def seen(monkeypatch, quick):
    """Names of the scans that are prepared."""
    names = []
    original = MODULE.prepare_scan

    def noted(scan, *arguments):
        names.append(scan.scan)
        return original(scan, *arguments)

    monkeypatch.setattr(MODULE, "prepare_scan", noted)
    return names


@pytest.fixture
def raw(tmp_path):
    """Three scans of three kinds, and their landmarks."""
    folder = tmp_path / "raw"
    write_phantom(folder / "p" / "a.nii", phantom(0))
    write_itk(folder / "p" / "b.nhdr", hu_of(phantom(1)), phantom(1).affine)
    write_dicom(folder / "c", phantom(2, side="left"))
    write_csv(tmp_path / "joints.csv", a=phantom(0), b=phantom(1), c=phantom(2, side="left"))
    return folder


def again(raw, seen, settings=SETTINGS, **options):
    """Run it, and say what was prepared."""
    seen.clear()
    run(raw, raw.parent / "store", settings, **{"landmarks": raw.parent / "joints.csv", **options})
    return sorted(seen)


def test_nothing_has_changed(raw, seen, caplog, monkeypatch):
    caplog.set_level("INFO")
    assert again(raw, seen) == ["c", "p/a.nii", "p/b.nhdr"]
    store = raw.parent / "store"
    times = {path: path.stat().st_mtime_ns for path in store.rglob("*.*") if not path.name.startswith("report")}
    before = contents(store)
    monkeypatch.setattr(MODULE, "content_sha256", None)  # no file is read
    assert again(raw, seen) == []
    assert "3 of 3 scans are unchanged since the last run" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert contents(store) == before


def test_a_touched_file_is_only_hashed(raw, seen, monkeypatch):
    again(raw, seen)
    os.utime(raw / "p" / "a.nii")
    os.utime(raw / "c" / "003.dcm", (5, 5))
    assert again(raw, seen) == []
    assert records_of(raw.parent / "store")["c"]["stamps"][3][2] == 5 * 10**9
    monkeypatch.setattr(MODULE, "content_sha256", None)  # once
    assert again(raw, seen) == []


@pytest.mark.parametrize(
    ("path", "scan"), [("p/a.nii", "p/a.nii"), ("p/b.raw", "p/b.nhdr"), ("c/003.dcm", "c"), ("p/b.nhdr", "p/b.nhdr")]
)
def test_changed_bytes(raw, seen, path, scan):
    """Of a file that is read, or of one that belongs to it."""
    again(raw, seen)
    store = raw.parent / "store"
    before, name = contents(store), records_of(store)[scan]["name"]
    content = (raw / path).read_bytes()
    (raw / path).write_bytes(content + b"\n" if path == "p/b.nhdr" else content[:-2] + b"\1\1")
    assert again(raw, seen) == [scan]
    changed = {file for file, digest in contents(store).items() if before[file] != digest}
    assert f"scans/{name}.json" in changed
    assert {file for file in changed if not file.startswith(("report", "datalist")) and name not in file} == set()


def test_changed_bytes_with_the_old_time(raw, seen):
    """A file of another size is looked at whatever its time."""
    again(raw, seen)
    path = raw / "p" / "a.nii"
    stat = path.stat()
    path.write_bytes(path.read_bytes() + b"more")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert again(raw, seen) == ["p/a.nii"]


def test_changed_settings(raw, seen):
    again(raw, seen)
    other = PreparationSettings(spacing_mm=1.6, roi_size=20)
    assert again(raw, seen, other) == ["c", "p/a.nii", "p/b.nhdr"]
    store = raw.parent / "store"
    assert datalist_of(store)["prepared"]["roi_size"] == 20
    assert {tuple(item["size"]) for item in items_of(store)} == {(20, 20, 20)}


def test_changed_centre(raw, seen):
    again(raw, seen)
    csv = raw.parent / "joints.csv"
    lines = csv.read_text().splitlines()
    name, joint, x, *rest = lines[2].split(",")
    lines[2] = ",".join([name, joint, f"{float(x) + 2:.4f}", *rest])
    csv.write_text("\n".join(lines))
    before = items_of(raw.parent / "store")
    assert again(raw, seen) == ["p/b.nhdr"]
    after = items_of(raw.parent / "store")
    assert after[2]["center_mm"][0] == pytest.approx(before[2]["center_mm"][0] + 2)
    assert after[:2] == before[:2]


def test_lines_in_another_order(raw, seen):
    """No voxel changes, but where a centre is known from does."""
    again(raw, seen)
    csv = raw.parent / "joints.csv"
    head, *lines = csv.read_text().splitlines()
    csv.write_text("\n".join([head, *lines[::-1]]))
    assert again(raw, seen) == []
    origins = {item["source"]: item["center_origin"] for item in items_of(raw.parent / "store")}
    assert origins["c"] == "line 2 of joints.csv"
    assert origins["p/a.nii"] == "line 4 of joints.csv"


def test_scans_go_and_come(raw, seen, caplog):
    again(raw, seen)
    store, whole = raw.parent / "store", contents(raw.parent / "store")
    shutil.move(raw / "c", raw.parent / "c")
    assert again(raw, seen) == []
    assert "1 scans of earlier runs are not in the input any more; their volumes stay" in caplog.text
    assert [item["source"] for item in items_of(store)] == ["p/a.nii", "p/b.nhdr"]
    assert len(list((store / "images").iterdir())) == 3
    shutil.move(raw.parent / "c", raw / "c")
    assert again(raw, seen) == []
    assert contents(store) == whole
    write_phantom(raw / "p" / "d.nii", phantom(3))
    with (raw.parent / "joints.csv").open("a") as file:
        file.write((write_csv(raw.parent / "more.csv", d=phantom(3))).read_text().splitlines()[1] + "\n")
    assert again(raw, seen) == ["p/d.nii"]
    assert len(items_of(store)) == 4


def test_fewer_joints_than_before(tmp_path, seen):
    raw = tmp_path / "raw"
    write_phantom(raw / "a.nii")
    x, y, z = phantom().joint_center_mm
    both = [item_of("a.nii"), {**item_of("a.nii"), "joint": "left", "center_mm": [x - 8.0, y, z]}]
    write_list(raw / "datalist.json", *both)
    run(raw, tmp_path / "store")
    assert len(list((tmp_path / "store" / "images").iterdir())) == 2
    write_list(raw / "datalist.json", both[0])
    run(raw, tmp_path / "store")
    assert [path.name[-9:] for path in (tmp_path / "store" / "images").iterdir()] == ["right.nii"]
    run(raw, tmp_path / "store", PreparationSettings(spacing_mm=1.6, whole_volume=True))
    assert [path.name for path in (tmp_path / "store" / "images").iterdir()] == [
        f"{records_of(tmp_path / 'store')['a.nii']['name']}.nii"
    ]
    assert seen == ["a.nii"] * 3


def test_refused_scans_are_tried_again(raw, seen):
    path = raw / "p" / "a.nii"
    content = path.read_bytes()
    path.write_bytes(content[:5000])
    again(raw, seen)
    assert again(raw, seen) == ["p/a.nii"]
    path.write_bytes(content)
    assert again(raw, seen) == ["p/a.nii"]
    assert len(items_of(raw.parent / "store")) == 3


def test_a_scan_that_turns_bad_leaves_no_volumes(raw, seen):
    again(raw, seen)
    (raw / "p" / "a.nii").write_bytes(b"")
    again(raw, seen)
    store = raw.parent / "store"
    assert [item["source"] for item in items_of(store)] == ["c", "p/b.nhdr"]
    assert not any(path.name.startswith("p_a") for path in (store / "images").iterdir())


@pytest.mark.parametrize("harm", ["delete", "cut off"])
def test_a_stored_volume_was_harmed(raw, seen, harm):
    again(raw, seen)
    store, whole = raw.parent / "store", contents(raw.parent / "store")
    path = store / items_of(store)[1]["image"]
    path.unlink() if harm == "delete" else path.write_bytes(path.read_bytes()[:-1])
    assert again(raw, seen) == ["p/a.nii"]
    assert contents(store) == whole


def test_labels_that_come_and_change(tmp_path, seen):
    raw, scan = tmp_path / "raw", phantom()
    write_phantom(raw / "a.nii")
    write_csv(tmp_path / "joints.csv", a=scan)
    assert again(raw, seen) == ["a.nii"]
    label = write_nifti(tmp_path / "labels" / "a.nii", scan.label, scan.affine)
    assert again(raw, seen, labels=tmp_path / "labels") == ["a.nii"]
    assert again(raw, seen, labels=tmp_path / "labels") == []
    write_nifti(label, np.minimum(scan.label, 1), scan.affine)
    assert again(raw, seen, labels=tmp_path / "labels") == ["a.nii"]
    assert again(raw, seen) == ["a.nii"]
    assert list((tmp_path / "store" / "labels").iterdir()) == []


def test_the_datalist_names_only_what_does_not_change(raw, seen, monkeypatch):
    """Whoever reads it while volumes are replaced, or after that was cut short, gets none of the old settings."""
    again(raw, seen)
    lists = []
    original = MODULE.prepare_scan

    def look(scan, *arguments):
        lists.append(datalist_of(raw.parent / "store"))
        return original(scan, *arguments)

    monkeypatch.setattr(MODULE, "prepare_scan", look)
    (raw / "p" / "a.nii").write_bytes((raw / "p" / "a.nii").read_bytes() + b"x")
    again(raw, seen)
    assert [[item["source"] for item in found["training"]] for found in lists] == [["c", "p/b.nhdr"]]
    again(raw, seen, PreparationSettings(spacing_mm=1.6, roi_size=20))
    assert [found["training"] for found in lists[1:]] == [[], [], []]
    assert lists[1]["prepared"]["roi_size"] == 20


def test_settings_that_were_tried_and_dropped(raw, seen, monkeypatch):
    """A run with other settings was killed after it had replaced volumes; the first settings find that out."""
    again(raw, seen)
    whole = contents(raw.parent / "store")

    def die(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Store, "write_record", die)
        with pytest.raises(KeyboardInterrupt):
            again(raw, seen, PreparationSettings(spacing_mm=1.6, roi_size=20))
    assert seen == ["c"]
    assert again(raw, seen) == ["c"]
    assert contents(raw.parent / "store") == whole
