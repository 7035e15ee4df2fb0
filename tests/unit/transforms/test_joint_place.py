"""The joint of an item: its side and its voxel."""

import numpy as np
import pytest

from bertswin_ext.geometry import moved
from bertswin_ext.transforms.joint_place import is_left, joint_vox
from bertswin_ext.transforms.volume_grid import VolumeGrid
from tests.unit.transforms.crop_worlds import WORLDS

GRID = VolumeGrid((9, 10, 11), np.diag([0.5, 0.5, 0.5, 1.0]), "/data/a.nii")


def test_sides():
    assert is_left("left", GRID)
    assert not is_left("right", GRID)
    assert not is_left(None, GRID)


@pytest.mark.parametrize("joint", ["LEFT", "", "both"])
def test_another_side_is_refused(joint):
    with pytest.raises(ValueError, match=rf'^/data/a\.nii: `joint` must be "left" or "right", got {joint!r}\. Correct'):
        is_left(joint, GRID)


@pytest.mark.parametrize("world", WORLDS)
def test_the_voxel_of_a_joint(world):
    grid = GRID._replace(affine=WORLDS[world])
    np.testing.assert_allclose(joint_vox(moved(WORLDS[world], [1.5, 2.0, 8.25]), grid), [1.5, 2.0, 8.25], atol=1e-9)


@pytest.mark.parametrize("center", [[1.0, 2.0], [1.0, 2.0, float("nan")]])
def test_a_joint_is_a_point(center):
    with pytest.raises(ValueError, match=r"^/data/a\.nii: the joint's centre must be 3 finite numbers in mm, got \["):
        joint_vox(center, GRID)


def test_a_joint_outside_the_volume():
    message = (
        r"^/data/a\.nii: the joint's centre \[1\.0, -7\.0, 2\.0\] mm \(RAS\) is voxel \[2\.0, -14\.0, 4\.0\], outside "
        r"the volume of 9 x 10 x 11 voxels\. Correct it where it was given\.$"
    )
    with pytest.raises(ValueError, match=message):
        joint_vox([1.0, -7.0, 2.0], GRID)
