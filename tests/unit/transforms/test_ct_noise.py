"""Noise has the deviation that density and dose say, and the texture that the filters give."""

import inspect
import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from bertswin_ext.transforms.ct_noise import RandCTNoise, RandCTNoised, correlated_noise
from bertswin_ext.voxels import VOXELS

SMALL = torch.zeros(1, 8, 8, 8)


def noise(seed=0, **arguments):
    return RandCTNoise(**{"prob": 1.0, **arguments}).set_random_state(seed)


def field(shape, sigmas_vox=(1.0, 2.0), mix=0.5, seed=0):
    white = torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))
    return correlated_noise(white, sigmas_vox, mix)


def correlation(values, axis, lag=1):
    """Of voxels with the one `lag` further along an axis."""
    near, far = values.narrow(axis, 0, values.shape[axis] - lag), values.narrow(axis, lag, values.shape[axis] - lag)
    return torch.corrcoef(torch.stack([near.flatten(), far.flatten()]))[0, 1].item()


def test_the_papers_numbers():
    defaults = {name: value.default for name, value in inspect.signature(RandCTNoise).parameters.items()}
    assert defaults == {
        "prob": 0.5,
        "dose_range": (800, 9000),
        "density_per_hu": 0.0015,
        "fine_range_vox": (0.7, 1.2),
        "coarse_range_vox": (1.8, 2.5),
        "mix_range": (0.4, 0.8),
        "electronic": 0.0015,
        "unit_hu": 578.02,
    }
    item = RandCTNoised("image")
    assert item.prob == item.noise.prob == 0.5
    assert vars(item.noise).keys() == vars(RandCTNoise()).keys()
    assert item.noise.electronic_hu == pytest.approx(0.867, abs=1e-3)


@pytest.mark.parametrize("dose", [800, 9000])
@pytest.mark.parametrize("hu", [-1000, 0, 1000, 1500])
def test_deviation_follows_density_and_dose(hu, dose):
    volume = torch.full((1, 96, 96, 96), float(hu))
    added = noise(dose_range=(dose, dose), electronic=0)(volume) - volume
    expected = 578.02 * math.exp(0.0015 * hu) / math.sqrt(dose)
    assert added.std().item() == pytest.approx(expected, rel=0.04)
    assert abs(added.mean().item()) < 0.1 * expected


