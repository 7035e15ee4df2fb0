"""What the conductor makes of several gradients."""

import pytest
import torch
from torch import nn

from bertswin_ext.optimizers import Conflict, GradientConductor
from tests.unit.optimizers.small_tasks import (
    WEIGHTS,
    Point,
    conducted,
    gradients,
    losses_of,
    make_batches,
    make_network,
    row_losses,
    same,
    train,
    values,
)

RESOLVERS = pytest.mark.parametrize("resolver", ["smooth", "zoned"])
ACCUMULATIONS = pytest.mark.parametrize("accumulation", ["classic", "stochastic"])
SERIOUS = [[2.0, 0.0, 0.0], [-1.0, 1.0, 0.0]]


def pending(conductor):
    """The rows of a point as they stand."""
    return conductor.bank.state_dict()["rows"]["place"].tolist()


@pytest.mark.parametrize("accumulation_steps", [1, 2, 3, 5, 6])
def test_one_task_is_plain_accumulation(accumulation_steps):
    network, plain = make_network(), make_network()
    conductor = GradientConductor(network, {"far": 1.0}, accumulation_steps=accumulation_steps)
    for x in make_batches(accumulation_steps):
        is_complete = conductor.accumulate({"far": losses_of(network, x)["far"]})
        (losses_of(plain, x)["far"] / accumulation_steps).backward()
    assert is_complete
    assert conductor.conduct()
    assert same(gradients(network), gradients(plain))


@RESOLVERS
@ACCUMULATIONS
def test_the_order_of_the_losses_does_not_matter(resolver, accumulation):
    found = []
    for order in (list(WEIGHTS), list(reversed(WEIGHTS))):
        network = make_network()
        conductor = GradientConductor(
            network,
            {name: WEIGHTS[name] for name in order},
            resolver=resolver,
            accumulation=accumulation,
            accumulation_steps=3,
        )
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
        for x in make_batches(12):
            losses = losses_of(network, x)
            if conductor.accumulate({name: losses[name] for name in order}):
                assert conductor.conduct()
                optimizer.step()
        found.append((values(network), conductor.last_step))
    assert found[0][1].conflicts
    assert found[0][1] == found[1][1]
    assert same(found[0][0], found[1][0])


@RESOLVERS
def test_identical_losses_are_summed_with_their_weights(resolver):
    point, conductor = conducted([[3.0, -4.0]] * 3, {"a": 0.5, "b": 0.25, "c": 2.0}, resolver=resolver)
    assert point.place.grad.tolist() == [3 * 2.75, -4 * 2.75]
    assert conductor.last_step.weights == {"a": 1.0, "b": 1.0, "c": 1.0}


@RESOLVERS
def test_orthogonal_losses_are_summed(resolver):
    point, conductor = conducted([[3.0, 0.0], [0.0, -4.0]], resolver=resolver)
    assert point.place.grad.tolist() == [3.0, -4.0]
    assert conductor.last_step.conflicts == ()


def test_conflicting_losses_by_hand():
    point, conductor = conducted(SERIOUS, {"a": 1.0, "b": 2.0}, resolver="zoned")
    # weighted rows (2, 0), (-2, 2): the longer one, b, wins, and a keeps what is across it
    assert point.place.grad.tolist() == pytest.approx([-1.0, 3.0, 0.0])
    assert conductor.last_step.conflicts == (Conflict("b", "a"),)


def test_four_batches_of_one_equal_one_batch_of_four():
    (batch,) = make_batches(1, size=4)
    found = []
    for pieces in (batch.split(1), [batch]):
        network = make_network()
        conductor = GradientConductor(network, WEIGHTS, accumulation_steps=len(pieces))
        for x in pieces:
            conductor.accumulate(losses_of(network, x))
        assert conductor.conduct()
        assert conductor.last_step.conflicts
        found.append(gradients(network))
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name])


def test_classic_rows_are_means_over_all_batches():
    point = Point(2)
    conductor = GradientConductor(point, {"a": 1.0, "b": 0.5}, accumulation_steps=4)
    for n in range(4):
        conductor.accumulate(row_losses(point, [[1.0, n], [2.0 * n, 4.0]]))
    assert pending(conductor) == [[1.0, 1.5], [1.5, 2.0]]


def test_stochastic_rows_are_means_over_their_own_batches():
    point = Point(2)
    conductor = GradientConductor(point, {"a": 1.0, "b": 0.5}, accumulation_steps=4, accumulation="stochastic")
    for n in range(4):
        conductor.accumulate(row_losses(point, [[1.0, n], [2.0 * n, 4.0]]))
    assert pending(conductor) == [[1.0, 0.5], [2.5, 2.0]]


