import math
import re
from itertools import combinations

import pytest
import torch

from bertswin_ext.optimizers import Thresholds, smooth, stronger, zoned

RESOLVERS = pytest.mark.parametrize("resolver", [smooth, zoned], ids=["smooth", "zoned"])
CRITICAL, MAIN, WEAK = -0.8, -0.5, 0.0


def random_rows(seed, num_tasks, size=6):
    """Rows of different lengths, float64; the more of them in the same space, the more they conflict."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(num_tasks, size, generator=generator, dtype=torch.float64)
    return rows * torch.rand(num_tasks, 1, generator=generator, dtype=torch.float64).mul(4).exp()


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def worst_cosine(vectors):
    return min((cosine(vectors[i], vectors[j]), i, j) for i, j in combinations(range(len(vectors)), 2))


def cut_smoothly(winner, loser, c):
    if c >= MAIN:
        angle = math.pi / 2 * (1 - (c - MAIN) / (WEAK - MAIN))
    elif c > CRITICAL:
        angle = math.pi / 2 + math.pi / 2 * ((c - MAIN) / (CRITICAL - MAIN)) ** 2
    else:
        angle = math.pi
    product = winner @ loser
    return (
        winner - math.sin(angle) * product / (loser @ loser) * loser,
        loser - math.sin(min(angle, math.pi / 2)) * product / (winner @ winner) * winner,
    )


def cut_by_zone(winner, loser, c):
    product = winner @ loser
    if c < CRITICAL:
        return winner, torch.zeros_like(loser)
    projected = loser - product / (winner @ winner) * winner
    return (winner, projected) if c < MAIN else (winner - product / (loser @ loser) * loser, projected)


def resolve_vectors(rows, cut, max_conflicts):
    """The published loop on the vectors themselves, where the longer one wins; also the number of conflicts."""
    vectors = list(rows)
    for count in range(max_conflicts):
        live = [k for k, vector in enumerate(vectors) if vector.norm() > 0]
        if len(live) < 2:
            return vectors, count
        c, i, j = worst_cosine([vectors[k] for k in live])
        if c >= WEAK - 1e-9:
            return vectors, count
        winner, loser = (live[j], live[i]) if vectors[live[j]].norm() > vectors[live[i]].norm() else (live[i], live[j])
        vectors[winner], vectors[loser] = cut(vectors[winner], vectors[loser], c)
    return vectors, max_conflicts


def resolve_counted(resolver, gramian, **kwargs):
    """Weights, and the pairs that were decided."""
    pairs = []

    def arbitrate(mixing, products, i, j):
        pairs.append((i, j))
        return stronger(mixing, products, i, j)

    return resolver(gramian, arbitrate, **kwargs), pairs


@pytest.mark.parametrize(("resolver", "cut"), [(smooth, cut_smoothly), (zoned, cut_by_zone)], ids=["smooth", "zoned"])
@pytest.mark.parametrize("num_tasks", [2, 3, 4, 5])
def test_equals_the_algorithm_on_vectors(resolver, cut, num_tasks):
    num_conflicts = 0
    for seed in range(50):
        rows = random_rows(seed, num_tasks)
        vectors, count = resolve_vectors(rows, cut, 2 * num_tasks)
        expected = torch.stack(vectors).sum(dim=0)
        found = resolver(rows @ rows.T) @ rows
        assert (found - expected).norm() <= 1e-6 * expected.norm(), seed
        num_conflicts += count
    assert num_conflicts > 20


@pytest.mark.parametrize(("resolver", "cut"), [(smooth, cut_smoothly), (zoned, cut_by_zone)], ids=["smooth", "zoned"])
def test_no_conflict_is_left_unless_the_limit_was_reached(resolver, cut):
    solved = 0
    for seed in range(60):
        num_tasks = 2 + seed % 4
        rows = random_rows(seed, num_tasks)
        _, pairs = resolve_counted(resolver, rows @ rows.T)
        vectors, _ = resolve_vectors(rows, cut, len(pairs))
        left = [vector for vector in vectors if vector.norm() > 0]
        assert len(pairs) == 2 * num_tasks or len(left) < 2 or worst_cosine(left)[0] >= WEAK - 2e-6, seed
        solved += 0 < len(pairs) < 2 * num_tasks
    assert solved > 10


SERIOUS = math.sin(math.pi / 2 * (1 + ((-(0.5**0.5) + 0.5) / -0.3) ** 2))
MILD = math.sin(math.pi * 0.1**0.5)


@pytest.mark.parametrize(
    ("rows", "smooth_weights", "zoned_weights"),
    [
        # cosine -0.71: the loser is projected, the winner in part
        ([[2, 0, 0], [-1, 1, 0]], [1.5, 1 + SERIOUS], [1.5, 1.0]),
        # cosine -0.32: both
        ([[1, 0, 0], [-1, 3, 0]], [1 + MILD, 1 + MILD / 10], [2.0, 1.1]),
        # cosine -0.95: the loser, or it is dropped
        ([[1, 0, 0], [-3, 1, 0]], [1.0, 1.3], [0.0, 1.0]),
    ],
    ids=["serious", "mild", "critical"],
)
def test_weights_by_hand(rows, smooth_weights, zoned_weights):
    rows = torch.tensor(rows, dtype=torch.float64)
    assert smooth(rows @ rows.T).tolist() == pytest.approx(smooth_weights, rel=1e-12)
    assert zoned(rows @ rows.T).tolist() == pytest.approx(zoned_weights, rel=1e-12)


def test_frozen_weights():
    rows = torch.tensor([[2.0, 0.0, 0.0], [-1.0, 1.0, 0.0]])
    assert smooth(rows @ rows.T).tolist() == pytest.approx([1.5, 1.7326235], abs=1e-6)


@RESOLVERS
@pytest.mark.parametrize("num_tasks", [1, 2, 5])
def test_orthogonal_gradients_are_left_alone(resolver, num_tasks):
    gramian = torch.diag(torch.arange(1.0, num_tasks + 1))
    assert resolver(gramian).tolist() == [1.0] * num_tasks


@RESOLVERS
@pytest.mark.parametrize("num_tasks", [2, 5])
def test_identical_gradients_are_summed(resolver, num_tasks):
    assert resolver(torch.full((num_tasks, num_tasks), 7.0)).tolist() == [1.0] * num_tasks


@RESOLVERS
def test_the_order_of_the_rows_does_not_matter(resolver):
    for seed in range(20):
        rows = random_rows(seed, 4)
        order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(resolver(rows[order] @ rows[order].T), resolver(rows @ rows.T)[order])


@RESOLVERS
@pytest.mark.parametrize("scale", [2.0**-80, 2.0**80])
def test_the_scale_of_all_rows_does_not_matter(resolver, scale):
    rows = random_rows(3, 4)
    assert torch.equal(resolver(rows @ rows.T * scale), resolver(rows @ rows.T))


@RESOLVERS
def test_a_zero_row_changes_nothing(resolver):
    rows = random_rows(1, 3, size=2)
    weights = resolver(rows @ rows.T)
    assert weights.tolist() != [1.0] * 3
    with_zero = torch.cat([rows[:1], torch.zeros(1, 2, dtype=torch.float64), rows[1:]])
    found = resolver(with_zero @ with_zero.T, max_conflicts=6)
    torch.testing.assert_close(found, torch.cat([weights[:1], torch.ones(1, dtype=torch.float64), weights[1:]]))


@RESOLVERS
def test_zero_rows_only(resolver):
    assert resolver(torch.zeros(3, 3)).tolist() == [1.0] * 3


@RESOLVERS
@pytest.mark.parametrize("limit", [0, 1, 2])
def test_conflicts_are_limited(resolver, limit):
    # three directions 120 degrees apart, and one more against them all
    rows = torch.tensor([[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)], [-1.0, 0.1]], dtype=torch.float64)
    weights, pairs = resolve_counted(resolver, rows @ rows.T, max_conflicts=limit)
    assert len(pairs) == limit
    assert (weights.tolist() == [1.0] * 4) == (limit == 0)


@RESOLVERS
def test_the_worst_pair_comes_first(resolver):
    rows = torch.tensor([[1.0, 0.0], [-0.5, 1.0], [-1.0, 0.3]], dtype=torch.float64)
    _, pairs = resolve_counted(resolver, rows @ rows.T)
    assert pairs[0] == (0, 2)


@pytest.mark.parametrize(("winner", "weights"), [(0, [1.0, 0.0]), (1, [0.0, 1.0])])
def test_the_arbiter_decides_who_is_dropped(winner, weights):
    gramian = torch.tensor([[1.0, -0.9], [-0.9, 1.0]])
    assert zoned(gramian, lambda mixing, products, i, j: winner).tolist() == weights


@RESOLVERS
def test_the_gramian_is_not_changed(resolver):
    gramian = torch.tensor([[1.0, -0.6], [-0.6, 1.0]], dtype=torch.float64)
    before = gramian.clone()
    resolver(gramian)
    assert torch.equal(gramian, before)


@pytest.mark.parametrize(
    ("cosine_", "weights"),
    [(-0.5, [1.5, 1.5]), (-0.5001, [1.5001, 1.0]), (-0.8, [1.8, 1.0]), (-0.8001, [1.0, 0.0])],
)
def test_borders_of_the_zones(cosine_, weights):
    gramian = torch.tensor([[1.0, cosine_], [cosine_, 1.0]], dtype=torch.float64)
    assert zoned(gramian).tolist() == pytest.approx(weights)


@pytest.mark.parametrize("border", [CRITICAL, MAIN])
def test_smooth_has_no_jumps(border):
    below, above = (
        smooth(torch.tensor([[1.0, 2 * c], [2 * c, 4.0]], dtype=torch.float64)) for c in (border - 1e-9, border + 1e-9)
    )
    torch.testing.assert_close(below, above, rtol=0, atol=1e-6)


@RESOLVERS
def test_own_thresholds(resolver):
    gramian = torch.tensor([[1.0, 0.1], [0.1, 1.0]])
    assert resolver(gramian).tolist() == [1.0, 1.0]
    assert max(resolver(gramian, thresholds=Thresholds(-0.8, -0.5, 0.2)).tolist()) < 1


@RESOLVERS
@pytest.mark.parametrize(
    "values",
    [
        (-0.5, -0.8, 0.0),
        (-0.8, -0.5, -0.6),
        (-0.8, -0.8, 0.0),
        (-1.1, -0.5, 0.0),
        (-0.8, -0.5, 1.1),
        (-0.8, -0.5, math.nan),
        (-0.8, -0.5),
        (-0.8, -0.5, -0.2, 0.0),
    ],
)
def test_thresholds_out_of_order(resolver, values):
    found = re.escape(str(values))
    message = rf"three cosines with -1 <= critical < main < weak <= 1, got {found}\. The defaults are -0\.8"
    with pytest.raises(ValueError, match=message):
        resolver(torch.eye(2), thresholds=values)


@RESOLVERS
def test_thresholds_may_be_a_plain_tuple(resolver):
    gramian = torch.tensor([[1.0, -0.6], [-0.6, 1.0]])
    assert torch.equal(resolver(gramian, thresholds=(-0.8, -0.5, 0.0)), resolver(gramian))


@RESOLVERS
@pytest.mark.parametrize("weak", [0.0, 0.3])
def test_a_gradient_of_which_only_rounding_is_left_takes_part_in_nothing(resolver, weak):
    """Opposite gradients: the loser vanishes, and what float32 leaves of it must not be blown up."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        first, third = torch.randn(2, 50, generator=generator)
        rows = torch.stack([first, -0.7 * first * (1 + 1e-4 * torch.randn(50, generator=generator)), third])
        exact = rows.double() @ rows.double().T
        weights = resolver((rows @ rows.T), thresholds=(-0.8, -0.5, weak))
        torch.testing.assert_close(
            weights @ rows.double(), resolver(exact, thresholds=(-0.8, -0.5, weak)) @ rows.double(), rtol=0, atol=1e-3
        )
        assert weights.abs().max() < 4


@RESOLVERS
def test_a_zero_gradient_is_no_conflict_whatever_the_threshold(resolver):
    gramian = torch.diag(torch.tensor([1.0, 0.0]))
    assert resolver(gramian, thresholds=(-0.8, -0.5, 0.5)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("second", "winner"), [(1.0, 0), (4.0, 1), (0.5, 0)])
def test_the_longer_gradient_is_stronger(second, winner):
    assert stronger(torch.eye(2), torch.diag(torch.tensor([1.0, second])), 0, 1) == winner


def test_stronger_looks_at_the_gradients_as_they_are_now():
    mixing = torch.tensor([[0.1, 0.0], [0.0, 1.0]])
    assert stronger(mixing, torch.diag(torch.tensor([4.0, 1.0])), 0, 1) == 1