def test_noise_follows_the_density_of_every_voxel():
    """One field, so that the ratio of neighbouring halves is exact."""
    flat, stepped = torch.zeros(1, 16, 16, 16), torch.zeros(1, 16, 16, 16)
    stepped[:, 8:] = 1000
    transform = noise(electronic=0)
    on_flat = transform(flat)
    added = transform(stepped, randomize=False) - stepped
    torch.testing.assert_close(added[:, :8], on_flat[:, :8])
    torch.testing.assert_close(added[:, 8:], math.exp(1.5) * on_flat[:, 8:], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(("beyond", "end"), [(30000.0, VOXELS.max_hu), (-5000.0, VOXELS.min_hu)])
def test_beyond_the_networks_range_noise_stays_that_of_the_end(beyond, end):
    transform = noise(electronic=0)
    added = [transform(torch.full((1, 8, 8, 8), hu), randomize=hu == end) - hu for hu in (end, beyond)]
    assert added[0].abs().max() > 1
    torch.testing.assert_close(added[0], added[1], atol=0.01, rtol=0)


def test_electronic_noise_is_white_and_everywhere_the_same():
    volume = torch.full((1, 64, 64, 64), -1000.0)
    volume[:, 32:] = 1500
    # a dose at which quantum noise vanishes
    added = noise(dose_range=(1e16, 1e16))(volume) - volume
    for half in added.split(32, dim=1):
        assert half.std().item() == pytest.approx(0.0015 * 578.02, rel=0.02)
    assert max(abs(correlation(added, axis)) for axis in (1, 2, 3)) < 0.02


def test_dose_filters_and_mixture_stay_in_their_ranges_and_dose_is_log_uniform():
    transform = noise()
    doses, fine, coarse, mixes, seeds = [], [], [], [], set()
    for _ in range(1000):
        transform.randomize()
        doses.append(math.log(transform.dose))
        fine.append(transform.sigmas_vox[0])
        coarse.append(transform.sigmas_vox[1])
        mixes.append(transform.mix)
        seeds.add(transform.seed)
    ranges = [(math.log(800), math.log(9000)), (0.7, 1.2), (1.8, 2.5), (0.4, 0.8)]
    for drawn, (low, high) in zip((doses, fine, coarse, mixes), ranges, strict=True):
        share = (np.array(drawn) - low) / (high - low)
        assert 0 <= share.min() < 0.01 < 0.99 < share.max() <= 1
        assert share.mean() == pytest.approx(0.5, abs=0.03)
        assert share.std() == pytest.approx(1 / math.sqrt(12), abs=0.02)
    assert len(seeds) == 1000


@pytest.mark.parametrize("sigma_vox", [0.7, 1.2, 2.5])
@pytest.mark.parametrize("axis", [1, 2, 3])
def test_texture_is_that_of_a_gaussian_filter(sigma_vox, axis):
    """White noise behind a Gaussian filter of deviation s correlates as exp(-d^2 / 4 s^2)."""
    values = field((64, 72, 80), (sigma_vox, 9.0), mix=1.0)
    for lag in (1, 2):
        expected = math.exp(-(lag**2) / (4 * sigma_vox**2))
        assert correlation(values, axis, lag) == pytest.approx(expected, abs=0.03)


def test_the_mixture_is_a_sum_of_independent_fields():
    mix, lag = 0.6, 2
    fine, coarse = (math.exp(-(lag**2) / (4 * sigma**2)) for sigma in (0.7, 2.5))
    expected = (mix**2 * fine + (1 - mix) ** 2 * coarse) / (mix**2 + (1 - mix) ** 2)
    assert correlation(field((96, 96, 96), (0.7, 2.5), mix), 1, lag) == pytest.approx(expected, abs=0.03)


def test_filter_equals_convolution():
    """Against a convolution over the periodic volume, voxel by voxel."""
    white = torch.randn(1, 24, 25, 26, generator=torch.Generator().manual_seed(0))
    offsets = torch.arange(-8, 9)
    kernel = torch.exp(-(offsets**2) / (2 * 1.5**2))
    kernel = kernel / kernel.norm()
    expected = white
    for axis in (1, 2, 3):
        shifted = [w * expected.roll(int(o), axis) for w, o in zip(kernel, offsets, strict=True)]
        expected = torch.stack(shifted).sum(dim=0)
    torch.testing.assert_close(correlated_noise(white, (1.5, 2.0), 1.0), expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 4), (5, 1, 9)])
def test_volumes_smaller_than_the_filter_have_deviation_one(shape):
    """Over many draws; every voxel on its own, also in the corners."""
    white = torch.randn(4000, *shape, generator=torch.Generator().manual_seed(0))
    values = correlated_noise(white, (0.9, 2.2), 0.6)
    assert values.shape == white.shape
    torch.testing.assert_close(values.square().mean(dim=0).sqrt(), torch.ones(shape), atol=0.05, rtol=0)
    assert noise()(torch.zeros(1, *shape)).shape == (1, *shape)


@pytest.mark.parametrize("mix", [0.0, 0.4, 0.8, 1.0])
def test_deviation_one_whatever_the_mixture(mix):
    assert field((96, 96, 96), (0.7, 1.8), mix).std().item() == pytest.approx(1, abs=0.02)


def test_channels_are_independent():
    added = noise()(torch.zeros(2, 64, 64, 64))
    assert abs(torch.corrcoef(added.flatten(1))[0, 1]) < 0.1
    assert added[0].std().item() == pytest.approx(added[1].std().item(), rel=0.2)


