"""Volumes in ml."""

import numpy as np
import pytest

from bertswin_ext.outputs.class_volumes import volumes_ml

NAMES = ["background", "mandible", "skull"]


def label():
    volume = np.zeros((10, 12, 14), dtype=np.uint8)
    volume[:2], volume[5:9, :6] = 1, 2
    return volume


@pytest.mark.parametrize(
    ("matrix", "voxel_mm3"),
    [
        (np.diag([0.4, 0.5, 0.6]), 0.12),
        (np.diag([-0.4, 0.5, 0.6]), 0.12),
        (np.array([[0, -0.4, 0], [0.5, 0, 0], [0, 0, 0.6]]), 0.12),
        (np.array([[1, 0, 0.5], [0, 1, 0], [0, 0, 2]]), 2.0),  # sheared: lengths of the columns would say more
    ],
)
def test_a_voxel_counts_what_it_takes_in_the_world(matrix, voxel_mm3):
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix, [100, -20, 3]
    found = volumes_ml(label(), affine, NAMES)
    assert found == pytest.approx({"mandible": 336 * voxel_mm3 / 1000, "skull": 336 * voxel_mm3 / 1000})
    assert all(type(ml) is float for ml in found.values())


def test_a_class_that_is_absent_has_no_volume():
    assert volumes_ml(label(), np.eye(4), [*NAMES, "teeth"])["teeth"] == 0.0


def test_a_class_without_a_name():
    with pytest.raises(ValueError, match=r"The label map has class 2, but `class_names` has 2 names\. Give them all"):
        volumes_ml(label(), np.eye(4), NAMES[:2])
