"""What the conductor remembers, and what never enters its memory."""

import copy
import logging
import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from bertswin_ext.optimizers import GradientConductor, LionLARS
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
    through_a_file,
    train,
    values,
)

GOOD, OTHER = [[2.0, 0.0], [-1.0, 1.0]], [[-1.0, 3.0], [1.0, -0.5]]
BAD_VALUES = pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])


class Training:
    """Everything that a checkpoint holds."""

    def __init__(self, seed=0, **kwargs):
        self.network = make_network(seed)
        self.conductor = GradientConductor(self.network, WEIGHTS, accumulation_steps=3, dominance_window=2, **kwargs)
        self.optimizer = LionLARS(self.network.parameters(), lr=0.01)
        parts = [LinearLR(self.optimizer, 0.1, total_iters=2), CosineAnnealingLR(self.optimizer, 6)]
        self.scheduler = SequentialLR(self.optimizer, parts, milestones=[2])

    def parts(self):
        return {
            "model": self.network,
            "optimizer": self.optimizer,
            "lr_scheduler": self.scheduler,
            "conductor": self.conductor,
        }

    def state_dict(self):
        return {name: part.state_dict() for name, part in self.parts().items()}

    def load_state_dict(self, state):
        for name, part in self.parts().items():
            part.load_state_dict(state[name])

    def run(self, batches):
        return train(self.network, self.conductor, self.optimizer, batches, self.scheduler)


def step(point, conductor, optimizer, rows):
    conductor.accumulate(row_losses(point, rows))
    if conductor.conduct():
        optimizer.step()
        return True
    return False


def small_training(**kwargs):
    point = Point(2)
    return point, GradientConductor(point, {"a": 1.0, "b": 1.0}, **kwargs), LionLARS(point.parameters(), lr=0.1)


def with_bad(value):
    return [GOOD[0], [1.0, value]]


@pytest.mark.parametrize("accumulation", ["classic", "stochastic"])
@pytest.mark.parametrize("resolver", ["smooth", "zoned", lambda gramian: 1 / gramian.diagonal()])
@pytest.mark.parametrize("seen", [6, 7, 8], ids=["between steps", "after one batch", "after two"])
def test_a_run_continues_bit_for_bit(accumulation, resolver, seen):
    batches = make_batches(18)
    whole, first, second = (Training(seed, accumulation=accumulation, resolver=resolver) for seed in (0, 0, 9))
    expected = whole.run(batches)
    before = first.run(batches[:seen])
    second.load_state_dict(through_a_file(first.state_dict()))
    assert before + second.run(batches[seen:]) == expected
    assert same(values(second.network), values(whole.network))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_rows_of_other_types_continue_bit_for_bit(dtype):
    batches = make_batches(12)
    whole, first, second = (Training(seed, dtype=dtype) for seed in (0, 0, 9))
    expected = whole.run(batches)
    before = first.run(batches[:5])
    second.load_state_dict(through_a_file(first.state_dict()))
    assert before + second.run(batches[5:]) == expected


@pytest.mark.parametrize("rows", [GOOD, GOOD[:1]], ids=["two tasks", "one task"])
def test_saving_before_the_optimizer_step_does_not_disturb_it(rows):
    point, conductor = conducted(rows)
    before = point.place.grad.clone()
    through_a_file(conductor.state_dict())
    assert torch.equal(point.place.grad, before)


def test_rows_are_saved_only_in_mid_step():
    training = Training()
    training.run(make_batches(3))
    assert training.conductor.state_dict()["bank"]["rows"] is None
    training.run(make_batches(1))
    assert training.conductor.state_dict()["bank"]["rows"].keys() == values(training.network).keys()


def test_previous_rows_of_half_precision_continue_bit_for_bit():
    batches = make_batches(12)
    whole, first, second = (Training(seed, previous_dtype=torch.bfloat16) for seed in (0, 0, 9))
    expected = whole.run(batches)
    before = first.run(batches[:5])
    second.load_state_dict(through_a_file(first.state_dict()))
    assert before + second.run(batches[5:]) == expected
    assert same(values(second.network), values(whole.network))


def test_a_state_that_does_not_say_what_was_summed():
    batches = make_batches(9)
    first, second = Training(0), Training(9)
    first.run(batches[:4])
    state = through_a_file(first.state_dict())
    assert state["conductor"].pop("summed") == []
    second.load_state_dict(state)
    assert second.run(batches[4:]) == first.run(batches[4:])


