"""Hounsfield units of a head: every tissue of a label map has its own, and soft tissue lies about the bones."""

import numpy as np
import pytest

from bertswin_ext.data.phantoms.head_tissue import fill_with_tissue
from bertswin_ext.data.phantoms.jaw_map import read_jaw_map
from tests.unit.data.phantoms.drawn_jaw import (
    AFFINE,
    HALF_AFFINE,
    MANDIBLE_HOLLOW,
    SKULL_HOLLOW,
    drawn_map,
    eroded,
    half_map,
)


def filled(label, affine, seed=0):
    return fill_with_tissue(read_jaw_map(label, affine), np.random.default_rng(seed)).numpy()


@pytest.fixture(scope="module")
def jaw():
    return drawn_map()


@pytest.fixture(scope="module")
def image(jaw):
    return filled(jaw, AFFINE)


def test_everything_is_a_function_of_the_generator():
    first, again, other = (filled(half_map(), HALF_AFFINE, seed) for seed in (1, 1, 2))
    assert first.dtype == np.float32
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_bone_has_a_dense_cortex_over_textured_trabeculae(jaw, image):
    for value in (1, 2):
        bone = jaw == value
        # away from the teeth, the canal and the hollows
        clear = np.ones(jaw.shape, dtype=bool)
        clear[:, 30:] = False
        clear[25:39, :, 46:60] = False
        shell, core = bone & ~eroded(bone, 1) & clear, eroded(bone, 3) & clear
        assert 900.0 < np.median(image[shell]) < 1480.0
        assert 300.0 < image[core].mean() < 600.0
        assert image[core].std() > 60.0


def test_surfaces_are_blurred_over_a_voxel_and_a_half(image):
    """From behind the condyle into it: soft tissue, a sixth of cortex, five sixths of cortex."""
    ray = image[24, 8:23, 30]
    first = int(np.flatnonzero(ray > 130.0)[0])
    assert ray[: first - 1].max() < 70.0
    assert 150.0 < ray[first] < 450.0
    assert 900.0 < ray[first + 1] < 1450.0
    assert ray[first + 4 :].max() < 900.0


def test_teeth_are_denser_than_bone_with_enamel_on_the_crown_only(jaw, image):
    lower = jaw == 4
    assert 1750.0 < image[eroded(lower, 3)].mean() < 2100.0
    crown, root = lower.copy(), lower.copy()
    crown[:, :, :28] = False
    root[:, :, 24:] = False
    assert image[crown].max() > image[root].max() + 50.0
    assert 2150.0 < image[crown].max() <= 2500.0


def test_canal_is_soft_and_closed_hollows_are_marrow_or_air(jaw, image):
    assert -50.0 < image[eroded(jaw == 5, 1)].mean() < 200.0
    assert -100.0 < image[28:36, 39:41, 17:19].mean() < 300.0
    assert image[30:34, 20:24, 52:54].mean() < -500.0


def test_air_cells_have_a_cortex_and_marrow_has_none(image):
    """The voxels next to the hollows, deep in the bone; behind marrow there are trabeculae."""
    assert image[27, 20:24, 52:54].mean() > 650.0
    assert image[24:26, 39:41, 17:19].mean() < 600.0


def test_soft_tissue_lies_under_fat_and_skin_in_air(jaw, image):
    far = eroded(jaw == 0, 3) & (eroded(image > -500.0, 2) | (image < -500.0))
    far[SKULL_HOLLOW] = far[MANDIBLE_HOLLOW] = False
    assert image.min() == -1000.0
    tissue = image[far & (image > -200.0)]
    assert tissue.min() > -100.0
    assert tissue.max() <= 60.0
    assert np.mean(tissue < -80.0) > 0.05
    assert 30.0 <= np.percentile(tissue, 90) <= 60.0
    # in front of the chin, at its level: air, skin, fat
    ray = image[32, ::-1, 17]
    assert ray[0] == -1000.0
    skin = int(np.flatnonzero(ray > -500.0)[0])
    assert ray[skin + 1 : skin + 4].max() > 10.0
    assert ray[skin + 3 : skin + 8].min() < -70.0


def test_bone_that_the_map_cuts_goes_on_outside():
    cut = np.full((24, 24, 24), 2, np.uint8)
    whole = np.pad(cut[4:-4, 4:-4, 4:-4], 4)
    at_cut = filled(cut, np.eye(4))[8:16, 8:16, [0, -1]]
    at_surface = filled(whole, np.eye(4))[8:16, 8:16, [4, -5]]
    assert at_cut.mean() < 600.0
    assert at_surface.mean() > 800.0


@pytest.mark.parametrize("value", [1, 2])
def test_about_a_solid_bone_there_is_soft_tissue_only(value):
    """In voxels so fine that the margin of the bone's box is narrower than what closes a hollow."""
    offsets = np.indices((52, 52, 52)) - 25.5
    label = np.where(np.linalg.norm(offsets, axis=0) < 16, value, 0)
    image = filled(label, np.diag([0.25, 0.25, 0.25, 1.0]))
    around = image[eroded(label == 0, 3)]
    assert len(around) > 50000
    assert around.min() > -105.0
    assert around.max() < 65.0


@pytest.mark.parametrize("values", [(1,), (2,), (2, 5), (1, 3)])
def test_a_map_need_not_hold_every_tissue(values):
    label = half_map()
    image = filled(np.where(np.isin(label, values), label, 0), HALF_AFFINE)
    assert np.isfinite(image).all()
    assert (image.max() > 2000.0) == (3 in values)
    assert image.max() > 1000.0
