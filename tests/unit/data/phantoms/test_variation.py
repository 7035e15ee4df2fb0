"""Semi-synthetic scans that differ: shape, density, sharpness and noise."""

import numpy as np
import pytest
import torch

from bertswin_ext.data.phantoms.jaw_map import read_jaw_map
from bertswin_ext.data.phantoms.semi_synthetic import make_semi_synthetic
from bertswin_ext.data.phantoms.variation import Variation, blurred, deformed, regridded, thinned
from bertswin_ext.geometry import moved
from tests.unit.data.phantoms.drawn_jaw import HALF_AFFINE, half_map

CLEAN = {"noise": False, "artefacts": False}


@pytest.fixture(scope="module")
def jaw():
    return read_jaw_map(half_map(), HALF_AFFINE)


def coded(size, axis):
    """A jaw whose label tells the index along an axis."""
    index = np.broadcast_to(
        np.expand_dims(np.arange(size, dtype=np.uint8), [a for a in range(3) if a != axis]), [size] * 3
    )
    jaw = read_jaw_map(np.ones((size,) * 3, np.uint8), np.eye(4))
    return type(jaw)(index, index > size, index > size, np.eye(4))


# ---- shape


def test_without_deformation_the_map_stays_and_nothing_is_drawn(jaw):
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    assert deformed(jaw, 0.0, rng) is jaw
    assert rng.bit_generator.state == before


def test_the_seed_decides_on_the_shape(jaw):
    first, again, other = (deformed(jaw, 2.0, np.random.default_rng(seed)).label for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, jaw.label)
    assert 0.5 < (first > 0).sum() / (jaw.label > 0).sum() < 2.0


def test_teeth_and_canal_go_where_their_bone_goes(jaw):
    other = deformed(jaw, 2.0, np.random.default_rng(1))
    for mask in (other.tooth, other.canal):
        assert mask.any()
        assert (other.label[mask] > 0).all()
    assert np.array_equal(other.affine, jaw.affine)
    assert (other.label.dtype, other.tooth.dtype) == (np.uint8, np.bool_)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_axis_moves_by_millimetres_and_does_not_fold(axis):
    jaw = coded(96, axis)
    moves = []
    for seed in range(4):
        index = deformed(jaw, 3.0, np.random.default_rng(seed)).label.astype(int)
        moves.append(index - jaw.label)
        inner = np.diff(np.moveaxis(index, axis, -1)[..., 16:-16], axis=-1)
        assert inner.min() >= 0
    middle = np.stack(moves)[:, 32:64, 32:64, 32:64]
    assert 1.0 < np.sqrt(np.mean(middle.astype(float) ** 2)) < 6.0


def test_millimetres_are_millimetres_on_any_grid():
    """The larger the voxels, the fewer of them a displacement is."""

    def mean_move(mm):
        jaw = coded(48, 0)
        jaw = type(jaw)(jaw.label, jaw.tooth, jaw.canal, np.diag([mm, 2.0, 2.0, 1.0]))
        moves = [deformed(jaw, 4.0, np.random.default_rng(seed)).label.astype(float) - jaw.label for seed in range(6)]
        return np.sqrt(np.mean(np.stack(moves)[:, 16:32] ** 2))

    assert 2.5 < mean_move(1.0) / mean_move(4.0) < 6.0


# ---- voxels


@pytest.mark.parametrize("mm", [0.5, 1.1, 1.6, 4.0])
def test_other_voxels_hold_what_is_where_they_are(jaw, mm):
    other = regridded(jaw, mm)
    assert other.spacing == pytest.approx([mm] * 3)
    world = moved(other.affine, np.stack(np.indices(other.label.shape), axis=-1))
    index = moved(np.linalg.inv(jaw.affine), world)
    assert index.max() <= 31.5
    assert (index.max(axis=(0, 1, 2)) > 31.5 - mm / 1.6).all()
    # at a tie either neighbour is right
    apart = (np.abs(index % 1 - 0.5) > 1e-6).all(axis=-1)
    i, j, k = np.moveaxis(np.rint(index).astype(int), -1, 0)
    assert np.array_equal(other.label[apart], jaw.label[i, j, k][apart])
    assert np.array_equal(other.tooth[apart], jaw.tooth[i, j, k][apart])
    assert regridded(jaw, None) is jaw