@pytest.mark.parametrize(("accumulation", "due"), [("classic", ["ab"] * 5), ("stochastic", ["a", "a", "b", "b", "a"])])
def test_due_tasks(accumulation, due):
    point = Point(2)
    conductor = GradientConductor(point, {"b": 1.0, "a": 1.0}, accumulation=accumulation, accumulation_steps=4)
    found = ["".join(conductor.due_tasks)]
    for _ in range(4):
        losses = row_losses(point, [[1.0, 0.0], [0.0, 1.0]])
        conductor.accumulate({task: losses[task] for task in conductor.due_tasks})
        found.append("".join(conductor.due_tasks))
    assert found == due


def test_accumulate_says_when_a_step_is_complete():
    point = Point(1)
    conductor = GradientConductor(point, {"a": 1.0}, accumulation_steps=3)
    assert [conductor.accumulate(row_losses(point, [[1.0]])) for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize(
    ("accumulation", "batches", "expected"),
    [
        ("classic", 1, [[0.0, 1.0], [1.0, 0.0]]),
        ("classic", 3, [[1.0, 1.0], [1.0, 1.0]]),
        ("stochastic", 1, [[0.0, 1.0], [0.0, 0.0]]),
        ("stochastic", 3, [[0.5, 1.0], [1.0, 2.0]]),
    ],
)
def test_an_early_end_averages_over_what_is_there(accumulation, batches, expected):
    point = Point(2)
    conductor = GradientConductor(point, {"a": 1.0, "b": 1.0}, accumulation=accumulation, accumulation_steps=4)
    for n in range(batches):
        assert not conductor.accumulate(row_losses(point, [[n, 1.0], [1.0, n]]))
    assert conductor.conduct()
    assert conductor.bank.state_dict()["previous"]["place"].tolist() == expected
    assert point.place.grad.tolist() == torch.tensor(expected).sum(dim=0).tolist()


def test_a_step_after_an_early_end_is_a_whole_one():
    point = Point(2)
    conductor = GradientConductor(point, {"a": 1.0}, accumulation_steps=2)
    conductor.accumulate(row_losses(point, [[8.0, 8.0]]))
    conductor.conduct()
    assert [conductor.accumulate(row_losses(point, [[n, 1.0]])) for n in (2.0, 4.0)] == [False, True]
    assert conductor.conduct()
    assert point.place.grad.tolist() == [3.0, 1.0]


def test_a_cap_shortens_what_is_longer():
    point, conductor = conducted([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]], norm_cap=2.0)
    assert point.place.grad.tolist() == pytest.approx([1.2, 1.6, 1.0])
    assert conductor.last_step.norms == {"a": 5.0, "b": 1.0}


def test_a_cap_does_not_change_directions():
    point = Point(3)
    conductor = GradientConductor(point, {"a": 1.0, "b": 1.0}, resolver="zoned", norm_cap=1.0)
    # a turns by 60 degrees, b stays
    for a in ([20.0, 0.0, 0.0], [10.0, 300**0.5, 0.0]):
        conductor.accumulate(row_losses(point, [a, [0.0, -0.9, 0.0]]))
        conductor.conduct()
    assert conductor.last_step.conflicts == (Conflict("b", "a"),)
    assert conductor.last_step.weights == {"a": 0.0, "b": 1.0}


def test_a_cap_holds_for_a_single_task():
    point, _ = conducted([[3.0, 4.0]], norm_cap=2.0)
    assert point.place.grad.tolist() == pytest.approx([1.2, 1.6])


def test_an_own_resolver_gets_the_gramian_of_the_weighted_gradients():
    seen = []

    def halves(gramian):
        seen.append(gramian.clone())
        return torch.tensor([0.5, 0.0])

    point, conductor = conducted(SERIOUS, {"a": 1.0, "b": 2.0}, resolver=halves)
    assert torch.equal(seen[0], torch.tensor([[4.0, -4.0], [-4.0, 8.0]], dtype=torch.float64))
    assert point.place.grad.tolist() == [1.0, 0.0, 0.0]
    assert conductor.last_step.weights == {"a": 0.5, "b": 0.0}


def test_an_own_resolver_gets_capped_gradients():
    seen = []
    conducted([[4.0, 0.0], [0.0, 1.0]], norm_cap=2.0, resolver=lambda gramian: seen.append(gramian) or torch.ones(2))
    assert seen[0].tolist() == [[4.0, 0.0], [0.0, 1.0]]


def test_own_thresholds_and_limits():
    assert conducted([[1.0, 0.0], [-1.0, 3.0]], thresholds=(-0.9, -0.8, -0.5))[1].last_step.conflicts == ()
    assert conducted(SERIOUS, max_conflicts=0)[1].last_step.conflicts == ()


