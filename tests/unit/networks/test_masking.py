import pytest
import torch

from bertswin_ext.networks.masking import choose_visible, visible_where


def visible_map(visible, shape):
    table = torch.zeros(shape, dtype=torch.bool)
    table[visible.sample[visible.live], visible.token[visible.live]] = True
    return table


def test_lowest_noise_stays_visible_in_ascending_order():
    noise = torch.tensor([[0.9, 0.1, 0.5, 0.3], [0.2, 0.8, 0.1, 0.4]])
    visible = choose_visible(noise, 0.5)
    assert visible.sample.tolist() == [0, 0, 1, 1]
    assert visible.token.tolist() == [1, 3, 2, 0]
    assert visible.live.all()


@pytest.mark.parametrize("fixed_length", [False, True])
def test_ratio_counts_valid_tokens(fixed_length):
    torch.manual_seed(0)
    noise = torch.rand(4, 64)
    valid = torch.ones(4, 64, dtype=torch.bool)
    valid[1, 32:] = False
    valid[2, 3:] = False
    valid[3] = False
    visible = visible_map(choose_visible(noise, 0.75, valid, fixed_length=fixed_length), noise.shape)
    assert visible.sum(1).tolist() == [16, 8, 1, 0]
    assert not (visible & ~valid).any()


def test_the_reference_rule_counts_all_tokens():
    noise = torch.rand(1, 64)
    valid = torch.zeros(1, 64, dtype=torch.bool)
    valid[0, :10] = True
    visible = visible_map(choose_visible(noise, 0.75, valid, ratio_of="all"), noise.shape)
    assert visible.sum() == 16
    assert visible[0, :10].all()


def test_the_kept_share_is_computed_exactly():
    valid = torch.zeros(1, 1000, dtype=torch.bool)
    valid[0, :990] = True
    visible = choose_visible(torch.rand(1, 1000), 0.9, valid)
    assert len(visible.token) == int(990 * (1 - 0.9)) == 98


def test_marked_tokens_are_listed():
    marks = torch.tensor([[True, False, True], [False, False, False], [False, True, False]])
    visible = visible_where(marks)
    assert (visible.sample.tolist(), visible.token.tolist()) == ([0, 0, 2], [0, 2, 1])
    assert visible.live.tolist() == [True] * 3
    listed = visible_where(marks, fixed_length=True)
    assert len(listed.token) == 9
    assert torch.equal(visible_map(listed, marks.shape), marks)
