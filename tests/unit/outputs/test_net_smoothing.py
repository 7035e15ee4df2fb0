"""Steps between voxels go, the shape stays."""

import numpy as np
import pytest

from bertswin_ext.outputs.net_smoothing import REACH_VOX, smoothed
from bertswin_ext.outputs.surface_nets import surface_net


def ball(radius, size=49):
    axes = np.meshgrid(*(np.arange(size) - size // 2 - 0.3,) * 3, indexing="ij")
    return np.sqrt(sum(axis**2 for axis in axes)) <= radius


def slope(rise, size=60):
    i, _, k = np.ogrid[:size, :size, :20]
    return np.broadcast_to(k < 6 + rise * i, (size, size, 20))


def inner(places, low=14, high=45):
    return places[((places[:, :2] > low) & (places[:, :2] < high)).all(axis=1) & (places[:, 2] > 3)]


def test_a_ball_gets_round_and_keeps_its_size():
    net = surface_net(ball(20))
    radii = np.linalg.norm(smoothed(net) - (24 + 0.3), axis=1)
    assert radii.mean() == pytest.approx(20, abs=0.05)
    assert radii.std() < 0.1
    assert np.linalg.norm(net.corners_vox - (24 + 0.3), axis=1).std() > 0.4


@pytest.mark.parametrize("rise", [0.0, 0.2, 0.3])
def test_a_slope_gets_flat(rise):
    places = inner(smoothed(surface_net(slope(rise))))
    heights = places[:, 2] - rise * places[:, 0]
    assert len(places) > 900
    assert heights.std() < 0.1
    steps = rise * np.arange(60)
    assert heights.mean() == pytest.approx(5.5 + (np.ceil(steps.round(6)) - steps).mean(), abs=0.02)


def test_no_vertex_goes_further_than_half_a_voxel():
    net = surface_net(np.random.default_rng(0).random((12, 12, 12)) < 0.3)
    moved = np.abs(smoothed(net) - net.corners_vox)
    assert moved.max() <= REACH_VOX + 1e-6
    assert moved.max() > 0.44


def test_one_voxel_does_not_vanish():
    mask = np.zeros((3, 3, 3), dtype=bool)
    mask[1, 1, 1] = True
    places = smoothed(surface_net(mask))
    assert np.allclose(places.mean(axis=0), 1)
    assert (np.abs(places - 1) > 0.04).all()


def test_a_gap_of_one_voxel_stays_open():
    mask = np.ones((33, 33, 9), dtype=bool)
    mask[:, :, 4] = False
    places = smoothed(surface_net(mask))
    middle = places[((places[:, :2] > 10) & (places[:, :2] < 22)).all(axis=1)]
    gap = middle[(middle[:, 2] > 2) & (middle[:, 2] < 6), 2]
    assert sorted(set(gap.round(1).tolist())) == [3.5, 4.5]


def test_an_empty_net():
    assert smoothed(surface_net(np.zeros((3, 3, 3), dtype=bool))).shape == (0, 3)