def test_repeatable_whatever_else_is_random():
    transform = noise(seed=1)
    first = transform(SMALL)
    assert not torch.equal(transform(SMALL), first)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 - the global state that must not matter
    state = torch.get_rng_state()
    assert torch.equal(transform.set_random_state(1)(SMALL), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(transform.set_random_state(2)(SMALL), first)


def test_prob_decides_how_often_but_not_how():
    often, rarely, never = (noise(prob=prob) for prob in (1.0, 0.5, 0.0))
    kept = 0
    for _ in range(300):
        every, some, none = often(SMALL), rarely(SMALL), never(SMALL)
        same = torch.equal(some, SMALL)
        kept += same
        assert same or torch.equal(some, every)
        assert torch.equal(none, SMALL)
    assert kept / 300 == pytest.approx(0.5, abs=0.08)


def test_the_input_and_its_metadata_are_kept():
    affine = torch.diag(torch.tensor([0.2, 0.2, 0.2, 1.0], dtype=torch.float64))
    hu = MetaTensor(SMALL.clone(), affine=affine, meta={"filename_or_obj": "a.nii"})
    added = noise()(hu)
    assert torch.equal(hu, MetaTensor(SMALL))
    assert isinstance(added, MetaTensor)
    assert added.meta["filename_or_obj"] == "a.nii"
    assert torch.equal(added.affine, affine)
    assert added.abs().max() > 1


@pytest.mark.parametrize("prob", [0.0, 1.0])
@pytest.mark.parametrize("hu", [np.zeros((1, 4, 4, 4), np.int16), SMALL.to(torch.int16)], ids=["numpy", "torch"])
def test_stored_integers_become_a_float32_tensor(hu, prob):
    added = noise(prob=prob)(hu)
    assert type(added) is torch.Tensor
    assert added.dtype == torch.float32
    assert (added.abs().max() == 0) == (prob == 0)
    assert abs(hu).max() == 0


def test_an_item_gets_one_noise_the_same_as_a_volume():
    item = {"image": SMALL, "prior": SMALL.clone(), "label": SMALL}
    arguments = {"dose_range": (800, 800), "mix_range": (0.5, 0.5)}
    result = RandCTNoised(["image", "prior"], prob=1.0, **arguments).set_random_state(4)(item)
    assert set(result) == set(item)
    assert result["label"] is SMALL
    assert torch.equal(result["image"], noise(4, **arguments)(SMALL))
    assert torch.equal(result["prior"], result["image"])
    assert item["image"] is SMALL
    assert SMALL.abs().max() == 0


def test_in_a_chain_items_differ_and_repeat():
    chain = Compose([RandCTNoised("image")])
    runs = []
    for seed in (0, 0, 1):
        chain.set_random_state(seed)
        runs.append([chain({"image": SMALL})["image"] for _ in range(20)])
    assert all(map(torch.equal, runs[0], runs[1]))
    assert not all(map(torch.equal, runs[0], runs[2]))
    kept = sum(torch.equal(image, SMALL) for image in runs[0])
    assert 0 < kept < 20


def test_missing_keys_follow_monai():
    assert RandCTNoised("label", allow_missing_keys=True)({"image": 1}) == {"image": 1}
    with pytest.raises(KeyError, match="label"):
        RandCTNoised("label")({"image": 1})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dose_range": (0, 10)}, r"`dose_range` must be a finite \(low, high\) above 0, low <= high, got \(0, 10\)\."),
        ({"dose_range": (9, 8)}, r"`dose_range` must be .* got \(9, 8\)\."),
        ({"dose_range": (9, float("inf"))}, r"`dose_range` must be .* got \(9, inf\)\."),
        ({"fine_range_vox": (-1, 1)}, r"`fine_range_vox` must be .* at least 0, low <= high, got \(-1, 1\)\."),
        ({"coarse_range_vox": (1, 2, 3)}, r"`coarse_range_vox` must be .* got \(1, 2, 3\)\."),
        ({"mix_range": (0.4, 1.1)}, r"`mix_range` must be .* at least 0 and at most 1, .* got \(0\.4, 1\.1\)\."),
        ({"electronic": -0.1}, r"`electronic` must be finite and at least 0, got -0\.1\."),
        ({"unit_hu": float("nan")}, r"`unit_hu` must be finite and at least 0, got nan\."),
        ({"density_per_hu": float("inf")}, r"`density_per_hu` must be finite and at least 0, got inf\."),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandCTNoise(**arguments)
    with pytest.raises(ValueError, match=message):
        RandCTNoised("image", **arguments)


@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_a_volume_without_channel(prob):
    with pytest.raises(ValueError, match=r"A volume must be \(c, i, j, k\), got \(8, 8, 8\)\. Add a channel axis\."):
        noise(prob=prob)(SMALL[0])
