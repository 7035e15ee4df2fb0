"""The volumes of a run: a list, a folder, or phantoms."""

import json
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bertswin_ext.runs.source import LabelledItems, open_datalist, open_volumes

PHANTOMS = {"count": 3, "size": 16, "spacing_mm": 2.0, "seed": 1}


def save(folder, *names):
    for name in names:
        nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), dtype=np.int16), np.eye(4)), folder / f"{name}.nii")


@pytest.mark.parametrize("nothing", ["", None])
def test_phantoms_when_nothing_is_given(tmp_path, caplog, nothing):
    with caplog.at_level(logging.INFO):
        datalist = open_datalist(nothing, tmp_path / "data", PHANTOMS, fold=1)
    folder = tmp_path / "data" / "phantoms_v2_count-3_seed-1_size-16_spacing_mm-2.0"
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [f"no data given: using synthetic TMJ phantoms in {folder}"]
    assert f"2 training and 1 validation volumes from {folder / 'datalist.json'}" in caplog.text
    assert [item["fold"] for item in datalist.validation] == [1]
    assert all(item["image"].startswith(str(folder)) for item in datalist.training)


def test_phantoms_are_written_once(tmp_path, caplog):
    first = open_datalist("", tmp_path, PHANTOMS)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nii.gz")}
    with caplog.at_level(logging.INFO):
        again = open_datalist("", tmp_path, PHANTOMS)
    assert again == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nii.gz")} == written
    assert "holds these 3 phantoms already" in caplog.text


def test_other_phantoms_get_another_folder(tmp_path):
    for size in (16, [16, 18, 20]):
        open_datalist("", tmp_path, {**PHANTOMS, "count": 2, "size": size})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "phantoms_v2_count-2_seed-1_size-16_spacing_mm-2.0",
        "phantoms_v2_count-2_seed-1_size-[16,18,20]_spacing_mm-2.0",
    ]


def test_a_mistyped_phantom_is_named(tmp_path):
    with pytest.raises(TypeError, match="unexpected keyword argument 'cuont'"):
        open_datalist("", tmp_path, {"cuont": 3})
    with pytest.raises(ValueError, match="`size` must be at least 16 voxels per axis, got 8"):
        open_datalist("", tmp_path, {"size": 8})


def test_a_folder(tmp_path, caplog):
    (tmp_path / "scans").mkdir()
    save(tmp_path / "scans", *"abcdef")
    with caplog.at_level(logging.INFO):
        datalist = open_datalist(tmp_path / "scans", tmp_path / "data", PHANTOMS, val_fraction=0.5, seed=3)
    assert (len(datalist.training), len(datalist.validation)) == (3, 3)
    assert caplog.messages[-1] == f"3 training and 3 validation volumes from {tmp_path / 'scans'}"
    assert "phantoms" not in caplog.text
    assert not (tmp_path / "data").exists()
    others = [open_datalist(tmp_path / "scans", "", {}, val_fraction=0.5, seed=seed) for seed in range(8)]
    assert len({other.sha256 for other in others}) > 1


def test_a_list(tmp_path):
    save(tmp_path, *"abc")
    items = [{"image": f"{name}.nii", "fold": fold} for fold, name in enumerate("abc")]
    (tmp_path / "list.json").write_text(json.dumps({"training": items}))
    datalist = open_datalist(str(tmp_path / "list.json"), tmp_path / "data", PHANTOMS, fold=2)
    assert [item["image"] for item in datalist.validation] == [str(tmp_path / "c.nii")]
    with pytest.raises(ValueError, match=r"no item has fold 3\. Choose one of 0, 1, 2"):
        open_datalist(tmp_path / "list.json", tmp_path / "data", PHANTOMS, fold=3)


def test_nothing_there(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere does not exist\. Give a \.json datalist or a folder of volumes\."):
        open_datalist(tmp_path / "nowhere", tmp_path / "data", PHANTOMS)


def test_the_first_process_writes_and_the_others_wait(tmp_path, monkeypatch):
    open_datalist("", tmp_path, PHANTOMS)
    calls = []
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 1)
    monkeypatch.setattr("torch.distributed.barrier", lambda: calls.append("barrier"))
    monkeypatch.setattr("bertswin_ext.runs.source.write_phantoms", lambda *_, **__: calls.append("write"))
    datalist = open_datalist("", tmp_path, PHANTOMS)
    assert calls == ["barrier"]
    assert len(datalist.training) == 2


