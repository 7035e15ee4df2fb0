"""The nearest pair against all distances."""

import numpy as np
import pytest

from bertswin_ext.outputs import nearest_pair as module
from bertswin_ext.outputs.nearest_pair import nearest_pair


def least(first, second):
    return np.linalg.norm(first[:, None] - second[None], axis=-1).min()


@pytest.mark.parametrize("apart", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_least_of_all_distances(seed, apart):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(300, 3)), rng.normal(size=(200, 3)) * [1, 2, 0.3] + [apart, 0, 0]
    one, other = nearest_pair(first, second)
    assert np.linalg.norm(one - other) == pytest.approx(least(first, second), abs=1e-12)
    assert one in first
    assert other in second


def test_few_distances_are_computed():
    """Two sheets of points that come near each other in one corner: most are left out."""
    i, j = (axis.ravel() * 0.2 for axis in np.meshgrid(np.arange(60), np.arange(60)))
    first, second = np.stack([i, j, 0 * i], 1), np.stack([i, j, 1 + 0.3 * i + 0.2 * j], 1)
    some, others = module._candidates(first, second, first.min(axis=0), 0.5)
    assert 0 < len(some) * len(others) < 0.05 * len(first) * len(second)
    assert np.linalg.norm(np.subtract(*nearest_pair(first, second))) == pytest.approx(least(first, second))


def test_large_clouds_are_compared_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    first, second = rng.random((50, 3)), rng.random((40, 3))
    monkeypatch.setattr(module, "_MOST_DISTANCES", 100)
    assert np.linalg.norm(np.subtract(*nearest_pair(first, second))) == pytest.approx(least(first, second))


def test_equal_points():
    one, other = nearest_pair([[3, 4, 5]], [[3, 4, 5], [3, 4, 6]])
    assert one.tolist() == other.tolist() == [3, 4, 5]


@pytest.mark.parametrize("second", [np.empty((0, 3)), np.zeros((4, 2))])
def test_what_is_no_cloud_is_refused(second):
    with pytest.raises(ValueError, match=r"Both clouds must be \(n, 3\) with n above 0, got \(1, 3\) and"):
        nearest_pair([[0, 0, 0]], second)
