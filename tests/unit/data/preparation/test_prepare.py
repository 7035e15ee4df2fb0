"""From raw scans of every kind to a store, and what its datalist says."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bertswin_ext.data import load_datalist
from bertswin_ext.data.phantoms.phantom_files import write_phantoms
from bertswin_ext.data.preparation.preparation_settings import PreparationSettings
from bertswin_ext.geometry import moved
from bertswin_ext.stored_volume import open_stored_volume
from tests.unit.data.preparation.raw_scans import (
    ROI,
    SETTINGS,
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


def cut_of(scan):
    """The region round the joint of a phantom, cut by hand."""
    first = np.rint(moved(np.linalg.inv(scan.affine), scan.joint_center_mm)).astype(int) - ROI // 2
    start, stop = np.maximum(first, 0), np.minimum(first + ROI, scan.image.shape)
    return hu_of(scan)[tuple(slice(*ends) for ends in zip(start, stop, strict=True))]


def voxels_of(store, item):
    return open_stored_volume(store / item["image"]).read()


# --- every source ---


def test_every_kind_of_file(tmp_path, quick):
    """All hold the same phantom, in their own order of axes."""
    scan, raw = phantom(), tmp_path / "raw"
    hu = hu_of(scan)
    write_phantom(raw / "nifti.nii")
    write_phantom(raw / "packed.nii.gz")
    turned = nib.as_closest_canonical(nib.Nifti1Image(hu, scan.affine)).as_reoriented([[1, -1], [2, 1], [0, -1]])
    write_nifti(raw / "turned.nii", np.asarray(turned.dataobj), turned.affine)
    for name in ("attached.nrrd", "detached.nhdr", "meta.mha", "header.mhd"):
        write_itk(raw / name, hu, scan.affine)
    write_dicom(raw / "series")
    write_dicom(raw / "shifted", slope=1.0, intercept=-1024.0, series="1.2.3.5")
    names = ["attached", "detached", "header", "meta", "nifti", "packed", "series", "shifted", "turned"]
    csv = write_csv(tmp_path / "joints.csv", **dict.fromkeys(names, scan))
    prepared = run(raw, tmp_path / "store", landmarks=csv)
    assert prepared.refused == []
    items = items_of(tmp_path / "store")
    assert [Path(item["source"]).name.split(".")[0] for item in items] == names
    for item in items:
        np.testing.assert_array_equal(voxels_of(tmp_path / "store", item), cut_of(scan), item["source"])
        assert moved(open_stored_volume(tmp_path / "store" / item["image"]).affine, [12] * 3) == pytest.approx(
            scan.joint_center_mm, abs=0.81
        )


def test_a_folder_of_phantoms(tmp_path, quick):
    raw = write_phantoms(tmp_path / "raw", count=2, size=32, spacing_mm=1.6)
    run(tmp_path / "raw", tmp_path / "store")
    items, sources = items_of(tmp_path / "store"), json.loads(raw.read_text())["training"]
    for item, source in zip(items, sources, strict=True):
        assert {key: item[key] for key in ("patient", "joint", "fold", "source")} == {
            **{key: source[key] for key in ("patient", "joint", "fold")},
            "source": source["image"],
        }
        label = open_stored_volume(tmp_path / "store" / item["label"])
        assert set(np.unique(label.read())) == {0, 1, 2}


def test_both_joints_of_one_scan(tmp_path, quick):
    scan = phantom()
    write_phantom(tmp_path / "a.nii")
    x, y, z = scan.joint_center_mm
    other = {"joint": "left", "center_mm": [x - 8.0, y, z]}
    path = write_list(tmp_path / "l.json", item_of("a.nii"), item_of("a.nii") | other)
    run(path, tmp_path / "store")
    right, left = items_of(tmp_path / "store")
    assert (right["joint"], left["joint"]) == ("right", "left")
    assert (right["center_origin"], left["center_origin"]) == ("datalist", "datalist")
    assert left["center_mm"] == pytest.approx([x - 8.0, y, z], abs=1e-4)
    assert len(records_of(tmp_path / "store")) == 1
    datalist = load_datalist(tmp_path / "store")
    assert [item["joint"] for item in datalist.training] == ["right", "left"]


def test_markups(tmp_path, quick):
    scan = phantom()
    write_phantom(tmp_path / "raw" / "a.nii")
    points = [{"label": "right", "position": list(scan.joint_center_mm)}]
    markups = {"markups": [{"type": "Fiducial", "coordinateSystem": "RAS", "controlPoints": points}]}
    (tmp_path / "marks").mkdir()
    (tmp_path / "marks" / "a.mrk.json").write_text(json.dumps(markups))
    for landmarks in ("marks", "marks/a.mrk.json"):
        run(tmp_path / "raw", tmp_path / "store", landmarks=tmp_path / landmarks)
        [item] = items_of(tmp_path / "store")
        assert item["center_mm"] == pytest.approx(scan.joint_center_mm, abs=1e-4)
        assert item["center_origin"] == 'landmark "right" of a.mrk.json'


def test_label_maps(tmp_path, quick, caplog):
    """The condyle of the map is near the joint; the scan without a map is refused."""
    scan = phantom()
    both = np.concatenate([scan.label[::-1], np.zeros((12, 36, 36), np.uint8), scan.label])
    hu = np.concatenate([hu_of(scan)[::-1], np.full((12, 36, 36), -1000, np.int16), hu_of(scan)])
    write_nifti(tmp_path / "raw" / "p1" / "a.nii", hu, scan.affine)
    write_phantom(tmp_path / "raw" / "p2" / "b.nii")
    write_nifti(tmp_path / "labels" / "p1" / "a_seg.nii.gz", both, scan.affine)
    prepared = run(tmp_path / "raw", tmp_path / "store", labels=tmp_path / "labels")
    assert "1 scans have no label map: p2/b.nii" in caplog.text
    assert [record["scan"] for record in prepared.refused] == ["p2/b.nii"]
    items = items_of(tmp_path / "store")
    assert [(item["joint"], item["patient"]) for item in items] == [("right", "p1"), ("left", "p1")]
    true = moved(np.linalg.inv(scan.affine), scan.joint_center_mm) + np.array([48, 0, 0])
    found = moved(np.linalg.inv(scan.affine), items[0]["center_mm"])
    assert np.linalg.norm((found - true) * 1.6) < 8.0
    for item in items:
        assert item["center_origin"] == "label map a_seg.nii.gz"
        assert (open_stored_volume(tmp_path / "store" / item["label"]).read() == 1).any()


def test_landmarks_come_before_the_datalist(tmp_path, quick):
    scan = phantom()
    write_phantom(tmp_path / "a.nii")
    path = write_list(tmp_path / "l.json", {**item_of("a.nii"), "center_mm": [0, 0, 0]})
    run(path, tmp_path / "store", landmarks=write_csv(tmp_path / "j.csv", a=scan))
    assert items_of(tmp_path / "store")[0]["center_mm"] == pytest.approx(scan.joint_center_mm, abs=1e-4)


def test_whole_volumes(tmp_path, quick):
    write_phantom(tmp_path / "raw" / "a.nii")
    run(tmp_path / "raw", tmp_path / "store", PreparationSettings(spacing_mm=1.6, whole_volume=True))
    [item] = items_of(tmp_path / "store")
    np.testing.assert_array_equal(voxels_of(tmp_path / "store", item), hu_of(phantom()))
    assert "joint" not in item


def test_one_file_is_the_input(tmp_path, quick):
    """A lone landmark file is its own, whatever the names; the files beside it are not looked at."""
    write_phantom(tmp_path / "a.nii")
    write_phantom(tmp_path / "b.nii")
    run(tmp_path / "a.nii", tmp_path / "store", landmarks=write_csv(tmp_path / "j.csv", a=phantom()))
    assert [item["source"] for item in items_of(tmp_path / "store")] == ["a.nii"]


# --- what stands in the datalist ---


def test_training_reads_the_store(tmp_path, quick):
    fov = {"center_mm": [0.0, 0.0, 0.0], "radius_mm": 88.0, "axis": [0.0, 0.0, 1.0]}
    raw = tmp_path / "raw"
    for name in "abc":
        write_phantom(raw / f"{name}.nii")
    training = [item_of("a.nii", patient="p", fov=fov), item_of("b.nii", patient="p", fov=fov)]
    write_list(raw / "datalist.json", *training, validation=[item_of("c.nii", patient="q")])
    run(raw, tmp_path / "store")
    shutil.move(tmp_path / "store", tmp_path / "moved")
    datalist = load_datalist(tmp_path / "moved")
    assert [item["patient"] for item in datalist.training] == ["p", "p"]
    assert [item["source"] for item in datalist.validation] == ["c.nii"]
    assert all(Path(item["image"]).is_file() for item in (*datalist.training, *datalist.validation))
    assert datalist.training[0]["fov"] == fov
    assert datalist.prepared == {"version": 1, **SETTINGS.to_json()}


def test_folds_and_patients_split_the_store(tmp_path, quick):
    raw = tmp_path / "raw"
    for name in "abc":
        write_phantom(raw / f"{name}.nii")
    write_list(raw / "datalist.json", *[item_of(f"{name}.nii", fold=fold) for fold, name in enumerate("abc")])
    run(raw, tmp_path / "store")
    assert [item["patient"] for item in load_datalist(tmp_path / "store", fold=1).validation] == ["b"]


def test_copies_of_a_scan(tmp_path, quick, caplog):
    """One patient under two names would be trained and validated on."""
    raw = tmp_path / "raw"
    for name in ("p1/a.nii", "p1/b.nii", "p2/c.nii"):
        write_phantom(raw / name)
    write_phantom(raw / "p3" / "d.nii", phantom(1))
    csv = write_csv(tmp_path / "j.csv", a=phantom(), b=phantom(), c=phantom(), d=phantom(1))
    run(raw, tmp_path / "store", landmarks=csv)
    assert "the patients p1, p2 have the same voxels: a split by patient does not keep them apart" in caplog.text
    caplog.clear()
    (raw / "p2" / "c.nii").unlink()
    run(raw, tmp_path / "store", landmarks=csv)
    assert "have the same voxels" not in caplog.text
