"""A circle through borders of cells, some of them wrong."""

import numpy as np
import pytest

from bertswin_ext.data.preparation.fov_circle import depths_mm, fit_circle, separate


def on_circle(u, v, radius, start_deg=0.0, stop_deg=360.0, count=200, noise_mm=0.0):
    angles = np.radians(np.linspace(start_deg, stop_deg, count))
    points = np.stack([u + radius * np.cos(angles), v + radius * np.sin(angles)], axis=-1)
    return points + noise_mm * np.random.default_rng(0).standard_normal(points.shape)


def crossing_pairs(circle, size=64, cell_mm=1.0):
    """Neighbouring cells of a plane between which a circle runs, the inner one first."""
    cells = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), axis=-1) * cell_mm
    inside = np.linalg.norm(cells - circle[:2], axis=-1) <= circle[2]
    pairs = []
    for step in ((1, 0), (0, 1)):
        for i, j in np.ndindex(size - step[0], size - step[1]):
            a, b = (i, j), (i + step[0], j + step[1])
            if inside[a] != inside[b]:
                pairs.append((cells[a], cells[b]) if inside[a] else (cells[b], cells[a]))
    return np.array(pairs)


# --- depths ---


def test_depths_are_those_of_the_definition():
    points, circle = np.random.default_rng(0).uniform(-50, 50, (30, 2)), np.array([3.0, -4.0, 20.0])
    assert np.allclose(depths_mm(points, circle), 20.0 - np.hypot(points[:, 0] - 3.0, points[:, 1] + 4.0))


@pytest.mark.parametrize("radius", [400.0, 88.0])
def test_a_square_counts_from_its_nearest_corner(radius):
    points, circle = on_circle(0, 0, radius + 3.0, count=33), np.array([0.0, 0.0, radius])
    corners = points[:, None] + np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
    nearest = np.stack([depths_mm(corner, circle) for corner in np.moveaxis(corners, 1, 0)]).max(axis=0)
    assert np.allclose(depths_mm(points, circle, 2.0), nearest, atol=0.02)


def test_the_centre_itself_is_no_division_by_zero():
    assert depths_mm(np.array([[1.0, 2.0]]), np.array([1.0, 2.0, 5.0]), 1.0).tolist() == [5.0]


# --- fit ---


@pytest.mark.parametrize("stop_deg", [360.0, 180.0, 90.0, 40.0])
def test_points_on_a_circle_give_it_back(stop_deg):
    assert np.allclose(fit_circle(on_circle(5, -7, 88, 20, 20 + stop_deg), 0.4), [5, -7, 88], atol=1e-4)


def test_a_noisy_short_arc_is_not_taken_for_a_smaller_circle():
    """The algebraic circle alone would be 1.9 mm too small here."""
    radii = [
        fit_circle(on_circle(0, 0, 88, 0, 35, 400) + 0.3 * np.random.default_rng(seed).standard_normal((400, 2)), 1)[2]
        for seed in range(20)
    ]
    assert np.mean(radii) == pytest.approx(88, abs=0.7)


def test_a_few_points_elsewhere_play_no_part():
    points = np.concatenate([on_circle(0, 0, 50), np.random.default_rng(1).uniform(-70, 70, (15, 2))])
    assert np.allclose(fit_circle(points, 0.5), [0, 0, 50], atol=0.1)


def test_many_points_elsewhere_are_no_circle():
    points = np.concatenate([on_circle(0, 0, 50), np.random.default_rng(1).uniform(-70, 70, (60, 2))])
    assert fit_circle(points, 0.5) is None


@pytest.mark.parametrize(("arc_deg", "is_found"), [(20.0, False), (30.0, True)])
def test_an_arc_must_be_bent_by_three_cells(arc_deg, is_found):
    """88 mm x (1 - cos(half the arc)): 1.3 mm and 3.0 mm, in cells of 0.95 mm."""
    assert (fit_circle(on_circle(0, 0, 88, 0, arc_deg), 0.95) is not None) == is_found


@pytest.mark.parametrize("direction", [(1.0, 0.0), (0.6, 0.8)])
def test_a_line_is_no_circle(direction):
    assert fit_circle(np.outer(np.arange(100.0), direction), 1.0) is None


def test_a_square_is_no_circle():
    side = np.stack([np.linspace(-40, 40, 81), np.full(81, 40.0)], axis=-1)
    square = np.concatenate([side, -side, side[:, ::-1], -side[:, ::-1]])
    assert fit_circle(square, 1.0) is None


def test_an_oval_is_no_circle():
    assert fit_circle(on_circle(0, 0, 50) * [1.0, 1.2], 1.0) is None


@pytest.mark.parametrize("count", [0, 11])
def test_too_few_points(count):
    assert fit_circle(on_circle(0, 0, 50, count=count), 1.0) is None


def test_squares_are_seen_too_early():
    """Centres of squares whose nearest corner lies on the circle."""
    points = on_circle(0, 0, 50)
    outward = points / 50
    seen = points + outward * 0.5 * abs(outward).sum(axis=1, keepdims=True)
    assert np.allclose(fit_circle(seen, 1.0, 1.0), [0, 0, 50], atol=1e-3)
    assert fit_circle(seen, 1.0)[2] > 50.5


# --- separation ---


@pytest.mark.parametrize("circle", [(30.3, 31.8, 25.1), (-20.4, 33.3, 70.2), (5.5, 5.5, 52.7), (32.2, 90.9, 66.4)])
def test_separation_is_finer_than_the_cells(circle):
    pairs = crossing_pairs(np.array(circle))
    fitted = fit_circle(pairs.mean(axis=1), 1.0)
    moved = separate(pairs, fitted, 1.0)
    assert depths_mm(pairs[:, 0], moved).min() > -0.05
    assert depths_mm(pairs[:, 1], moved).max() < 0.05
    assert np.allclose(moved, circle, atol=0.5)


def test_separation_is_better_than_least_squares():
    errors = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        circle = np.array([rng.uniform(-30, -10), rng.uniform(20, 40), rng.uniform(50, 70)])
        pairs = crossing_pairs(circle)
        fitted = fit_circle(pairs.mean(axis=1), 1.0)
        errors.append([abs(fitted[2] - circle[2]), abs(separate(pairs, fitted, 1.0)[2] - circle[2])])
    before, after = np.median(errors, axis=0)
    assert after < 0.7 * before
    assert after < 0.5


def test_pairs_far_from_the_circle_play_no_part():
    circle = np.array([30.3, 31.8, 25.1])
    pairs = crossing_pairs(circle)
    wrong = np.array([[[10.0, 60.0], [11.0, 60.0]]] * 50)
    assert np.array_equal(separate(np.concatenate([pairs, wrong]), circle, 1.0), separate(pairs, circle, 1.0))
    assert np.array_equal(separate(wrong, circle, 1.0), circle)
