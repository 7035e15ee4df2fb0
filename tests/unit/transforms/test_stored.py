"""Stored volumes in a chain."""

import numpy as np
import pytest

from bertswin_ext.errors import VolumeError
from bertswin_ext.stored_volume import write_stored_volume
from bertswin_ext.transforms.stored import OpenStoredd


@pytest.fixture
def path(tmp_path):
    write_stored_volume(tmp_path / "a.nii", np.zeros((4, 5, 6), dtype=np.int16), np.diag([0.4, 0.4, 0.4, 1.0]))
    return str(tmp_path / "a.nii")


@pytest.mark.parametrize("spacing_mm", [0.4, (0.4, 0.4, 0.4), 0.4001])
def test_a_path_becomes_a_handle(path, spacing_mm):
    item = OpenStoredd(["image", "label"], spacing_mm, allow_missing_keys=True)({"image": path, "patient": "x"})
    assert item["image"].shape == (4, 5, 6)
    assert item["image"].path == path
    assert item["patient"] == "x"
    assert "label" not in item


def test_another_spacing_is_refused(path):
    message = r"a\.nii: was prepared with voxels of 0\.4 x 0\.4 x 0\.4 mm, the run expects `spacing_mm` = 0\.2 x 0\.2"
    with pytest.raises(ValueError, match=message):
        OpenStoredd("image", 0.2)({"image": path})


def test_a_missing_file_is_named(path):
    with pytest.raises(VolumeError, match="the stored volume does not exist"):
        OpenStoredd("image", 0.4)({"image": path + ".nii"})
