"""A store names nothing that is not whole, and belongs to one writer at a time."""

import json

import numpy as np
import pytest

from bertswin_ext.data.preparation.store import STORE_VERSION, Store, is_store
from bertswin_ext.stored_volume import write_stored_volume

VOXELS = np.arange(24, dtype=np.int16).reshape(2, 3, 4)


def record_of(name, *joints, section="training", label=False):
    items = [{"image": f"images/{name}_{joint}.nii", "joint": joint} for joint in joints]
    items = [item | {"label": item["image"].replace("images", "labels")} if label else item for item in items]
    return {"name": name, "section": section, "items": items, "thumbnail": f"thumbnails/{name}.png"}


def fill(store, record):
    for item in record["items"]:
        write_stored_volume(store.directory / item["image"], VOXELS, np.eye(4))
        if "label" in item:
            write_stored_volume(store.directory / item["label"], VOXELS.astype(np.uint8), np.eye(4))
    (store.directory / "thumbnails").mkdir(exist_ok=True)
    (store.directory / record["thumbnail"]).touch()
    store.write_record(record)
    return record


def files(store, pattern="*"):
    return sorted(p.relative_to(store.directory).as_posix() for p in store.directory.rglob(pattern) if p.is_file())


# --- records ---


def test_a_record_comes_back(tmp_path):
    store = Store(tmp_path / "new")
    assert store.record("a") is None
    record = fill(store, record_of("a", "left", "right", label=True))
    assert store.record("a") == record
    assert store.names() == {"a"}
    store.forget("a")
    store.forget("a")
    assert store.record("a") is None


@pytest.mark.parametrize("lost", ["images/a_left.nii", "labels/a_right.nii", "thumbnails/a.png"])
def test_what_is_not_whole_has_no_record(tmp_path, lost):
    store = Store(tmp_path)
    fill(store, record_of("a", "left", "right", label=True))
    path = tmp_path / lost
    if path.suffix == ".nii":
        path.write_bytes(path.read_bytes()[:-1])
        assert store.record("a") is None
    path.unlink()
    assert store.record("a") is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"items": [1]}', '{"items": [{"image": 3}], "thumbnail": null}', "{}"]
)
def test_a_damaged_record_is_none(tmp_path, text):
    store = Store(tmp_path)
    fill(store, record_of("a", "left"))
    (tmp_path / "scans" / "a.json").write_text(text)
    assert store.record("a") is None


def test_files_of_earlier_records_go(tmp_path):
    store = Store(tmp_path)
    fill(store, record_of("a", "left", "right", label=True))
    fill(store, record_of("ab", "left"))
    (tmp_path / "scans" / "a.json").write_text("damaged")
    store.write_record({**record_of("a", "right"), "thumbnail": None})
    assert files(store, "*.nii") == ["images/a_right.nii", "images/ab_left.nii"]
    assert files(store, "*.png") == ["thumbnails/ab.png"]


def test_names_that_are_no_text(tmp_path):
    store = Store(tmp_path)
    record = {**record_of("a"), "thumbnail": None, "scan": "caf\udce9 \u60a3\u8005 \u00e9"}
    store.write_record(record)
    assert store.record("a") == record
    assert "\u60a3\u8005 \u00e9" in (tmp_path / "scans" / "a.json").read_text(encoding="utf-8")


# --- the datalist ---


def test_the_datalist(tmp_path):
    store = Store(tmp_path)
    assert store.settings() == {}
    records = [record_of("a", "left"), record_of("b", "right", section="validation"), record_of("c", "left")]
    path = store.write_datalist(records, {"spacing_mm": 0.4})
    assert json.loads(path.read_text()) == {
        "prepared": {"version": STORE_VERSION, "spacing_mm": 0.4},
        "training": [*records[0]["items"], *records[2]["items"]],
        "validation": records[1]["items"],
    }
    assert store.settings() == {"version": STORE_VERSION, "spacing_mm": 0.4}
    before = path.stat()
    store.write_datalist(records, {"spacing_mm": 0.4})
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


# --- whose folder it is ---


def test_a_store_is_known_again(tmp_path):
    assert not is_store(tmp_path)
    store = Store(tmp_path / "deep" / "store")
    with store.locked():
        pass
    Store(store.directory)
    store.write_record({**record_of("a"), "thumbnail": None})
    assert is_store(store.directory)
    store.write_datalist([], {})
    (store.directory / ".lock").unlink()
    assert is_store(store.directory)
    Store(store.directory)


@pytest.mark.parametrize("content", ['{"training": []}', '{"prepared": 1}', "[]", "{", '"prepared"'])
def test_a_datalist_of_others_is_not_overwritten(tmp_path, content):
    (tmp_path / "datalist.json").write_text(content)
    (tmp_path / "scans").mkdir()
    with pytest.raises(
        ValueError, match=r"holds something else \(datalist\.json, scans\)\. Give a new or empty folder"
    ):
        Store(tmp_path)


def test_other_folders_are_refused(tmp_path):
    for name in ("a.nii", "b.nii", "c.nii", "d.nii"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"something else \(a\.nii, b\.nii, c\.nii, \.\.\.\)\."):
        Store(tmp_path)
    with pytest.raises(ValueError, match=r"`output` .*a\.nii is a file\. Give a folder"):
        Store(tmp_path / "a.nii")


def test_hidden_files_are_no_content(tmp_path):
    (tmp_path / ".DS_Store").touch()
    Store(tmp_path)


# --- one writer ---


def test_a_second_writer_is_refused(tmp_path):
    refused = pytest.raises(ValueError, match=r"another `prepare` is writing to .*Wait for it")
    with Store(tmp_path).locked(), refused, Store(tmp_path).locked():
        pytest.fail("two writers")
    with Store(tmp_path).locked():
        pass


def test_unfinished_files_are_removed_before_and_after(tmp_path):
    store = Store(tmp_path)
    fill(store, record_of("a", "left", label=True))
    whole = files(store)
    unfinished = [tmp_path / f / ".a.nii.17.tmp" for f in ("", "images", "labels", "scans", "thumbnails")]
    for path in unfinished:
        path.touch()
    with store.locked():
        assert files(store) == sorted([*whole, ".lock"])
        unfinished[1].touch()
    assert files(store) == sorted([*whole, ".lock"])
