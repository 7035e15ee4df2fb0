"""Distances between surfaces, counted by hand."""

import numpy as np
import pytest

from bertswin_ext.evaluation.surface_distances import surface_distances_mm, surface_voxels


def cube(start, stop, shape=(12, 12, 12)):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return mask


def test_the_surface_of_a_cube():
    mask = cube((2, 2, 2), (6, 6, 6))
    surface = surface_voxels(mask)
    assert surface.sum() == 4**3 - 2**3
    assert not surface[3:5, 3:5, 3:5].any()
    assert not (surface & ~mask).any()


def test_a_mask_has_a_surface_at_the_end_of_the_volume():
    assert surface_voxels(np.ones((4, 5, 6), dtype=bool)).sum() == 4 * 5 * 6 - 2 * 3 * 4


def test_a_voxel_with_a_hole_at_its_corner_only_is_inside():
    mask = np.ones((5, 5, 5), dtype=bool)
    mask[1, 1, 1] = False
    assert not surface_voxels(mask)[2, 2, 2]
    assert surface_voxels(mask)[1, 1, 2]


def test_a_cube_moved_by_two_voxels():
    """Of the 56 surface voxels 24 lie on the other surface, 4 next to it across j, 12 one and 16 two voxels away."""
    there, back = surface_distances_mm(cube((4, 2, 2), (8, 6, 6)), cube((2, 2, 2), (6, 6, 6)), (0.5, 0.4, 1.0))
    expected = sorted(24 * [0.0] + 4 * [0.4] + 12 * [0.5] + 16 * [1.0])
    assert sorted(there.tolist()) == pytest.approx(expected)
    assert sorted(back.tolist()) == pytest.approx(expected)


def test_directions_are_told_apart():
    """A speck beside a cube is far from it; nothing of the cube is far from what holds it."""
    whole = cube((2, 2, 2), (6, 6, 6))
    speck = whole.copy()
    speck[10, 3, 3] = True
    to_whole, to_speck = surface_distances_mm(speck, whole, (2.0, 1.0, 1.0))
    assert sorted(to_whole.tolist())[-2:] == [0.0, 10.0]  # 5 voxels of 2 mm
    assert to_speck.max() == 0.0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_axis_has_its_own_spacing(axis):
    spacing = (0.3, 0.5, 0.7)
    first = np.zeros((12, 12, 12), dtype=bool)
    first[5, 5, 5] = True
    distances = surface_distances_mm(first, np.roll(first, 3, axis), spacing)
    assert [mm.tolist() for mm in distances] == [[pytest.approx(3 * spacing[axis])]] * 2


def test_arrays_in_fortrans_order():
    masks = cube((4, 2, 2), (8, 5, 9)), cube((2, 2, 2), (6, 6, 6))
    expected = surface_distances_mm(*masks, (0.5, 0.4, 1.0))
    found = surface_distances_mm(*(np.asfortranarray(mask) for mask in masks), (0.5, 0.4, 1.0))
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_distances_are_those_of_monai():
    pytest.importorskip("scipy")
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    generator = np.random.default_rng(0)
    smooth = [generator.normal(size=(14, 12, 10)) for _ in range(2)]
    for _ in range(3):
        smooth = [sum(np.roll(s, d, a) for a in range(3) for d in (-1, 0, 1)) for s in smooth]
    masks = [s > 0 for s in smooth]
    there, back = surface_distances_mm(*masks, (0.4, 0.5, 0.7))
    batches = [torch.from_numpy(mask)[None, None].float() for mask in masks]
    options = {"include_background": True, "spacing": (0.4, 0.5, 0.7)}
    hausdorff = compute_hausdorff_distance(*batches, percentile=95, **options).item()
    average = compute_average_surface_distance(*batches, symmetric=True, **options).item()
    assert max(np.quantile(mm, 0.95) for mm in (there, back)) == pytest.approx(hausdorff, rel=1e-5)
    assert np.concatenate([there, back]).mean() == pytest.approx(average, rel=1e-5)


def test_an_empty_mask_has_no_surface():
    empty = np.zeros((4, 4, 4), dtype=bool)
    with pytest.raises(
        ValueError, match=r"Both masks must have voxels: an empty one has no surface\. Score it as a miss"
    ):
        surface_distances_mm(~empty, empty, (1, 1, 1))


def test_masks_of_two_grids():
    with pytest.raises(ValueError, match=r"on one grid, got \(4, 4, 4\) and \(4, 4, 5\)"):
        surface_distances_mm(np.ones((4, 4, 4), dtype=bool), np.ones((4, 4, 5), dtype=bool), (1, 1, 1))
