import pytest
import torch

from bertswin_ext.deployment.joint_peak import peak_of


def bump(center, height=8.0, size=(12, 13, 14), sigma=1.0):
    """Scores with a Gaussian bump."""
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in size), indexing="ij")
    distance = sum((a - c) ** 2 for a, c in zip(axes, center, strict=True))
    return (height - 0.5 * distance / sigma**2).float()


@pytest.mark.parametrize("center", [(5.0, 6.0, 7.0), (5.3, 6.4, 6.8)])
def test_the_place_is_finer_than_the_voxels(center):
    index, probability = peak_of(bump(center), spacing_mm=4.0)
    assert index == pytest.approx(center, abs=0.1)
    assert probability > 0.85


def test_a_peak_at_the_edge_is_inside():
    index, _ = peak_of(bump((0.0, 12.0, 13.0)), spacing_mm=4.0)
    assert all(0 <= i <= n for i, n in zip(index, (11, 12, 13), strict=True))


@pytest.mark.parametrize(("height", "probability"), [(0.0, 0.5), (-40.0, 0.0), (3.0, 0.9526)])
def test_probability_is_against_nowhere(height, probability):
    scores = torch.full((9, 9, 9), -60.0)
    scores[4, 4, 4] = height
    assert peak_of(scores, 4.0)[1] == pytest.approx(probability, abs=1e-4)


def test_two_equal_places_share_the_probability():
    scores = torch.full((20, 9, 9), -60.0)
    scores[3, 4, 4] = scores[16, 4, 4] = 20.0
    index, probability = peak_of(scores, 4.0)
    assert index in [(3.0, 4.0, 4.0), (16.0, 4.0, 4.0)]
    assert probability == pytest.approx(0.5)


def test_scores_beyond_all_numbers_do_no_harm():
    index, probability = peak_of(torch.full((4, 4, 4), -1e30), 4.0)
    assert all(0 <= i <= 3 for i in index)
    assert probability == 0.0