def test_a_row_that_was_the_sum_of_four_processes_is_their_mean():
    conductor, other = (
        GradientConductor(Point(2), {"a": 1.0, "b": 1.0}, accumulation="stochastic", accumulation_steps=2)
        for _ in range(2)
    )
    point = other.bank.parameters[0]
    other.accumulate({"a": (point * torch.tensor([8.0, 4.0])).sum()})
    conductor.load_state_dict({**through_a_file(other.state_dict()), "summed": [4]})
    assert conductor.bank.rows[:, :2].tolist() == [[2.0, 1.0], [0.0, 0.0]]


def test_a_state_may_change_its_resolver():
    first, second = Training(), Training(resolver=lambda gramian: torch.ones(len(gramian)))
    first.run(make_batches(4))
    second.load_state_dict(first.state_dict())
    assert second.run(make_batches(2))[0].weights == dict.fromkeys(WEIGHTS, 1.0)


@BAD_VALUES
def test_a_bad_gradient_changes_nothing(value):
    point, conductor, optimizer = small_training()
    step(point, conductor, optimizer, GOOD)
    before = copy.deepcopy([point.state_dict(), optimizer.state_dict(), conductor.state_dict()])
    assert not step(point, conductor, optimizer, with_bad(value))
    assert point.place.grad is None
    after = [point.state_dict(), optimizer.state_dict(), conductor.state_dict()]
    assert torch.equal(after[0]["place"], before[0]["place"])
    assert torch.equal(after[1]["state"][0]["momentum_buffer"], before[1]["state"][0]["momentum_buffer"])
    assert after[2]["arbiter"] == before[2]["arbiter"]
    assert same(after[2]["bank"]["previous"], before[2]["bank"]["previous"])


@BAD_VALUES
def test_a_bad_gradient_is_counted_and_named(value, caplog):
    point, conductor, optimizer = small_training()
    step(point, conductor, optimizer, GOOD)
    with caplog.at_level(logging.WARNING):
        step(point, conductor, optimizer, with_bad(value))
    assert caplog.messages == ["step 2 skipped: the gradient of 'b' is not finite"]
    assert (conductor.num_steps, conductor.num_skipped) == (2, 1)
    assert conductor.last_step.is_skipped
    assert conductor.last_step.not_finite == ("b",)
    assert conductor.last_step.scalars() == {"skipped_steps": 1.0}


@BAD_VALUES
@pytest.mark.parametrize("resolver", ["smooth", "zoned", lambda gramian: torch.ones(2)])
def test_the_run_goes_on_as_without_the_bad_step(value, resolver):
    found = []
    for steps in ([GOOD, OTHER, GOOD], [GOOD, with_bad(value), OTHER, GOOD]):
        point, conductor, optimizer = small_training(resolver=resolver)
        for rows in steps:
            step(point, conductor, optimizer, rows)
        found.append((point.place.tolist(), conductor.last_step.weights, conductor.last_step.norm_averages))
    assert found[0] == found[1]


def test_a_bad_batch_spoils_its_step_only():
    point, conductor, _ = small_training(accumulation_steps=2)
    for rows in (with_bad(float("nan")), GOOD):
        is_complete = conductor.accumulate(row_losses(point, rows))
    assert is_complete
    assert not conductor.conduct()
    assert [conductor.accumulate(row_losses(point, GOOD)) for _ in range(2)] == [False, True]
    assert conductor.conduct()


def test_a_single_task_is_guarded_too():
    point = Point(2)
    conductor = GradientConductor(point, {"a": 1.0})
    conductor.accumulate(row_losses(point, [[1.0, float("nan")]]))
    assert not conductor.conduct()
    assert point.place.grad is None


def test_too_many_bad_steps_end_the_training():
    point, conductor, optimizer = small_training()
    for _ in range(9):
        step(point, conductor, optimizer, with_bad(float("nan")))
    with pytest.raises(
        ValueError,
        match=r"10 steps in a row were skipped because the gradient of 'b' was not finite\. Lower the learning rate",
    ):
        step(point, conductor, optimizer, with_bad(float("nan")))
    assert conductor.num_skipped == 10


def test_a_good_step_resets_the_count():
    point, conductor, optimizer = small_training(max_skipped_steps=3)
    for _ in range(4):
        for rows in (with_bad(float("nan")), with_bad(float("nan")), GOOD):
            step(point, conductor, optimizer, rows)
    assert (conductor.num_steps, conductor.num_skipped) == (12, 8)


