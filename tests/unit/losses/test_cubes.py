"""Means over cubes, and values laid over their voxels."""

import pytest
import torch
from einops import reduce, repeat

from bertswin_ext.losses.cubes import as_rows, as_volume, cube_means, over_rows


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("dims", [(4, 8, 12), (2, 3, 4, 8, 12)])
def test_means_are_those_of_the_cubes(size, dims):
    x = torch.randn(dims, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = reduce(x, "... (i p) (j q) (k r) -> ... i j k", "mean", p=size, q=size, r=size)
    torch.testing.assert_close(cube_means(x, size), expected)
    swapped = x.transpose(-1, -3)
    torch.testing.assert_close(cube_means(swapped, size), expected.transpose(-1, -3))


def test_rows_are_a_view_and_become_the_volume_again():
    x = torch.randn(2, 4, 6, 8)
    rows = as_rows(x, 2)
    assert rows.shape == (2, 2, 2, 3, 2, 8)
    assert rows.data_ptr() == x.data_ptr()
    assert torch.equal(as_volume(rows), x)


def test_values_lie_over_the_voxels_of_their_cube():
    values = torch.arange(24.0).reshape(1, 2, 3, 4)
    x = torch.zeros(1, 4, 6, 8)
    expected = repeat(values, "b i j k -> b (i p) (j q) (k r)", p=2, q=2, r=2)
    assert torch.equal(as_volume(as_rows(x, 2) + over_rows(values, 2)), expected)


def test_edges_must_be_multiples():
    with pytest.raises(RuntimeError):
        cube_means(torch.zeros(4, 4, 6), 4)
