"""The commands for the authors' layout."""

import json
import sys

import numpy as np
import pytest

from bertswin_ext.__main__ import main
from bertswin_ext.data import PreparationSettings, write_phantoms
from bertswin_ext.data.preparation.prepare import prepare
from bertswin_ext.stored_volume import open_stored_volume


@pytest.fixture
def store(tmp_path):
    """Two joints, prepared."""
    datalist = write_phantoms(tmp_path / "raw", count=2, size=24, spacing_mm=1.6)
    settings = PreparationSettings(spacing_mm=1.6, roi_size=16)
    prepare(datalist, tmp_path / "store", settings, num_workers=1, progress=False)
    return tmp_path / "store"


def voxels(folder):
    items = json.loads((folder / "datalist.json").read_text())["training"]
    return {item["patient"]: open_stored_volume(folder / item["image"]).read() for item in items}


def test_out_and_in_again(store, tmp_path, capsys):
    pytest.importorskip("h5py", reason='h5py is not installed: pip install "bertswin-ext[hdf5]"')
    main(["export_hdf5", "--input", str(store), "--output", str(tmp_path / "tmj.h5")])
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "tmj.h5"), "2 joints"]
    back = tmp_path / "back"
    main(["import_hdf5", "--input", str(tmp_path / "tmj.h5"), "--output", str(back), "--spacing_mm", "1.6"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(back / "datalist.json")
    assert lines[1].endswith(f"--dataset_dir {back} --spacing_mm 1.6")
    ours, theirs = voxels(back), voxels(store)
    assert ours.keys() == theirs.keys()
    for patient, array in theirs.items():
        np.testing.assert_array_equal(ours[patient], array)


def test_a_joint_that_cannot_be_used_is_named(store, tmp_path, capsys):
    h5py = pytest.importorskip("h5py", reason='h5py is not installed: pip install "bertswin-ext[hdf5]"')
    main(["export_hdf5", "--input", str(store), "--output", str(tmp_path / "tmj.h5")])
    with h5py.File(tmp_path / "tmj.h5", "r+") as file:
        study = next(iter(file.values()))
        joint = next(iter(study.values()))
        del joint.attrs["relative_tmj_center"]
        name = joint.name
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(
            ["import_hdf5", "--input", str(tmp_path / "tmj.h5"), "--output", str(tmp_path / "b"), "--spacing_mm", "1.6"]
        )
    assert stopped.value.code == 1
    out = capsys.readouterr().out
    assert "1 fault in" in out
    assert f"tmj.h5:{name}" in out
    assert len(json.loads((tmp_path / "b" / "datalist.json").read_text())["training"]) == 1


def test_only_a_store_can_be_exported(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["export_hdf5", "--input", str(tmp_path), "--output", str(tmp_path / "a.h5")])
    assert stopped.value.code == 2
    assert "is not a store. Give the folder that `prepare`" in capsys.readouterr().err


def test_without_h5py_the_way_to_install_it_is_said(store, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(SystemExit) as stopped:
        main(["export_hdf5", "--input", str(store), "--output", str(tmp_path / "a.h5")])
    assert stopped.value.code == 2
    assert 'pip install "bertswin-ext[hdf5]"' in capsys.readouterr().err
