import json

import pytest
import torch

from bertswin_ext.optimizers import Arbiter

AS_THEY_ARE = torch.eye(2, dtype=torch.float64)


def rows(*vectors):
    return torch.tensor(vectors, dtype=torch.float64)


def arbiter_after(previous, current, **kwargs):
    """An arbiter that has seen two steps."""
    arbiter = Arbiter(["a", "b"], **kwargs)
    arbiter.observe(previous.norm(dim=1))
    arbiter.close(previous.norm(dim=1))
    arbiter.observe(current.norm(dim=1))
    arbiter.look_back(current @ previous.T)
    return arbiter


def decide(arbiter, current, mixing=AS_THEY_ARE):
    return arbiter.tasks[arbiter.decide(mixing, current @ current.T, 0, 1)]


def decide_often(arbiter, current, count):
    return "".join(decide(arbiter, current) for _ in range(count))


def test_averages_start_at_one_and_decay():
    arbiter = Arbiter(["a", "b"])
    arbiter.observe(torch.tensor([3.0, 0.0], dtype=torch.float64))
    assert arbiter.norm_averages.tolist() == pytest.approx([0.95 + 0.05 * 3, 0.95])
    arbiter.observe(torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert arbiter.norm_averages.tolist() == pytest.approx([0.95 * 1.1 + 0.05, 0.95**2 + 0.05 * 2])


def test_the_relatively_longer_gradient_wins_without_a_past():
    current = rows([1.0, 0.0], [0.0, 2.0])
    arbiter = Arbiter(["a", "b"])
    arbiter.observe(current.norm(dim=1))
    assert decide(arbiter, current) == "b"


def test_strength_is_relative_to_what_is_usual():
    arbiter = Arbiter(["a", "b"])
    for _ in range(200):
        arbiter.observe(torch.tensor([1.0, 100.0], dtype=torch.float64))
    current = rows([3.0, 0.0], [0.0, 100.0])
    arbiter.observe(current.norm(dim=1))
    assert decide(arbiter, current) == "a"


def test_a_steady_gradient_beats_a_strong_one():
    previous, current = rows([1.0, 0.0], [0.0, -50.0]), rows([1.0, 0.0], [0.0, 50.0])
    assert decide(arbiter_after(previous, current), current) == "a"
    assert decide(arbiter_after(previous, current, stability_weight=0.0), current) == "b"


@pytest.mark.parametrize(("margin", "winner"), [(0.001, "a"), (-0.001, "b")])
def test_the_score_by_hand(margin, winner):
    # averages after one step with norms 3 and 5
    strength_a, strength_b = 3 / (0.95 + 0.05 * 3), 5 / (0.95 + 0.05 * 5)
    share_a, share_b = (strength / (strength_a + strength_b) for strength in (strength_a, strength_b))
    # 0.8 * cosine + 0.2 * share_a = 0.2 * share_b
    cosine = 0.25 * (share_b - share_a) + margin
    arbiter = Arbiter(["a", "b"])
    arbiter.close(torch.ones(2, dtype=torch.float64))
    current, previous = rows([3.0, 0.0], [0.0, 5.0]), rows([cosine, (1 - cosine**2) ** 0.5], [1.0, 0.0])
    arbiter.observe(current.norm(dim=1))
    arbiter.look_back(current @ previous.T)
    assert decide(arbiter, current) == winner


def test_turning_back_is_no_worse_than_turning_aside():
    previous, current = rows([1.0, 0.0], [1.0, 0.0]), rows([-1.0, 0.0], [0.0, 1.0])
    assert decide(arbiter_after(previous, current), current) == "a"


def test_scores_are_those_of_the_gradients_as_they_are_now():
    previous, current = rows([1.0, 0.0], [0.0, 1.0]), rows([1.0, 0.0], [1.0, 1.0])
    arbiter = arbiter_after(previous, current, strength_weight=0.0)
    assert decide(arbiter, current) == "a"
    # without b, a is (0, -1), across what it was
    assert decide(arbiter, current, rows([1.0, -1.0], [0.0, 1.0])) == "b"


@pytest.mark.parametrize("length", [0.0, 1.0])
def test_the_first_task_wins_a_tie(length):
    current = rows([length, 0.0], [0.0, length])
    assert decide(arbiter_after(current, current), current) == "a"


@pytest.mark.parametrize(("window", "winners"), [(0, "aaaaaa"), (1, "ababab"), (2, "aabaab"), (3, "aaabaa")])
def test_a_repeated_winner_yields(window, winners):
    current = rows([2.0, 0.0], [0.0, 1.0])
    arbiter = arbiter_after(current, current, dominance_window=window)
    assert decide_often(arbiter, current, 6) == winners


def test_a_state_continues_where_it_was():
    first, second = rows([1.0, 0.0], [0.0, 9.0]), rows([1.0, 0.1], [9.0, 0.0])
    arbiter = arbiter_after(first, first, dominance_window=3)
    decide_often(arbiter, first, 2)
    arbiter.close(first.norm(dim=1))
    other = Arbiter(["a", "b"], dominance_window=3)
    other.load_state_dict(json.loads(json.dumps(arbiter.state_dict())))
    for one in (arbiter, other):
        one.observe(second.norm(dim=1))
        one.look_back(second @ first.T)
    assert torch.equal(other.norm_averages, arbiter.norm_averages)
    assert decide_often(other, second, 5) == decide_often(arbiter, second, 5)


def test_a_state_goes_by_name():
    arbiter = arbiter_after(rows([1.0, 0.0], [0.0, 9.0]), rows([2.0, 0.0], [0.0, 3.0]))
    other = Arbiter(["b", "a"])
    other.load_state_dict(arbiter.state_dict())
    assert other.norm_averages.tolist() == arbiter.norm_averages.flip(0).tolist()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"norm_decay": 1.0}, r"`norm_decay` must be at least 0 and below 1, got 1\.0\. The default is 0\.95\."),
        ({"norm_decay": -0.1}, r"`norm_decay` .* got -0\.1"),
        ({"dominance_window": -1}, r"`dominance_window` must be 0 \(off\) or a number of conflicts, got -1\."),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Arbiter(["a", "b"], **kwargs)
