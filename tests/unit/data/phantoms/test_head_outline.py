"""The outline of a head: flesh about the bones, a neck below, whatever the grid."""

import numpy as np
import pytest
import torch

from bertswin_ext.data.phantoms.head_outline import FLESH_MM, skin_distance
from bertswin_ext.geometry import moved
from tests.unit.data.phantoms.drawn_jaw import AFFINE, drawn_map


def grid(mm=2.0, size=48):
    affine = np.diag([mm, mm, mm, 1.0])
    affine[:3, 3] = -mm * (size - 1) / 2
    return affine, np.moveaxis(moved(affine, np.stack(np.indices((size,) * 3), axis=-1)), -1, 0)


def distance_about(bones, mandible=None, mm=2.0):
    affine, _ = grid(mm, bones.shape[0])
    return skin_distance(bones, np.zeros_like(bones) if mandible is None else mandible, affine).numpy()


@pytest.fixture(scope="module")
def column():
    """An upright column of bone of 20 mm, its middle at the origin, from z = -20 to 20 mm."""
    _, (x, y, z) = grid()
    return (np.hypot(x, y) <= 20) & (np.abs(z) <= 20)


def test_the_head_is_the_bones_and_nine_millimetres_of_flesh(column):
    assert FLESH_MM == 9.0
    distance = distance_about(column)
    _, (x, y, z) = grid()
    level = (np.abs(z) < 10) & (np.hypot(x, y) > 10)
    assert np.abs(distance - (np.hypot(x, y) - 20 - 9))[level].max() < 2.0
    assert distance.shape == column.shape
    assert distance.dtype == np.float32


def test_above_the_highest_bone_the_head_ends(column):
    distance = distance_about(column)
    _, (x, y, z) = grid()
    above = (z > 20) & (np.hypot(x, y) < 15)
    assert np.abs(distance - (z - 19 - 9))[above].max() < 2.0


def test_the_outline_is_convex():
    """Between two columns there is flesh, in front of and behind them there is none."""
    _, (x, y, z) = grid()
    columns = (np.hypot(np.abs(x) - 25, y) <= 6) & (np.abs(z) <= 30)
    distance = distance_about(columns)
    at = {(a, b): float(distance[a // 2 + 24, b // 2 + 24, 24]) for a in (0, 24) for b in (0, 24)}
    assert at[0, 0] < -9.0
    assert at[0, 24] > 5.0


def test_downwards_a_head_narrows_the_chin_faster_than_the_nape():
    _, (x, y, z) = grid()
    plate = (np.maximum(np.abs(x), np.abs(y)) <= 30) & (z > 10) & (z < 20)
    distance = distance_about(plate)
    front, nape = distance[24, 39, :], distance[24, 8, :]
    assert front[30] < 0
    assert nape[30] < 0
    # 20 mm below the plate: 1.6 mm per mm in front, 0.2 mm per mm behind
    assert front[19] - front[30] == pytest.approx(1.6 * 20, abs=8)
    assert nape[19] - nape[30] == pytest.approx(0.2 * 20, abs=4)


def test_a_mandible_has_a_neck_behind_it():
    _, (x, y, z) = grid()
    skull = (np.hypot(x, y) <= 30) & (z > 20) & (z < 36)
    mandible = (np.hypot(x, y - 20) <= 14) & (z > 0) & (z < 10)
    bare, with_neck = distance_about(skull | mandible), distance_about(skull | mandible, mandible)
    lowest = np.s_[:, :, 0]
    assert (with_neck <= bare + 1e-4).all()
    assert (with_neck[lowest] < 0).sum() > (bare[lowest] < 0).sum() + 50
    i, j = np.nonzero((with_neck[lowest] < 0) & (bare[lowest] > 0))
    assert abs(x[:, 0, 0][i].mean()) < 2.0
    assert y[0, :, 0][j].mean() < 10.0
    assert np.allclose(with_neck[:, :, 40:], bare[:, :, 40:], atol=0.5)


def test_fine_voxels_see_the_same_head():
    label = drawn_map()
    fine = skin_distance(label > 0, label == 2, AFFINE)
    half = AFFINE @ np.diag([2.0, 2.0, 2.0, 1.0])
    half[:3, 3] = moved(AFFINE, [0.5, 0.5, 0.5])
    blocks = label.reshape(32, 2, 32, 2, 32, 2)
    coarse = skin_distance((blocks > 0).any((1, 3, 5)), (blocks == 2).any((1, 3, 5)), half)
    mean = torch.nn.functional.avg_pool3d(fine[None], 2)[0]
    assert float((mean - coarse).abs().mean()) < 0.6


def test_a_tilted_map_has_an_upright_neck(column):
    """The levels are the world's: turned by a right angle about i, the same bones end elsewhere."""
    affine, _ = grid()
    turned = affine[:, [0, 2, 1, 3]]
    distance = skin_distance(column.transpose(0, 2, 1), np.zeros_like(column), turned).numpy()
    assert np.allclose(distance.transpose(0, 2, 1), distance_about(column), atol=1e-3)


def test_axes_of_any_length():
    """The last voxels of a grid that its coarse one does not divide."""
    bones = np.zeros((33, 18, 25), dtype=bool)
    bones[10:20, 6:12, 5:20] = True
    affine = np.diag([0.7, 1.3, 0.9, 1.0])
    distance = skin_distance(bones, bones, affine)
    assert distance.shape == bones.shape
    assert bool(torch.isfinite(distance).all())
    assert float(distance[15, 9, 12]) < -FLESH_MM