def test_the_count_in_a_row_is_part_of_the_state():
    point, conductor, optimizer = small_training(max_skipped_steps=2)
    step(point, conductor, optimizer, with_bad(float("nan")))
    other_point, other, other_optimizer = small_training(max_skipped_steps=2)
    other.load_state_dict(through_a_file(conductor.state_dict()))
    with pytest.raises(ValueError, match=r"^2 steps in a row"):
        step(other_point, other, other_optimizer, with_bad(float("nan")))
    assert (other.num_steps, other.num_skipped) == (2, 2)


@pytest.mark.parametrize(
    ("loss_weights", "kwargs", "message"),
    [
        ({"a": 1.0, "c": 1.0}, {}, r"The state has tasks \['a', 'b'\], this conductor \['a', 'c'\]\. Make the cond"),
        ({"a": 1.0, "b": 1.0}, {"accumulation_steps": 4}, r"has accumulation_steps 2, this conductor 4\."),
        ({"a": 1.0, "b": 1.0}, {"accumulation": "stochastic"}, r"has accumulation classic, this conductor stochastic"),
    ],
)
def test_a_state_of_another_conductor(loss_weights, kwargs, message):
    state = GradientConductor(Point(2), {"a": 1.0, "b": 1.0}, accumulation_steps=2).state_dict()
    conductor = GradientConductor(Point(2), loss_weights, **{"accumulation_steps": 2, **kwargs})
    with pytest.raises(ValueError, match=message):
        conductor.load_state_dict(state)


def test_a_state_of_another_model():
    state = GradientConductor(Point(2), {"a": 1.0}).state_dict()
    with pytest.raises(ValueError, match=r"parameters that differ: 1, first place \(2,\), here \(3,\)\."):
        GradientConductor(Point(3), {"a": 1.0}).load_state_dict(state)


def test_gradients_are_gone_while_the_next_ones_come_in():
    network = make_network()
    conductor = GradientConductor(network, WEIGHTS, accumulation_steps=2)
    batches = make_batches(3)
    train(network, conductor, torch.optim.SGD(network.parameters(), lr=0.1), batches[:2])
    assert all(gradient is not None for gradient in gradients(network).values())
    conductor.accumulate(losses_of(network, batches[2]))
    assert all(gradient is None for gradient in gradients(network).values())


def test_a_resolver_that_failed_leaves_nothing_behind():
    point = Point(2)
    answers = iter([torch.ones(3), torch.ones(2)])
    conductor = GradientConductor(point, {"a": 1.0, "b": 1.0}, resolver=lambda gramian: next(answers))
    conductor.accumulate(row_losses(point, [[1.0, 0.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="must return 2 finite weights"):
        conductor.conduct()
    conductor.accumulate(row_losses(point, [[1.0, 0.0], [0.0, 1.0]]))
    assert conductor.conduct()
    assert point.place.grad.tolist() == [1.0, 1.0]


def test_a_gradient_that_waits_is_gone_after_loading():
    point, conductor = conducted([[1.0, 0.0], [0.0, 1.0]])
    state = through_a_file(conductor.state_dict())
    assert point.place.grad is not None
    conductor.load_state_dict(state)
    assert point.place.grad is None


def test_overflows_of_scaled_losses_do_not_end_the_training():
    point = Point(2)
    conductor = GradientConductor(point, {"a": 1.0}, max_skipped_steps=2)
    for scale in (2.0**16, 2.0**15, 2.0**14, 1.0):
        conductor.accumulate({"a": point.place.sum() * math.inf})
        assert not conductor.conduct(scale)
    assert conductor.num_skipped == 4
    conductor.accumulate({"a": point.place.sum() * math.inf})
    with pytest.raises(ValueError, match="2 steps in a row were skipped"):
        conductor.conduct()


@pytest.mark.parametrize("state", [{}, {"0.weight": torch.zeros(1)}])
def test_a_state_that_is_none_of_a_conductor(state):
    _, conductor = conducted([[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match=r"The state of a conductor must have .*tasks, found"):
        conductor.load_state_dict(state)


def test_a_model_that_was_frozen_altogether():
    point = Point(2)
    conductor = GradientConductor(point, {"a": 1.0})
    point.place.requires_grad_(False)
    with pytest.raises(ValueError, match="has no trainable parameter any more"):
        conductor.accumulate({"a": (point.place * torch.ones(2, requires_grad=True)).sum()})
