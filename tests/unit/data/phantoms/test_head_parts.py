from dataclasses import asdict

import numpy as np
import pytest
import torch

from bertswin_ext.data.phantoms.head_parts import draw_head_shape, paint_face, paint_neck, paint_skull, skin
from bertswin_ext.data.phantoms.phantom_anatomy import Points


def grid(edge=6.0):
    axes = [torch.arange(-90.0, 91.0, edge), torch.arange(-120.0, 121.0, edge), torch.arange(-150.0, 145.0, edge)]
    return Points(*torch.meshgrid(*axes, indexing="ij"))


@pytest.fixture(scope="module")
def head():
    return draw_head_shape(np.random.default_rng(4))


def test_a_state_gives_a_head_and_another_another():
    one, same, other = (draw_head_shape(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert all(np.isfinite(np.hstack(list(asdict(one).values()))))


def test_the_joints_are_under_the_skin():
    for seed in range(20):
        head = draw_head_shape(np.random.default_rng(seed))
        places = Points(*torch.tensor([[s * head.joint_x, 0.0, 0.0] for s in (-1, 1)]).T)
        assert float(skin(places, head).max()) < -4


def test_what_is_painted_is_the_same_on_both_sides(head):
    points = grid()
    hu = paint_face(paint_neck(torch.full_like(points.l, 40.0), points, head, 6.0), points, head, 6.0)
    torch.testing.assert_close(hu, hu.flip(0))


def test_a_skull_holds_a_brain(head):
    points = grid()
    hu = paint_skull(torch.full_like(points.l, 40.0), points, head, np.random.default_rng(0), 6.0)
    z = head.cranium_center[2]
    column = hu[15, 20, :]  # through the middle of the head, from below
    height = points.s[15, 20]
    brain = column[(height > z - 15) & (height < z + 30)]
    assert float((brain - head.brain_hu).abs().max()) < 5
    assert float(column[height > z + head.cranium_radii[2] - 12].max()) > 250


def test_teeth_and_throat_are_in_their_places(head):
    points = grid(3.0)
    hu = paint_face(paint_neck(torch.full_like(points.l, 40.0), points, head, 3.0), points, head, 3.0)
    teeth = hu > 0.9 * head.tooth_hu
    assert teeth.any()
    assert float(points.a[teeth].min()) > 15
    assert float(points.s[teeth].max()) < -30
    assert float(points.s[teeth].min()) > -75
