"""Grey values: what makes HU of them, what does not look like HU, and int16 for the store."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from bertswin_ext.data.phantoms.phantom import FILL_HU, make_phantom
from bertswin_ext.data.preparation.intensity import (
    DENSE_BONE_HU,
    SOFT_TISSUE_HU,
    IntensityMap,
    count_outside_window,
    fit_intensity,
    to_int16,
    why_not_hu,
)
from bertswin_ext.data.reading.volume_reader import VolumeReader

REAL = Path(os.environ.get("BERTSWIN_REAL_DATA", Path(__file__).resolve().parents[5] / "shared" / "data" / "real"))

# grey values of a scanner: its name, scale and offset from HU
SCANNERS = {
    "HU": (1.0, 0.0),
    "12 bits": (0.8, 900.0),
    "0 to 1": (1 / 4200, 0.3),
    "16 bits": (14.0, 18000.0),
    "below zero": (3.0, -9000.0),
}


@pytest.fixture(scope="module")
def joint():
    """A joint as a scanner sees it, air behind the ear included."""
    return make_phantom(1, (96, 96, 64), 0.5).image


@pytest.fixture(scope="module")
def inside(joint):
    """The same without a trace of air."""
    return joint[joint > -400]


def head(tissue, air_share, seed=0):
    """Tissue in as much air as asked for, with the noise of a cone-beam scanner."""
    count = int(tissue.size * air_share / (1 - air_share))
    return np.concatenate([tissue.ravel(), np.random.default_rng(seed).normal(-1000, 60, count)]).astype(np.float32)


def soft_tissue_of(hu):
    counts, edges = np.histogram(hu, bins=np.arange(-500, 600, 20))
    return float(edges[counts.argmax()]) + 10.0


# --- maps ---


def test_hu_stay_as_they_are(joint):
    intensity = fit_intensity(joint, "hu")
    assert intensity == fit_intensity(joint) == IntensityMap(1.0, 0.0, "hu")
    mapped = intensity.apply(joint)
    assert np.array_equal(mapped, joint)
    assert mapped is not joint
    assert not np.shares_memory(mapped, joint)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float64])
def test_a_map_is_linear(dtype):
    values = np.array([[0, 100], [1000, 4000]], dtype=dtype)
    mapped = IntensityMap(0.5, -1000.0, "percentile").apply(values)
    assert mapped.dtype == np.float32
    assert mapped.tolist() == [[-1000.0, -950.0], [-500.0, 1000.0]]
    assert values.tolist() == [[0, 100], [1000, 4000]]


def test_the_entry_of_a_report():
    intensity = IntensityMap(0.5, -1000.0, "percentile")
    assert intensity.to_item() == {"scale": 0.5, "offset": -1000.0, "method": "percentile"}
    assert IntensityMap(**intensity.to_item()) == intensity
    with pytest.raises(dataclasses.FrozenInstanceError):
        intensity.scale = 2.0


# --- percentile ---


def test_landmarks():
    """Frozen: air, the soft tissue of textbooks, and the 99th percentile of tissue that CT of heads has."""
    assert (SOFT_TISSUE_HU, DENSE_BONE_HU) == (40.0, 1500.0)
    values = np.repeat([-3.0, 1.2, 5.0, 7.0], [5000, 4500, 400, 100])
    intensity = fit_intensity(values, "percentile")
    assert intensity.method == "percentile"
    # a fiftieth of what is not air is at 7
    assert np.allclose(intensity.apply(np.array([-3.0, 7.0])), [-1000.0, 1500.0], atol=0.01)


@pytest.mark.parametrize("scanner", SCANNERS)
def test_scanners_of_any_range(joint, scanner):
    scale, offset = SCANNERS[scanner]
    hu = fit_intensity(joint, "percentile").apply(joint)
    grey = joint * np.float32(scale) + np.float32(offset)
    mapped = fit_intensity(grey, "percentile").apply(grey)
    assert np.allclose(mapped, hu, atol=1.0)
    assert np.median(mapped[joint < -900]) == pytest.approx(-1000, abs=20)
    assert soft_tissue_of(mapped) == pytest.approx(0, abs=80)
    assert np.corrcoef(mapped.ravel(), joint.ravel())[0, 1] > 0.9999


@pytest.mark.parametrize("seed", range(4))
def test_phantoms_in_hu_stay_nearly_where_they_are(seed):
    image = make_phantom(seed, 64, 0.7).image
    intensity = fit_intensity(image, "percentile", FILL_HU)
    assert intensity.method == "percentile"
    assert intensity.scale == pytest.approx(1.0, abs=0.08)
    assert intensity.offset == pytest.approx(0.0, abs=90.0)


@pytest.mark.parametrize("air_share", [0.012, 0.05, 0.3, 0.9])
def test_the_amount_of_air_plays_no_part(inside, air_share):
    intensity, usual = (
        fit_intensity(head(inside, air_share), "percentile"),
        fit_intensity(head(inside, 0.5), "percentile"),
    )
    assert intensity.method == "percentile"
    assert intensity.scale == pytest.approx(usual.scale, rel=0.01)
    assert intensity.offset == pytest.approx(usual.offset, abs=10.0)


@pytest.mark.parametrize("air_share", [0.0, 0.004, 0.009])
def test_without_air_soft_tissue_is_the_landmark(inside, air_share):
    scale, offset = SCANNERS["12 bits"]
    grey = head(inside, air_share) * scale + offset
    intensity = fit_intensity(grey, "percentile")
    assert intensity.method == "percentile without air"
    mapped = intensity.apply(inside * np.float32(scale) + np.float32(offset))
    assert soft_tissue_of(mapped) == pytest.approx(SOFT_TISSUE_HU, abs=40)
    assert np.percentile(mapped, 99) == pytest.approx(DENSE_BONE_HU, abs=30)


def test_the_amount_of_fill_plays_no_part(joint):
    filled = np.concatenate([joint.ravel(), np.full(3 * joint.size, -3000.0, dtype=np.float32)])
    assert fit_intensity(filled, "percentile", -3000.0) == fit_intensity(joint.ravel(), "percentile")


def test_a_little_metal_moves_nothing(joint):
    metal = joint.copy().ravel()
    metal[:: metal.size // 2000] = 12000.0  # a third of a percent
    clean, other = fit_intensity(joint, "percentile"), fit_intensity(metal, "percentile")
    assert other.scale == pytest.approx(clean.scale, rel=0.04)
    assert other.method == "percentile"


def test_noise_does_not_move_air(inside):
    """A low percentile would follow the noise of air down by 140 HU."""
    grey = head(inside, 0.4)
    noisy = grey + np.where(grey < -500, np.random.default_rng(1).normal(0, 60, grey.shape), 0)
    mapped = fit_intensity(noisy, "percentile").apply(noisy)
    assert np.median(mapped[grey < -500]) == pytest.approx(-1000, abs=1)


def test_large_volumes_are_sampled_evenly(joint):
    """Also where every n-th voxel would be the same one of every row."""
    tiled = np.tile(joint, (4, 4, 1))
    intensity, whole = fit_intensity(tiled, "percentile"), fit_intensity(joint, "percentile")
    assert tiled.size > 4_000_000
    assert intensity.scale == pytest.approx(whole.scale, rel=0.01)
    assert intensity.offset == pytest.approx(whole.offset, abs=10)
    rows = np.tile(np.array([-1000, -1000, -1000, 40, 40, 40, 40, 1500], dtype=np.int16), (2_000_000, 1))
    assert fit_intensity(rows, "percentile") == IntensityMap(1.0, 0.0, "percentile")


@pytest.mark.parametrize("array", [np.zeros((4, 4, 4)), np.full(100, 7, dtype=np.int16), np.array([])])
def test_no_contrast(array):
    with pytest.raises(ValueError, match=r"have no contrast: their 1st and 99\.5th percentiles are both \d\. Remove"):
        fit_intensity(array, "percentile")


def test_nothing_but_fill_has_no_contrast():
    with pytest.raises(ValueError, match="have no contrast"):
        fit_intensity(np.full(100, -1000.0), "percentile", -1000.0)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_grey_values_must_be_finite(wrong):
    with pytest.raises(ValueError, match="must be finite, got NaN or infinite ones"):
        fit_intensity(np.array([0.0, 1.0, wrong]), "percentile")


def test_other_methods():
    with pytest.raises(ValueError, match="`method` must be one of hu, percentile, got 'zscore'"):
        fit_intensity(np.zeros(3), "zscore")


# --- int16 ---


def test_halves_are_rounded_to_even_numbers():
    voxels, clipped = to_int16(np.array([-1.5, -0.5, 0.5, 1.5, 2.5, 0.49], dtype=np.float32))
    assert voxels.dtype == np.int16
    assert voxels.tolist() == [-2, 0, 0, 2, 2, 0]
    assert clipped == 0


def test_only_what_int16_cannot_hold_is_clipped_and_counted():
    values = [-1e6, -32769, -32768.4, -32768, -2000, 5000, 32767, 32767.4, 32767.6, np.inf]
    hu = np.array(values, dtype=np.float64)
    voxels, clipped = to_int16(hu)
    assert voxels.tolist() == [-32768, -32768, -32768, -32768, -2000, 5000, 32767, 32767, 32767, 32767]
    assert clipped == 4
    assert hu.tolist() == values


def test_the_store_keeps_a_phantom_to_half_a_unit(joint):
    voxels, clipped = to_int16(joint)
    assert abs(voxels - joint).max() <= 0.5
    assert (voxels.shape, clipped) == (joint.shape, 0)


def test_nan_is_no_voxel():
    with pytest.raises(ValueError, match=r"must be numbers, got NaN\. Replace them by air"):
        to_int16(np.array([0.0, np.nan], dtype=np.float32))


def test_the_window_of_training():
    """Source: arXiv 2512.21769, section 4: -1011 to 1992 HU."""
    hu = np.array([[-1012, -1011, 0], [1992, 1993, 30000]])
    assert count_outside_window(hu) == 3
    assert count_outside_window(hu.astype(np.float32) + 0.5) == 4  # -1011.5 and 1992.5 are outside
    assert type(count_outside_window(hu)) is int


# --- is it HU? ---


@pytest.mark.parametrize("seed", range(4))
def test_phantoms_are_hu(seed):
    assert why_not_hu(make_phantom(seed, 64, 0.7).image) is None
    assert why_not_hu(np.rint(make_phantom(seed, 64, 0.7, artefacts=False).image).astype(np.int16)) is None


@pytest.mark.parametrize("offset", [-200.0, 200.0])
def test_cone_beam_values_may_be_somewhat_off(joint, offset):
    assert why_not_hu(joint + np.float32(offset)) is None


def test_a_ramp_may_be_hu():
    assert why_not_hu(np.linspace(-1000, 1500, 120).astype(np.int16)) is None


@pytest.mark.parametrize("air_share", [0.02, 0.5, 0.9])
@pytest.mark.parametrize("padding", [None, -2000, -1024])
def test_a_missing_intercept(inside, air_share, padding):
    raw = head(inside, air_share) + 1024
    if padding is not None:
        raw = np.concatenate([raw, np.full(raw.size, padding, dtype=np.float32)])
    message = f"values {raw.min():g}..{raw.max():g} look like HU + 1024: the rescale intercept is missing"
    assert why_not_hu(raw) == message
    assert why_not_hu(head(inside, air_share)) is None


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1300), (-400, 2000), (-1000, 200), (0, 255), (0.0, 1.0)]
)  # fmt: skip
def test_ranges_that_are_not_hu(low, high):
    assert why_not_hu(np.linspace(low, high, 50)) == f"values {low:g}..{high:g} do not look like HU"


@pytest.mark.parametrize("high", [65535, 32768])
def test_values_that_int16_cannot_hold(high):
    assert why_not_hu(np.linspace(-1000, high, 50)) == f"values -1000..{high:g} do not fit into int16, as HU do"


def test_soft_tissue_at_another_place(joint):
    reason = why_not_hu(joint * np.float32(2.0) + np.float32(1000.0))  # air at -1000, soft tissue at 1000
    assert reason.startswith("soft tissue lies at about ")
    assert 900 < float(reason.split()[5].rstrip(",")) < 1100
    assert reason.endswith(", in HU it would be at 0 to 100")


def test_nothing_but_air():
    air = np.random.default_rng(0).normal(-1000, 60, 100_000)
    air[:50] = -300
    assert why_not_hu(air) == f"values {air.min():g}..-300 are nothing but air"
    air[0] = -100  # something is there
    assert why_not_hu(air) == f"values {air.min():g}..-100 do not look like HU"


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_values_that_are_no_numbers(wrong):
    assert why_not_hu(np.array([-1000.0, wrong, 1000.0])) == "values are NaN or infinite"


# --- real volumes ---


def read(name):
    reader = VolumeReader()
    return reader.get_data(reader.read(str(REAL / name)))[0]


real = pytest.mark.skipif(
    not REAL.is_dir(), reason="no real volumes: set BERTSWIN_REAL_DATA to the folder that holds them"
)


@real
@pytest.mark.parametrize(
    "name",
    [
        "01_unc_cthead/unc_cthead_ct.nii.gz",
        "02_imagex_phantom_head/imagex_phantom_head_ct.nii.gz",
        "04_totalseg_abdomen_ct_seg/example_ct.nii.gz",
    ],
)
def test_real_ct_is_hu(name):
    volume = read(name)
    assert why_not_hu(volume) is None
    assert "the rescale intercept is missing" in why_not_hu(volume + 1024)


@real
def test_a_real_micro_ct_is_not_hu():
    assert why_not_hu(read("06_seg3d_tooth_nrrd/tooth.nhdr")) == "values 0..1300 do not look like HU"


@real
def test_a_real_head_is_scaled_back_to_hu():
    hu = read("01_unc_cthead/unc_cthead_ct.nii.gz").astype(np.float32)
    grey = (hu + 1024) / 4096
    intensity = fit_intensity(grey, "percentile")
    assert intensity.scale / 4096 == pytest.approx(1.0, abs=0.05)
    assert abs(intensity.apply(grey) - hu)[hu > -1100].max() < 110
    assert soft_tissue_of(intensity.apply(grey)) == pytest.approx(40, abs=40)
