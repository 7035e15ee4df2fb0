import pytest
import torch

from bertswin_ext.networks.bias_table import resize_bias_table

WINDOWS = [((2, 2, 2), (3, 3, 3)), ((3, 3, 3), (2, 2, 2)), ((2, 3, 4), (4, 2, 3)), ((1, 2, 2), (1, 4, 4))]


def offsets(window_size):
    """Relative offsets of the rows of a table over those of the farthest pair: (rows, 3), in [-1, 1]."""
    axes = [torch.linspace(-1, 1, 2 * window - 1) if window > 1 else torch.zeros(1) for window in window_size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)


def test_the_same_window_is_the_same_table():
    table = torch.randn(3 * 5 * 7, 4)
    torch.testing.assert_close(resize_bias_table(table, (2, 3, 4), (2, 3, 4)), table, rtol=0, atol=0)


@pytest.mark.parametrize(("old", "new"), WINDOWS)
def test_a_constant_stays_constant(old, new):
    heads = torch.tensor([1.5, -2.0])
    resized = resize_bias_table(heads.expand(len(offsets(old)), 2), old, new)
    torch.testing.assert_close(resized, heads.expand(len(offsets(new)), 2))


@pytest.mark.parametrize(("old", "new"), WINDOWS)
def test_a_linear_course_stays_linear_and_heads_stay_apart(old, new):
    slopes = torch.tensor([[1.0, 0.5], [-2.0, 0.0], [0.3, 4.0]])
    resized = resize_bias_table(offsets(old) @ slopes, old, new)
    torch.testing.assert_close(resized, offsets(new) @ slopes)


def test_the_table_keeps_its_type():
    assert resize_bias_table(torch.zeros(27, 2, dtype=torch.float64), (2, 2, 2), (3, 3, 3)).dtype == torch.float64


def test_a_table_of_another_window():
    with pytest.raises(
        ValueError, match=r"windows of \(3, 3, 3\) tokens must have 125 rows, got .* \(27, 4\)\. Name the"
    ):
        resize_bias_table(torch.zeros(27, 4), (3, 3, 3), (2, 2, 2))
