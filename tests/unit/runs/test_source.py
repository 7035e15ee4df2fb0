"""The volumes of a run: a list, a folder, or phantoms."""

import json
import logging

import nibabel as nib
import numpy as np
import pytest

from bertswin_ext.runs.source import open_datalist

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
    assert warnings == [f"no `dataset_dir` given: using synthetic TMJ phantoms in {folder}"]
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
