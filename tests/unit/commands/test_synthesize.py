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
