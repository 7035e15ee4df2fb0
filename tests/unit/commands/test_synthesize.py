"""The command that makes scans of label maps."""

import json

import nibabel as nib
import numpy as np
import pytest

from bertswin_ext.__main__ import main


def test_a_label_map_becomes_a_data_set(tmp_path, capsys):
    label = np.zeros((24, 24, 24), dtype=np.uint8)
    label[6:18, 6:18, 4:9] = 2
    label[5:19, 5:19, 12:20] = 1
    nib.save(nib.Nifti1Image(label, np.diag([3.0, 3.0, 3.0, 1.0])), tmp_path / "jaw.nii.gz")
    main(["synthesize", "--labels", str(tmp_path / "jaw.nii.gz"), "--output", str(tmp_path / "set"), "--seed", "3"])
    datalist, hint = capsys.readouterr().out.splitlines()
    assert f"prepare --input {datalist}" in hint
    [item] = json.loads((tmp_path / "set" / "datalist.json").read_text())["training"]
    values = np.unique(np.asarray(nib.load(tmp_path / "set" / item["label"]).dataobj))
    assert values.tolist() == [0, 1, 2]


def test_a_flag_without_a_value(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["synthesize", "--labels", "--output", str(tmp_path)])
    assert stopped.value.code == 2
    assert "`--labels` must be a path, got none" in capsys.readouterr().err


def test_scans_may_vary(tmp_path):
    label = np.zeros((24, 24, 24), dtype=np.uint8)
    label[6:18, 6:18, 4:20] = 2
    nib.save(nib.Nifti1Image(label, np.diag([3.0, 3.0, 3.0, 1.0])), tmp_path / "jaw.nii.gz")
    flags = ["--deform_mm", "3", "--blur_mm", "1", "--noise_hu", "[5,80]", "--density", "[0.6,0.9]"]
    main(["synthesize", "--labels", str(tmp_path / "jaw.nii.gz"), "--output", str(tmp_path / "set"), *flags])
    found = np.asarray(nib.load(tmp_path / "set" / "labels" / "jaw_0.nii.gz").dataobj)
    assert set(np.unique(found)) == {0, 1}
    assert not np.array_equal(found > 0, label > 0)


def test_scans_of_larger_voxels(tmp_path):
    label = np.zeros((48, 48, 48), dtype=np.uint8)
    label[12:36, 12:36, 8:40] = 2
    nib.save(nib.Nifti1Image(label, np.diag([1.5, 1.5, 1.5, 1.0])), tmp_path / "jaw.nii.gz")
    main(
        ["synthesize", "--labels", str(tmp_path / "jaw.nii.gz"), "--output", str(tmp_path / "set"), "--spacing_mm", "3"]
    )
    scan = nib.load(tmp_path / "set" / "images" / "jaw_0.nii.gz")
    assert (scan.shape, scan.header.get_zooms()) == ((24, 24, 24), (3.0, 3.0, 3.0))


def test_a_range_that_is_none(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["synthesize", "--labels", "jaw.nii.gz", "--output", str(tmp_path), "--noise_hu", "[5,loud]"])
    assert stopped.value.code == 2
    assert "`--noise_hu` must be a number, got [5, 'loud']" in capsys.readouterr().err
