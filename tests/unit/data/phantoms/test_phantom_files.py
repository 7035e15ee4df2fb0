"""Phantoms on disk: written once, whole, and the same bytes every time."""

import json
import logging

import nibabel as nib
import numpy as np
import pytest

from bertswin_ext.data.phantoms import phantom_files as module
from bertswin_ext.data.phantoms.phantom_files import write_phantoms

SMALL = {"size": 24, "spacing_mm": 1.6}


def head_centre(label, affine):
    """World position of the upper 6 mm of the mandible."""
    world = np.argwhere(label == 1) @ affine[:3, :3].T + affine[:3, 3]
    return world[world[:, 2] > world[:, 2].max() - 6.0].mean(axis=0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"count": 0}, ValueError, "`count` must be at least 1, got 0"),
        ({"count": "two"}, TypeError, "`count` must be an int, got 'two'"),
        ({"num_folds": -2}, ValueError, "`num_folds` must not be negative, got -2"),
    ],
)
def test_write_messages(tmp_path, arguments, error, message):
    with pytest.raises(error) as caught:
        write_phantoms(tmp_path / "set", **{**SMALL, **arguments})
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_phantoms(tmp_path_factory.mktemp("data") / "set", count=3, **SMALL, num_folds=2)


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_datalist(written):
    datalist = json.loads(written.read_text())
    assert datalist["phantom"] == {
        "generator_version": 2,
        "count": 3,
        "size": [24, 24, 24],
        "spacing_mm": [1.6, 1.6, 1.6],
        "oblique_deg": 0.0,
        "seed": 0,
        "num_folds": 2,
    }
    assert datalist["description"]
    entries = datalist["training"]
    assert [e["patient"] for e in entries] == ["phantom-0000", "phantom-0001", "phantom-0002"]
    assert [e["fold"] for e in entries] == [0, 1, 0]
    assert len({tuple(e["center_mm"]) for e in entries}) == 3
    names = {e[key] for e in entries for key in ("image", "label")}
    assert set(contents(written.parent)) == {*names, "datalist.json"}
    assert entries[0]["image"] == "image_0000.nii.gz"


def test_nifti_files(written):
    for entry in json.loads(written.read_text())["training"]:
        image, label = (nib.load(written.parent / entry[key]) for key in ("image", "label"))
        assert (image.get_data_dtype(), label.get_data_dtype()) == (np.int16, np.uint8)
        assert np.allclose(image.affine, label.affine)
        assert np.allclose(image.get_qform(), image.get_sform(), atol=1e-4)
        assert image.header.get_xyzt_units()[0] == "mm"
        assert -1500 < np.asarray(image.dataobj).min() < -900
        voxel = np.linalg.solve(image.affine, [*entry["center_mm"], 1.0])[:3]
        assert abs(voxel - 11.5).max() * 1.6 < 3.1
        assert (entry["center_mm"][0] > 0) == (entry["joint"] == "right")


def test_oblique_and_straight_files_hold_the_same_joint(tmp_path):
    found = {}
    for tilt in (0.0, 20.0):
        datalist = write_phantoms(tmp_path / str(tilt), count=1, size=64, spacing_mm=0.5, oblique_deg=tilt)
        entry = json.loads(datalist.read_text())["training"][0]
        label = nib.load(datalist.parent / entry["label"])
        found[tilt] = entry["center_mm"], head_centre(np.asarray(label.dataobj), label.affine), label.affine
    assert found[0.0][0] == found[20.0][0]
    assert np.allclose(found[0.0][1], found[20.0][1], atol=0.3)
    assert np.count_nonzero(abs(found[20.0][2][:3, :3]) > 1e-3) > 3


def test_bytes_depend_on_the_parameters_alone(written, tmp_path):
    again = write_phantoms(tmp_path / "again", count=2, **SMALL, num_folds=2)
    expected = contents(written.parent)
    for name, data in contents(again.parent).items():
        assert name == "datalist.json" or data == expected[name]


def test_written_once(written, caplog):
    before = {path: path.stat().st_mtime_ns for path in written.parent.iterdir()}
    with caplog.at_level(logging.INFO):
        assert write_phantoms(written.parent, count=3, **SMALL, num_folds=2) == written
    assert {path: path.stat().st_mtime_ns for path in written.parent.iterdir()} == before
    assert "nothing written" in caplog.text


def test_other_parameters_are_refused(written):
    before = contents(written.parent)
    with pytest.raises(ValueError, match="holds phantoms of other parameters") as caught:
        write_phantoms(written.parent, count=4, **SMALL, num_folds=2, seed=7)
    message = str(caught.value)
    assert str(written.parent) in message
    assert "count is 3, asked for 4, seed is 0, asked for 7. Choose another directory, or remove" in message
    assert contents(written.parent) == before


def test_foreign_and_damaged_directories_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="must be new, empty or hold phantoms"):
        write_phantoms(tmp_path, count=1, **SMALL)
    datalist = write_phantoms(tmp_path / "set", count=1, **SMALL)
    (datalist.parent / "label_0000.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"has lost 1 files, the first is label_0000\.nii\.gz\. Choose another"):
        write_phantoms(tmp_path / "set", count=1, **SMALL)


def test_an_empty_directory_is_filled(tmp_path):
    (tmp_path / "set").mkdir()
    assert write_phantoms(tmp_path / "set", count=1, **SMALL).is_file()


def test_a_crash_leaves_nothing(tmp_path, monkeypatch):
    write_nifti, calls = module.write_nifti, []

    def crash(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write_nifti(*arguments)

    monkeypatch.setattr(module, "write_nifti", crash)
    with pytest.raises(KeyboardInterrupt):
        write_phantoms(tmp_path / "set", count=2, **SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", [0, 1])
def test_two_writers(tmp_path, monkeypatch, seed):
    """Another writer finishes first: fine if its phantoms are the same, refused if not."""
    write_all = module._write_all

    def overtaken(directory, parameters):
        monkeypatch.setattr(module, "_write_all", write_all)
        write_phantoms(tmp_path / "set", count=1, **SMALL, seed=seed)
        write_all(directory, parameters)

    monkeypatch.setattr(module, "_write_all", overtaken)
    if seed == 0:
        write_phantoms(tmp_path / "set", count=1, **SMALL)
    else:
        with pytest.raises(ValueError, match="seed is 1, asked for 0"):
            write_phantoms(tmp_path / "set", count=1, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert len(contents(tmp_path / "set")) == 3