def test_a_step_in_numbers():
    _, conductor = conducted(SERIOUS)
    step = conductor.last_step
    assert (step.step, step.num_skipped, step.is_skipped) == (1, 0, False)
    assert step.norms == pytest.approx({"a": 2.0, "b": 2**0.5})
    assert step.norm_averages == pytest.approx({"a": 1.05, "b": 0.95 + 0.05 * 2**0.5})
    assert step.cosines == pytest.approx({("a", "b"): -(0.5**0.5)})
    assert step.weights == pytest.approx({"a": 1.5, "b": 1.7326235})
    assert step.conflicts == (Conflict("a", "b"),)
    assert step.scalars()["wins/a"] == 1.0


def test_a_steady_gradient_wins_against_a_strong_one():
    point = Point(3)
    conductor = GradientConductor(point, {"a": 1.0, "b": 1.0}, resolver="zoned")
    for strong in ([0.0, 0.0, 9.0], [-6.0, 7.0, 0.0]):
        conductor.accumulate(row_losses(point, [[2.0, 0.0, 0.0], strong]))
        conductor.conduct()
    assert conductor.last_step.conflicts == (Conflict("a", "b"),)


def test_a_repeated_winner_yields():
    point = Point(3)
    conductor = GradientConductor(point, {"a": 1.0, "b": 1.0}, resolver="zoned", dominance_window=2)
    winners = ""
    for _ in range(4):
        conductor.accumulate(row_losses(point, SERIOUS))
        conductor.conduct()
        winners += conductor.last_step.conflicts[0].winner
    assert winners == "aaba"


def test_shared_and_separate_graphs():
    found = []
    for separate in (False, True):
        network = make_network()
        conductor = GradientConductor(network, WEIGHTS)
        (x,) = make_batches(1)
        losses = {name: losses_of(network, x)[name] for name in WEIGHTS} if separate else losses_of(network, x)
        conductor.accumulate(losses)
        assert conductor.conduct()
        found.append(gradients(network))
    assert same(*found)


def test_graphs_are_used_up():
    network = make_network()
    losses = losses_of(network, make_batches(1)[0])
    GradientConductor(network, WEIGHTS).accumulate(losses)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        losses["near"].backward()


@pytest.mark.parametrize(
    ("num_tasks", "resolver"), [(1, "smooth"), (2, lambda gramian: torch.ones(2))], ids=["one task", "own resolver"]
)
def test_previous_rows_are_kept_only_where_somebody_asks_for_them(num_tasks, resolver):
    _, conductor = conducted(SERIOUS[:num_tasks], resolver=resolver)
    assert conductor.state_dict()["bank"]["previous"] is None


def test_the_mode_of_the_network_is_untouched():
    network = nn.Sequential(nn.Linear(5, 3), nn.Dropout(), nn.BatchNorm1d(3))
    network[1].eval()
    before = [module.training for module in network.modules()]
    conductor = GradientConductor(network, WEIGHTS)
    conductor.accumulate(losses_of(network, make_batches(1)[0]))
    conductor.conduct()
    assert [module.training for module in network.modules()] == before


def test_frozen_parameters_stay_without_a_gradient():
    network = make_network()
    network[0].requires_grad_(False)
    train(network, GradientConductor(network, WEIGHTS), torch.optim.SGD(network.parameters(), lr=0.1), make_batches(2))
    assert network[0].weight.grad is None
    assert network[2].weight.grad is not None


def test_a_loss_that_reaches_half_of_the_network():
    network = make_network()
    conductor = GradientConductor(network, {"near": 1.0, "short": 1.0})
    x = make_batches(1)[0]
    conductor.accumulate({"near": losses_of(network, x)["near"], "short": network[0].weight.square().sum()})
    assert conductor.conduct()
    assert not conductor.bank.state_dict()["previous"]["2.weight"][1].any()


# the angles at which neither of two losses gets worse, to first order, if their gradients are equally long
@pytest.mark.parametrize(
    ("resolver", "height"), [("smooth", 0.95), ("smooth", 0.7), ("smooth", 0.5), ("zoned", 0.95), ("zoned", 0.7)]
)
def test_two_conflicting_losses_both_decrease(resolver, height):
    point = Point(3)
    targets = torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    with torch.no_grad():
        # seen from here the two targets are an obtuse angle apart
        point.place.copy_(torch.tensor([0.02, 0.6 * height, 0.8 * height]))
    conductor = GradientConductor(point, {"a": 1.0, "b": 1.0}, resolver=resolver)
    optimizer = torch.optim.SGD(point.parameters(), lr=0.002)
    history = []
    for _ in range(20):
        losses = {task: (point.place - t).square().sum() / 2 for task, t in zip("ab", targets, strict=True)}
        history.append([loss.item() for loss in losses.values()])
        conductor.accumulate(losses)
        assert conductor.conduct()
        assert conductor.last_step.conflicts
        assert (point.place.grad * (point.place.detach() - targets)).sum(dim=1).min() >= -1e-6
        optimizer.step()
    assert all(last < first for first, last in zip(history[0], history[-1], strict=True))
