"""Connected parts, against a flood fill."""

from itertools import product

import numpy as np
import pytest

from bertswin_ext.connected_parts import connected_parts, largest_part


def flooded(mask):
    """Parts as sets of voxels, found one voxel at a time."""
    left, parts = {tuple(index) for index in np.argwhere(mask).tolist()}, set()
    while left:
        part, new = set(), [left.pop()]
        while new:
            voxel = new.pop()
            part.add(voxel)
            near = {tuple(np.add(voxel, step).tolist()) for step in product((-1, 0, 1), repeat=3)} & left
            left -= near
            new += near
        parts.add(frozenset(part))
    return parts


def found(mask):
    numbers, voxels = connected_parts(mask), np.argwhere(mask)
    return {frozenset(map(tuple, voxels[numbers == number].tolist())) for number in np.unique(numbers)}


@pytest.mark.parametrize("share", [0.03, 0.1, 0.5])
@pytest.mark.parametrize("shape", [(9, 10, 11), (1, 17, 5), (2, 2, 40)])
def test_the_parts_are_those_of_a_flood_fill(share, shape):
    mask = np.random.default_rng(0).random(shape) < share
    assert found(mask) == flooded(mask)


@pytest.mark.parametrize("step", [step for step in product((-1, 0, 1), repeat=3) if any(step)])
def test_every_neighbour_is_connected(step):
    mask = np.zeros((3, 3, 3), dtype=bool)
    mask[1, 1, 1] = mask[tuple(np.add(1, step))] = True
    assert len(found(mask)) == 1


def test_opposite_borders_do_not_touch():
    mask = np.zeros((4, 4, 4), dtype=bool)
    mask[:, :, [0, 3]] = True
    assert len(found(mask)) == 2


def test_a_long_winding_part_is_one():
    mask = np.zeros((41, 41, 1), dtype=bool)
    mask[::2] = True
    mask[1::4, -1] = mask[3::4, 0] = True
    assert len(found(mask)) == 1
    assert len(found(mask[::-1, ::-1])) == 1


@pytest.mark.parametrize("shape", [(4, 4, 4), (0, 4, 4), (0, 0, 0)])
def test_an_empty_mask_has_no_parts(shape):
    assert connected_parts(np.zeros(shape, dtype=bool)).tolist() == []
    assert largest_part(np.zeros(shape, dtype=bool)).shape == shape
    assert not largest_part(np.zeros(shape, dtype=bool)).any()


def test_a_mask_that_is_a_view_gives_the_same():
    mask = np.random.default_rng(1).random((8, 9, 10)) < 0.1
    assert connected_parts(np.asfortranarray(mask)).tolist() == connected_parts(mask).tolist()


@pytest.mark.parametrize("share", [0.07, 0.1, 0.3])
def test_the_largest_part_is_that_of_a_flood_fill(share):
    mask = np.random.default_rng(2).random((12, 9, 10)) < share
    given = mask.copy()
    largest = largest_part(mask)
    expected = max(flooded(mask), key=len)
    assert [len(part) for part in flooded(mask)].count(len(expected)) == 1
    assert frozenset(map(tuple, np.argwhere(largest).tolist())) == expected
    assert largest.dtype == bool
    np.testing.assert_array_equal(mask, given)


def test_of_equal_parts_the_first_is_kept_and_voxels_count_not_runs():
    mask = np.zeros((5, 5, 9), dtype=bool)
    mask[0, 0, :4] = mask[2, 2, 5:9] = True
    assert np.argwhere(largest_part(mask)).tolist() == [[0, 0, k] for k in range(4)]
    mask[4, :3, 0] = True  # three runs of one voxel each
    assert largest_part(mask).sum() == 4
    assert largest_part(mask)[0, 0, :4].all()


def test_the_largest_part_of_a_view():
    mask = np.random.default_rng(3).random((8, 9, 10)) < 0.1
    np.testing.assert_array_equal(largest_part(np.asfortranarray(mask)), largest_part(mask))