# ---- density and sharpness


def test_only_what_is_dense_is_thinned():
    hu = torch.tensor([-1000.0, 0.0, 100.0, 300.0, 2100.0])
    assert thinned(hu, 0.5).tolist() == [-1000.0, 0.0, 100.0, 200.0, 1100.0]
    assert thinned(hu, 1.0) is hu


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 1.0, 2.0)])
def test_the_blur_has_its_width_along_every_axis(spacing):
    point = torch.zeros(33, 33, 33)
    point[16, 16, 16] = 1.0
    spread = blurred(point, spacing, 1.5)
    assert float(spread.sum()) == pytest.approx(1.0, abs=1e-4)
    for axis, mm in enumerate(spacing):
        weights = spread.sum(dim=[other for other in range(3) if other != axis]).numpy()
        assert np.sqrt(np.sum(weights * ((np.arange(33) - 16) * mm) ** 2)) == pytest.approx(1.5, rel=0.05)


def test_the_ends_are_not_blurred_into_each_other():
    hu = torch.full((8, 8, 8), 40.0)
    hu[:, :, :2] = 1000.0
    soft = blurred(hu, (1.0, 1.0, 1.0), 1.0)
    assert torch.allclose(soft[:, :, -1], torch.tensor(40.0), atol=1e-3)
    assert soft.shape == hu.shape
    assert blurred(hu, (1.0, 1.0, 1.0), 0.0) is hu


# ---- scans


def test_scans_vary_as_told(jaw):
    def scan(seed, **variation):
        return make_semi_synthetic(half_map(), HALF_AFFINE, seed=seed, variation=Variation(**variation), **CLEAN)

    plain = make_semi_synthetic(half_map(), HALF_AFFINE, seed=3, **CLEAN)
    assert np.array_equal(scan(3).image, plain.image)
    thin, soft, other = scan(3, density=(0.5, 0.5)), scan(3, blur_mm=3.0), scan(3, deform_mm=2.0)
    assert thin.image[plain.image > 500].mean() < 0.7 * plain.image[plain.image > 500].mean()
    assert np.abs(np.diff(soft.image, axis=2)).mean() < 0.9 * np.abs(np.diff(plain.image, axis=2)).mean()
    for same in (thin, soft):
        assert np.array_equal(same.label, plain.label)
    assert not np.array_equal(other.label, plain.label)
    # the picture follows the label
    assert other.image[other.label > 0].mean() > 500.0


def test_the_noise_is_drawn_from_its_range():
    def noise(**variation):
        noisy = make_semi_synthetic(half_map(), HALF_AFFINE, artefacts=False, variation=Variation(**variation)).image
        clean = make_semi_synthetic(half_map(), HALF_AFFINE, **CLEAN).image
        return (noisy - clean)[clean > -500].std()

    assert noise(noise_hu=(5.0, 5.0)) == pytest.approx(noise(noise_hu=(50.0, 50.0)) / 10, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"deform_mm": -1.0}, r"`deform_mm` must be from 0 to 6 mm, got -1\.0"),
        ({"deform_mm": 7.0}, r"`deform_mm` must be from 0 to 6 mm, got 7\.0"),
        ({"spacing_mm": 0.0}, r"`spacing_mm` must be a positive number of millimetres, got 0\.0"),
        ({"blur_mm": float("inf")}, "`blur_mm` must be finite and not negative, got inf"),
        ({"noise_hu": (80.0, 5.0)}, r"`noise_hu` must be two numbers, 0 <= smallest <= largest, got \(80\.0, 5\.0\)"),
        ({"noise_hu": (5.0,)}, "`noise_hu` must be two numbers"),
        ({"density": (-0.1, 1.0)}, "`density` must be two numbers"),
    ],
)
def test_messages(arguments, message):
    with pytest.raises(ValueError, match=message):
        Variation(**arguments)
