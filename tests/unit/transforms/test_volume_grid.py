"""Where voxels are, and planes, in memory and on disk alike."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from bertswin_ext.stored_volume import open_stored_volume, write_stored_volume
from bertswin_ext.transforms.volume_grid import VolumeGrid, grid_of, planes_of
from tests.unit.transforms.crop_worlds import WORLDS

ARRAY = np.arange(24, dtype=np.int16).reshape(2, 3, 4)


@pytest.fixture
def stored(tmp_path):
    write_stored_volume(tmp_path / "a.nii", ARRAY, WORLDS["plain"])
    return open_stored_volume(tmp_path / "a.nii")


def test_the_grid_of_a_stored_volume(stored):
    shape, affine, file = grid_of(stored)
    assert (shape, file) == ((2, 3, 4), stored.path)
    np.testing.assert_allclose(affine, WORLDS["plain"])


def test_the_grid_of_a_tensor_with_a_place():
    affine = WORLDS["oblique and anisotropic"]
    volume = MetaTensor(torch.zeros(1, 2, 3, 4), affine=torch.from_numpy(affine), meta={"filename_or_obj": "/a.nii"})
    shape, found, file = grid_of(volume)
    assert (shape, file) == ((2, 3, 4), "/a.nii")
    np.testing.assert_array_equal(found, affine)
    assert found.dtype == np.float64


def test_the_grid_of_a_plain_tensor():
    grid = grid_of(torch.zeros(5, 2, 3, 4))
    assert (grid.shape, grid.file, grid.name) == ((2, 3, 4), None, "the volume")
    np.testing.assert_array_equal(grid.affine, np.eye(4))


def test_a_grid_in_words():
    assert VolumeGrid((2, 3, 4), np.diag([0.5, 1.0, 2.0, 1.0]), None).written == (
        "2 x 3 x 4 voxels and the affine [[0.5, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0]]"
    )


def test_a_tensor_without_channels_is_refused():
    with pytest.raises(ValueError, match=r"^the volume: a volume must be \(c, i, j, k\), got 2 x 3 x 4\. Add `Ensure"):
        grid_of(torch.zeros(2, 3, 4))


def test_planes_come_in_order(stored):
    tensor = torch.from_numpy(ARRAY)[None]
    for volume in (stored, tensor, MetaTensor(tensor)):
        planes = list(planes_of(volume))
        assert all(isinstance(plane, np.ndarray) for plane in planes)
        np.testing.assert_array_equal(np.stack(planes), ARRAY)
