"""Slices in space: even or not, holes, and resampling onto a regular grid."""

import numpy as np
import pytest

from bertswin_ext.data.reading.slice_stack import SliceStack, resample


def stack(heights, shear=(0.0, 0.0), size=(6, 5), spacing=(0.5, 0.8)):
    heights = np.asarray(heights, dtype=float)
    origins = np.stack([shear[0] * heights, shear[1] * heights, heights], axis=1) + np.array([1.0, 2.0, 3.0])
    axes = np.eye(3)
    return SliceStack(origins, axes[0], axes[1], np.array(spacing), size)


def test_a_regular_stack_is_even_and_upright():
    regular = stack([0, 2, 4, 6])
    assert regular.is_even()
    assert regular.is_upright()
    assert regular.tilt_deg == 0
    assert regular.gaps_mm == pytest.approx([2, 2, 2])


@pytest.mark.parametrize(
    ("heights", "even"),
    [
        ([0, 1.009, 2, 3], True),
        ([0, 1.02, 2, 3], False),
        ([0, 0.33, 0.67, 1.0], True),  # thirds of a millimetre, written with 2 decimals
        (np.cumsum([0.0] + [1.0] * 100 + [1.019] * 100), False),  # small steps that add up to 0.95 mm
    ],
)
def test_even_means_within_one_percent_or_a_hundredth_of_a_millimetre_of_a_grid(heights, even):
    assert stack(heights).is_even() == even


def test_tilt_is_the_angle_against_the_stacking_direction():
    tilted = stack([0, 1, 2, 3], shear=(0.0, np.tan(np.radians(20.0))))
    assert not tilted.is_upright()
    assert tilted.is_even()
    assert tilted.tilt_deg == pytest.approx(20.0)


@pytest.mark.parametrize(
    ("heights", "numbers", "holes"),
    [
        ([0, 1, 2, 4, 5, 6], None, [2]),
        ([0, 1, 2, 4, 5, 6], [1, 2, 3, 4, 5, 6], [2]),  # numbered again after the loss
        ([0, 1, 3, 5, 6, 7, 8, 9], [1, 2, 4, 6, 7, 8, 9, 10], [1, 2]),  # two losses side by side
        ([0, 1, 2, 3, 5, 7, 9], [1, 2, 3, 4, 5, 6, 7], []),  # 1 mm slices, then 2 mm slices
        ([0, 5, 10, 11, 12], None, []),
        ([0, 4.2, 8.4, 9.5, 16.9, 24.3], None, []),
        ([0, 1, 2, 3], [4, 3, 2, 1], []),
        ([0, 1], None, []),
    ],
)
def test_holes_are_told_from_a_change_of_distance(heights, numbers, holes):
    assert stack(heights).holes(numbers or [None] * len(heights)) == holes


def test_the_grid_starts_and_ends_on_the_first_and_last_slice():
    grid = stack([0, 1, 2, 3, 5.1, 7.2]).grid()
    assert grid.heights_mm[[0, -1]] == pytest.approx([0, 7.2])
    assert grid.spacing_mm == pytest.approx([0.5, 0.8, 7.2 / 7])
    assert grid.size == (6, 5, 8)


def test_the_grid_covers_a_stack_that_drifts_both_ways():
    grid = stack([0, 1, 2, 3], shear=(-0.5, 1.0)).grid()
    # 1.5 mm to the left = 3 voxels, 3 mm down = 3.75 voxels
    assert grid.size == (9, 9, 4)
    assert grid.origin_mm == pytest.approx([-0.5, 2.0, 3.0])


def test_one_bright_voxel_stays_in_its_place():
    tilted = stack([0, 1, 2], shear=(0.5, 0.0))

    def load(index):
        values = np.full((5, 6), -1000, dtype=np.float32)
        values[2, 3] = 100 * (index + 1)
        return values

    values, grid = resample(tilted, load)
    assert values.shape == grid.size[::-1] == (3, 5, 8)
    for index in range(3):  # one voxel of 0.5 mm further per slice
        assert values[index, 2, 3 + index] == 100 * (index + 1)
    assert (values > -1000).sum() == 3


def test_outside_is_air_for_hu_and_the_smallest_value_for_other_numbers():
    tilted = stack([0, 1], shear=(0.5, 0.0))
    values, _ = resample(tilted, lambda _: np.full((5, 6), -700, dtype=np.float32))
    assert values[0, 0, -1] == -1000
    values, _ = resample(tilted, lambda index: np.full((5, 6), 200 + index, dtype=np.float32))
    assert values[0, 0, -1] == 200


def test_every_slice_is_loaded_once():
    calls = []

    def load(index):
        calls.append(index)
        return np.zeros((5, 6), dtype=np.float32)

    resample(stack([0, 1, 2, 5, 8, 11]), load)
    assert calls == [0, 1, 2, 3, 4, 5]
