import numpy as np
import pytest
import torch

from bertswin_ext.data.phantoms.phantom_anatomy import Points
from bertswin_ext.data.phantoms.solids import arch, ellipsoid, painted, plate, rod


def at(*places):
    return Points(*torch.tensor(places, dtype=torch.float32).T)


@pytest.mark.parametrize(
    ("solid", "inside", "surface", "outside"),
    [
        (lambda p: ellipsoid(p, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)), (1, 2, 3), (1, 7, 3), (1, 2, 12)),
        (lambda p: rod(p, (0.0, 0.0, 0.0), (0.0, 0.0, 10.0), (2.0, 4.0)), (0, 0, 5), (3, 0, 5), (0, 0, 15)),
        (lambda p: plate(p, (0.0, 0.0, 1.0), (1.0, 2.0, 3.0)), (0, 0, 0), (0, 2, 0), (0, 0, 5)),
        (lambda p: arch(p, 10.0, 20.0, 40.0, 3.0), (20, 12, 99), (23, 10, 0), (0, 20, 0)),
    ],
)
def test_inside_is_negative_and_outside_positive(solid, inside, surface, outside):
    values = solid(at(inside, surface, outside))
    assert values[0] < -0.9
    assert abs(float(values[1])) < 0.3
    assert values[2] > 0.9


def test_an_arch_is_open_behind():
    assert float(arch(at((20, 5, 0)), 10.0, 20.0, 40.0, 3.0)[0]) > 0


def test_paint_covers_what_is_inside_and_blurs_the_surface():
    x = torch.arange(-4.0, 5.0)
    values = painted(torch.full_like(x, 40.0), 1000.0, x, edge_mm=4.0)
    assert values[0] == 1000.0
    assert values[-1] == 40.0
    assert (np.diff(values.numpy()) <= 0).all()
    assert values[4] == 520.0
