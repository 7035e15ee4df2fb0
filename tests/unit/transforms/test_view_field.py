import numpy as np
import pytest
import torch

from bertswin_ext.transforms.view_field import ViewField, draw_field, seen_depth

EXTENT = 220.0
PLACES = [np.array([60.0, 110.0, 110.0]), np.array([160.0, 110.0, 110.0])]


@pytest.mark.parametrize("is_round", [False, True])
def test_depth_agrees_with_the_voxels_that_are_held(is_round):
    field = ViewField(np.array([20.0, 24.0, 16.0]), np.array([12.0, 9.0, 7.0]), is_round)
    steps = torch.arange(12) * 4.0
    held = field.holds(steps)
    for index in np.ndindex(*held.shape):
        assert bool(held[index]) == (seen_depth(field, np.array(index) * 4.0) >= 0)


@pytest.mark.parametrize("places", [PLACES, PLACES[:1], []])
def test_fields_show_both_joints_one_or_none(places):
    rng = np.random.RandomState(0)
    shown = [sum(seen_depth(draw_field(rng, EXTENT, places), p) > 0 for p in places) for _ in range(300)]
    assert set(shown) == set(range(len(places) + 1))


def test_a_third_of_the_fields_is_the_whole_view():
    rng = np.random.RandomState(1)
    steps = torch.arange(56) * 4.0
    whole = [bool(draw_field(rng, EXTENT, PLACES).holds(steps).all()) for _ in range(300)]
    assert 0.05 < np.mean(whole) < 0.45
