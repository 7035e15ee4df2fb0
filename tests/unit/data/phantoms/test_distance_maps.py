"""Distances from a mask's surface, and the spaces in it."""

import sys

import numpy as np
import pytest
import torch

from bertswin_ext.data.phantoms.distance_maps import (
    MARGIN_VOX,
    bounding_box,
    hollows,
    signed_distance,
    surface_distance,
)

SPACING = (0.5, 1.0, 2.0)


def ball(size, radius_mm, spacing=(1.0, 1.0, 1.0)):
    offsets = (np.indices((size,) * 3).T - size // 2) * spacing
    return (np.linalg.norm(offsets, axis=-1) <= radius_mm).T


def shell(size, near, far):
    """A box with a box taken out of it."""
    mask = np.zeros((size,) * 3, dtype=bool)
    mask[near:-near, near:-near, near:-near] = True
    mask[far:-far, far:-far, far:-far] = False
    return mask


def test_itk_is_not_loaded_as_a_whole():
    """A filter asked of ``itk`` itself brings other parts of the library with it, and takes seconds."""
    before = set(sys.modules)
    hollows(np.ones((8, 8, 8), dtype=bool), (1.0, 1.0, 1.0), 1.0)
    assert not {"itk.itkHistogramPython", "itk.itkImageToPathFilterPython"} & (set(sys.modules) - before)


# ---- boxes


def test_a_box_has_its_margin_inside_the_volume():
    mask = np.zeros((40, 40, 10), dtype=bool)
    mask[10:20, 30:39, 4] = True
    box = bounding_box(mask)
    assert MARGIN_VOX == 6
    assert [(part.start, part.stop) for part in box] == [(4, 26), (24, 45), (0, 11)]
    assert mask[box].sum() == mask.sum()
    assert mask[box].shape == (22, 16, 10)


# ---- distances


def test_distances_are_those_between_the_centres_of_voxels():
    """Against all pairs: outside to the nearest voxel of the mask, inside to the nearest on its edge."""
    mask = ball(9, 3.0, (1.0, 1.0, 1.0))[:, :, 2:]
    mask[0, 8, 0] = True
    padded = np.pad(mask, 1, mode="edge")
    steps = [np.roll(padded, (a, b, c), (0, 1, 2)) for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1)]
    edge = mask & ~np.logical_and.reduce(steps)[1:-1, 1:-1, 1:-1]
    voxels = np.stack(np.indices(mask.shape), axis=-1).reshape(-1, 3) * SPACING
    nearest = np.linalg.norm(voxels[:, None] - voxels[edge.ravel()][None], axis=-1).min(1).reshape(mask.shape)
    expected = np.where(mask, -nearest, nearest)
    found = signed_distance(mask, SPACING)
    assert found.dtype == np.float32
    assert np.allclose(found, expected, atol=1e-5)
    assert found.min() < -0.9
    assert found.max() > 4.0


def test_a_mask_in_any_memory_layout():
    mask = ball(15, 5.0)
    mask[:, :6] = False
    expected = signed_distance(mask, SPACING)
    assert np.array_equal(signed_distance(np.asfortranarray(mask), SPACING), expected)
    assert np.array_equal(signed_distance(mask[::-1], SPACING), expected[::-1])


def test_the_surface_lies_half_a_voxel_beyond_the_outermost_centres():
    mask = np.zeros((12, 12, 30), dtype=bool)
    mask[:, :, :15] = True
    distance = surface_distance(mask, (0.8, 0.8, 0.8))
    assert distance.dtype == torch.float32
    assert distance[6, 6].numpy() == pytest.approx(0.8 * (np.arange(30) - 14.5), abs=0.02)


def test_the_surface_is_smooth_but_not_moved():
    """Along any direction the surface of a drawn ball is where the ball's is."""
    size, radius = 41, 12.5
    offsets = np.linalg.norm(np.indices((size,) * 3) - size // 2, axis=0)
    near = np.abs(offsets - radius) < 1.5
    found = surface_distance(ball(size, radius), (1.0, 1.0, 1.0)).numpy()
    error = (found - (offsets - radius))[near]
    assert abs(error.mean()) < 0.2
    assert error.std() < 0.25


def test_the_spacing_scales_the_distances():
    mask = np.zeros((12, 12, 12), dtype=bool)
    mask[:, :, 6:] = True
    narrow, wide = (surface_distance(mask, (mm, mm, mm)) for mm in (0.4, 0.8))
    assert torch.allclose(wide, 2 * narrow, atol=1e-5)
    assert float(narrow[6, 6, 5]) == pytest.approx(0.2, abs=0.02)


def test_there_is_no_surface_where_the_volume_ends():
    mask = np.zeros((10, 10, 30), dtype=bool)
    mask[:, :, 10:] = True
    distance = surface_distance(mask, (1.0, 1.0, 1.0))
    assert float(distance[:, :, -1].max()) < -15.0
    assert float(distance.std((0, 1)).max()) < 1e-5


# ---- hollows


def test_a_closed_hollow_is_found_and_only_that():
    mask = shell(24, 4, 8)
    found = hollows(mask, (1.0, 1.0, 1.0), gap_mm=2.0)
    assert found.dtype == np.bool_
    assert found[8:16, 8:16, 8:16].all()
    assert found.sum() == 8**3


@pytest.mark.parametrize(("width", "closes"), [(1, True), (3, True), (6, False)])
def test_a_wide_way_out_opens_a_hollow(width, closes):
    mask = shell(32, 4, 10)
    hole = slice(16 - width // 2, 16 - width // 2 + width)
    mask[hole, hole, 22:] = False
    inside = hollows(mask, (1.0, 1.0, 1.0), gap_mm=3.0)[10:22, 10:22, 10:22]
    assert inside.all() if closes else not inside[6, 6].any()


def test_the_gap_is_in_millimetres():
    mask = shell(32, 4, 10)
    mask[15:18, 15:18, 22:] = False
    assert hollows(mask, (0.5, 0.5, 0.5), gap_mm=1.5)[16, 16, 16]
    assert not hollows(mask, (2.0, 2.0, 2.0), gap_mm=1.5)[16, 16, 16]


@pytest.mark.parametrize("mm", [0.3, 0.45, 0.8])
def test_around_a_solid_there_is_no_hollow(mm):
    """Also where its box is narrower than the gap."""
    mask = ball(2 * round(8 / mm) + 13, 8.0, (mm, mm, mm))
    assert not hollows(mask[bounding_box(mask)], (mm, mm, mm), gap_mm=3.0).any()


def test_a_wall_that_the_volume_cuts_goes_on_outside():
    mask = np.zeros((24, 24, 12), dtype=bool)
    mask[4:20, 4:16] = True
    mask[11:14, 8:] = False
    groove = hollows(mask, (1.0, 1.0, 1.0), gap_mm=4.0)
    assert groove[12, 8].all()
    assert (groove == groove[:, :, :1]).all()


def test_a_hollow_that_the_volume_cuts_is_open():
    mask = shell(24, 4, 8)[:, :, :12]
    assert not hollows(mask, (1.0, 1.0, 1.0), gap_mm=2.0).any()
