"""A volume, a folder or a datalist as items."""

import json
from pathlib import Path

import pytest

from bertswin_ext.data.source_items import source_items


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 200)


def places(items):
    return {Path(item["image"]).name: (item["patient"], item["folder"]) for item in items}


def test_a_volume(tmp_path):
    touch(tmp_path, "head.nii.gz", "other.nii")
    assert places(source_items(tmp_path / "head.nii.gz")) == {"head.nii.gz": ("head", ".")}


def test_a_folder_with_series_and_volumes(tmp_path):
    touch(tmp_path, "b.nii", "a_seg.nii", "anna/ct/1.dcm", "anna/ct/2.dcm", "ben/0001/1.dcm")
    assert places(source_items(tmp_path)) == {"b.nii": ("b", "."), "ct": ("anna", "anna"), "0001": ("ben", "ben")}


def test_the_folder_of_one_series(tmp_path):
    touch(tmp_path / "scan", "1.dcm", "2.dcm")
    (item,) = source_items(tmp_path / "scan")
    assert item == {"image": str(tmp_path / "scan"), "patient": "scan", "folder": ""}


def test_a_datalist_and_the_folder_that_holds_it(tmp_path):
    touch(tmp_path, "b.nii", "lists/scans/a.nii", "lists/not_listed.nii")
    lists = {"training": [{"image": "../b.nii"}], "validation": [{"image": "scans/a.nii", "joint": "left"}]}
    (tmp_path / "lists" / "datalist.json").write_text(json.dumps(lists))
    for source in (tmp_path / "lists", str(tmp_path / "lists" / "datalist.json")):
        items = source_items(source)
        assert places(items) == {"b.nii": ("b", ""), "a.nii": ("a", "scans")}
        assert items[1]["joint"] == "left"


def test_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"`input` .*gone\.nii does not exist\. Give a volume, a folder"):
        source_items(tmp_path / "gone.nii", "input")
    with pytest.raises(ValueError, match="holds no volumes"):
        source_items(tmp_path)
