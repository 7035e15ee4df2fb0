import math

import pytest
import torch

from bertswin_ext.losses.joint_place import JointPlaceLoss, found_share

SIZE = (9, 10, 11)


def target(left, right):
    """A batch of one: place and whether it is shown."""
    return torch.tensor([[left, right]], dtype=torch.float32)


def peak(place, score=40.0):
    scores = torch.full(SIZE, -40.0)
    scores[place] = score
    return scores


def test_a_fresh_network_loses_what_a_guess_loses():
    voxels = math.prod(SIZE)
    scores = torch.full((1, 2, *SIZE), -math.log(voxels))
    loss = JointPlaceLoss(4.0)(scores, target((4.0, 4.0, 4.0, 1.0), (0.0, 0.0, 0.0, 0.0)))
    # somewhere or nowhere: log 2 each; and where, for the one that is shown
    assert float(loss) == pytest.approx((math.log(2) * 2 + math.log(voxels)) / 2, abs=1e-3)


def test_the_right_place_costs_less_than_a_near_one_and_that_less_than_a_far_one():
    axes = torch.meshgrid(*(torch.arange(n) for n in SIZE), indexing="ij")
    wanted = target((4.3, 5.0, 6.0, 1.0), (0.0, 0.0, 0.0, 0.0))

    def loss(i):
        scores = 5.0 - 0.5 * sum((a - c) ** 2 for a, c in zip(axes, (i, 5.0, 6.0), strict=True)) / 0.75**2
        return float(JointPlaceLoss(4.0)(torch.stack([scores, torch.full(SIZE, -40.0)])[None], wanted))

    assert loss(4.3) < loss(4.0) < loss(5.3) < loss(7.0)


def test_a_joint_at_the_edge_of_the_scan_does_not_count():
    scores = torch.randn(1, 2, *SIZE, requires_grad=True)
    loss = JointPlaceLoss(4.0)(scores, target((4.0, 4.0, 4.0, -1.0), (2.0, 2.0, 2.0, 1.0)))
    loss.backward()
    assert float(scores.grad[0, 0].abs().max()) == 0.0
    assert float(scores.grad[0, 1].abs().max()) > 0.0


def test_nothing_that_counts_is_no_loss():
    assert float(JointPlaceLoss(4.0)(torch.randn(1, 2, *SIZE), target((1.0,) * 3 + (-1.0,), (1.0,) * 3 + (-1.0,)))) == 0


def test_training_on_it_finds_the_place():
    scores = torch.zeros(1, 2, *SIZE, requires_grad=True)
    optimizer = torch.optim.Adam([scores], lr=0.5)
    wanted = target((3.0, 4.0, 5.0, 1.0), (0.0, 0.0, 0.0, 0.0))
    for _ in range(40):
        optimizer.zero_grad()
        JointPlaceLoss(4.0)(scores, wanted).backward()
        optimizer.step()
    assert torch.unravel_index(scores[0, 0].argmax(), SIZE) == (3, 4, 5)
    assert float(scores[0, 0].flatten().logsumexp(0).sigmoid()) > 0.95
    assert float(scores[0, 1].flatten().logsumexp(0).sigmoid()) < 0.05


@pytest.mark.parametrize(
    ("left", "right", "share"),
    [
        (peak((4, 4, 4)), peak((0, 0, 0), -40.0), 1.0),
        (peak((4, 4, 6)), peak((0, 0, 0), -40.0), 1.0),  # 8 mm off
        (peak((4, 4, 7)), peak((0, 0, 0), -40.0), 0.5),  # 12 mm off
        (peak((4, 4, 4), -40.0), peak((0, 0, 0), -40.0), 0.5),  # not seen
        (peak((4, 4, 7)), peak((4, 4, 4)), 0.0),  # and one seen that is not there
    ],
)
def test_share_of_right_answers(left, right, share):
    wanted = target((4.0, 4.0, 4.0, 1.0), (0.0, 0.0, 0.0, 0.0))
    assert float(found_share(torch.stack([left, right])[None], wanted, spacing_mm=4.0)) == share


def test_sizes_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"`spacing_mm` and `sigma_mm` must be above 0 mm, got 4\.0 and 0\."):
        JointPlaceLoss(4.0, 0)