# --- volumes to apply a network to ---


def images_of(items):
    return [(Path(item["image"]).name, item["patient"]) for item in items]


def test_one_volume(tmp_path):
    save(tmp_path, "head", "other")
    assert images_of(open_volumes(tmp_path / "head.nii", tmp_path, PHANTOMS)) == [("head.nii", "head")]


def test_the_folder_of_a_volume(tmp_path):
    (tmp_path / "clinic" / "scans").mkdir(parents=True)
    save(tmp_path / "clinic" / "scans", "a")
    save(tmp_path, "b")
    items = open_volumes(tmp_path, tmp_path, PHANTOMS)
    assert {Path(item["image"]).name: item["folder"] for item in items} == {"a.nii": "clinic/scans", "b.nii": "."}
    lists = {"training": [{"image": "../b.nii"}, {"image": "scans/a.nii"}]}
    (tmp_path / "clinic" / "list.json").write_text(json.dumps(lists))
    items = open_volumes(tmp_path / "clinic" / "list.json", tmp_path, PHANTOMS)
    assert [item["folder"] for item in items] == ["", "scans"]


def test_a_folder_of_volumes(tmp_path):
    save(tmp_path, "a", "b", "b_seg")
    assert images_of(open_volumes(tmp_path, tmp_path, PHANTOMS)) == [("a.nii", "a"), ("b.nii", "b")]


def test_all_of_a_datalist(tmp_path):
    save(tmp_path, "a", "b")
    lists = {"training": [{"image": "a.nii"}], "validation": [{"image": "b.nii", "joint": "left"}]}
    (tmp_path / "datalist.json").write_text(json.dumps(lists))
    for source in (tmp_path, tmp_path / "datalist.json"):
        items = open_volumes(source, tmp_path, PHANTOMS)
        assert images_of(items) == [("a.nii", "a"), ("b.nii", "b")]
        assert items[1]["joint"] == "left"


def test_phantoms_to_apply_a_network_to(tmp_path):
    items = open_volumes("", tmp_path, PHANTOMS, with_label=True)
    assert len(items) == 3
    assert all(item["label"] for item in items)


def test_nothing_to_apply_a_network_to(tmp_path):
    with pytest.raises(ValueError, match=r"`dataset_dir` .*gone.nii does not exist. Give a volume, a folder"):
        open_volumes(tmp_path / "gone.nii", tmp_path, PHANTOMS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no volumes"):
        open_volumes(tmp_path / "empty", tmp_path, PHANTOMS)


def test_labelled_items_are_those_of_the_datalist(tmp_path):
    arguments = {"dataset_dir": "", "phantom_dir": tmp_path, "phantoms": PHANTOMS, "fold": 1}
    items = LabelledItems(**arguments)
    assert list(tmp_path.iterdir()) == []  # nothing is written before it is asked for
    datalist = open_datalist(**arguments)
    assert (items.training, items.validation) == (datalist.training, datalist.validation)
    assert [item["fold"] for item in items.validation] == [1]


def test_labels_that_are_missing_are_named(tmp_path):
    save(tmp_path, "a", "b", "c")
    items = [{"image": "a.nii"}, {"image": "b.nii", "label": "b.nii"}, {"image": "c.nii"}]
    (tmp_path / "list.json").write_text(json.dumps({"training": items}))
    message = r"2 faults in .*list.json:\n.*/[ac].nii: has no label\n.*/[ac].nii: has no"
    with pytest.raises(ValueError, match=message):
        open_volumes(tmp_path / "list.json", tmp_path, PHANTOMS, with_label=True)
    with pytest.raises(ValueError, match=message):
        _ = LabelledItems(dataset_dir=tmp_path / "list.json", phantom_dir=tmp_path, phantoms=PHANTOMS).training
