"""The scanner: whatever image it is given, the same cupping, streaks, noise and field of view."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bertswin_ext.data.phantoms import phantom_scanner as module
from bertswin_ext.data.phantoms.phantom_scanner import (
    FILL_HU,
    FOV_RADIUS_MM,
    Scanner,
    coordinates,
    draw_grain,
    draw_scanner,
    filtered,
    scan,
    scan_volume,
    slabs,
    smooth_noise,
)

PLAIN = Scanner(
    cupping=0.05,
    streak_hu=0.0,
    metal_mm=np.array([10.0, 20.0, 5.0]),
    streak_phases=np.array([0.1, 1.2, 2.3, 3.4]),
    noise_hu=50.0,
    noise_sigmas_vox=(1.0, 2.0),
    noise_mix=0.5,
    axis_mm=(10.0, -5.0),
    radius_mm=60.0,
)
AFFINE = np.array([[-4.0, 0.0, 1.0, 90.0], [0.0, 3.0, 0.0, -70.0], [1.0, 0.0, 5.0, -30.0], [0.0, 0.0, 0.0, 1.0]])


def rng(seed=0):
    return np.random.default_rng(seed)


def points(*rows):
    """World coordinates as the scanner takes them."""
    return tuple(torch.tensor(rows, dtype=torch.float32).T)


def drawn(seed):
    return draw_scanner(rng(seed), lambda rng: rng.uniform(-1.0, 1.0, size=3))


# --- drawing ---


def test_numbers_of_the_paper():
    assert FOV_RADIUS_MM == 88.0
    assert FILL_HU == -1000.0
    scanners = [drawn(seed) for seed in range(200)]
    for name, low, high in (("fine", 0.7, 1.2), ("coarse", 1.8, 2.5), ("mix", 0.4, 0.8)):
        values = [
            {"fine": s.noise_sigmas_vox[0], "coarse": s.noise_sigmas_vox[1], "mix": s.noise_mix}[name] for s in scanners
        ]
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(values) <= high


def test_a_third_meets_metal_and_the_rest_is_drawn_all_the_same():
    scanners = [drawn(seed) for seed in range(300)]
    assert 70 < sum(s.streak_hu > 0 for s in scanners) < 130
    assert all(s.streak_hu == 0 or 50.0 <= s.streak_hu <= 130.0 for s in scanners)
    assert len({tuple(s.metal_mm) for s in scanners}) == 300
    assert all(0.02 <= s.cupping <= 0.06 and 35.0 <= s.noise_hu <= 80.0 for s in scanners)


def test_same_state_same_scanner():
    first, again = drawn(3), drawn(3)
    assert all(np.array_equal(a, b) for a, b in zip(vars(first).values(), vars(again).values(), strict=True))
    assert first.noise_hu != drawn(4).noise_hu


# --- scanning ---


def test_field_of_view_stands_where_its_axis_stands():
    world = points([10, -5, 0], [69.9, -5, 300], [70.1, -5, 0], [10, 54.9, -300], [10, 55.1, 0], [-49.9, -5, 0])
    image, seen = scan(torch.full((6,), 7.0), world, PLAIN, artefacts=False)
    assert seen.tolist() == [True, True, False, True, False, True]
    assert image.tolist() == [7.0, 7.0, FILL_HU, 7.0, FILL_HU, 7.0]


def test_cupping_takes_its_share_on_the_axis_and_nothing_at_the_rim_or_from_air():
    world = points([10, -5, 0], [10 + 60 / math.sqrt(2), -5, 0], [69.999, -5, 0], [10, -5, 40])
    image, _ = scan(torch.tensor([1000.0, 1000.0, 1000.0, -1000.0]), world, PLAIN)
    assert image.tolist() == pytest.approx([900.0, 950.0, 1000.0, -1000.0], abs=0.05)


def test_streaks_lie_in_the_slices_of_the_metal_and_weaken_with_distance():
    scanner = replace(PLAIN, cupping=0.0, streak_hu=100.0)
    angles = np.linspace(0.0, 2.0 * math.pi, 721)

    def strength(radius, height):
        ring = [[10 + radius * math.cos(a), 20 + radius * math.sin(a), 5 + height] for a in angles]
        return float(scan(torch.zeros(len(ring)), points(*ring), scanner)[0].std())

    assert 50.0 < strength(20.0, 0.0) < 250.0
    assert strength(30.0, 0.0) == pytest.approx(strength(20.0, 0.0) * 30.0 / 40.0, rel=0.01)
    assert strength(20.0, 5.0) == pytest.approx(strength(20.0, 0.0) * math.exp(-0.5), rel=0.01)
    assert strength(20.0, 30.0) < 1e-3


def test_noise_grows_with_the_signal_and_stays_inside():
    world, grain = points([10, -5, 0], [10, -5, 0], [200, 0, 0]), torch.tensor([1.0, -2.0, 1.0])
    image, _ = scan(torch.tensor([0.0, 1000.0, 0.0]), world, PLAIN, grain, artefacts=False)
    assert image.tolist() == pytest.approx([50.0, 1000.0 - 100.0 * math.exp(0.4), FILL_HU])


def test_a_volume_is_scanned_where_its_affine_puts_it(monkeypatch):
    shape = (30, 20, 6)
    hu, grain = (torch.from_numpy(rng(seed).standard_normal(shape, dtype=np.float32)) for seed in (0, 1))
    scanner = replace(PLAIN, streak_hu=80.0)
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    world = [torch.from_numpy(c).float() for c in np.moveaxis(voxels @ AFFINE[:3, :3].T + AFFINE[:3, 3], -1, 0)]
    expected, inside = scan(hu, world, scanner, grain)
    for at_once in (1, 1000, 10**6):
        monkeypatch.setattr(module, "_VOXELS_AT_ONCE", at_once)
        image, seen = scan_volume(hu, AFFINE, scanner, grain)
        assert torch.equal(seen, inside)
        assert torch.allclose(image, expected, atol=0.05)
    assert 0.2 < inside.float().mean() < 0.9


@pytest.mark.parametrize(("voxels", "count"), [(1, 10), (12, 10), (30, 5), (1000, 1)])
def test_slabs_cover_the_first_axis_once(voxels, count):
    parts = list(slabs((10, 3, 4), voxels))
    assert [n for part in parts for n in range(10)[part]] == list(range(10))
    assert len(parts) == count


def test_coordinates_of_a_slab():
    x, y, z = coordinates(AFFINE[:3, :3], AFFINE[:3, 3], slice(2, 4), (5, 6, 7))
    assert x.shape == (2, 6, 7)
    at = [float(c[1, 5, 6]) for c in (x, y, z)]
    assert at == pytest.approx((AFFINE @ [3, 5, 6, 1])[:3])


# --- noise ---


def test_grain_is_correlated_and_of_unit_deviation():
    grain = draw_grain(rng(), (48, 40, 44), PLAIN)
    assert grain.dtype == torch.float32
    assert 0.93 < float(grain.std()) < 1.07
    for axis in range(3):
        assert float((grain * grain.roll(1, axis)).mean()) > 0.7
        assert abs(float((grain * grain.roll(12, axis)).mean())) < 0.1
    assert torch.equal(grain, draw_grain(rng(), (48, 40, 44), PLAIN))


def test_filter_keeps_the_mean_or_the_deviation():
    white = torch.from_numpy(rng().standard_normal((40, 40, 40), dtype=np.float32))
    assert float(filtered(white, 1.5, keep="deviation").std()) == pytest.approx(1.0, abs=0.05)
    smooth = filtered(white + 3.0, 1.5)
    assert float(smooth.mean()) == pytest.approx(float(white.mean()) + 3.0, abs=1e-3)
    assert float(smooth.std()) < 0.2


def test_filter_of_a_point_is_a_gaussian_with_a_width_for_every_axis():
    point = torch.zeros(31, 31)
    point[15, 15] = 1.0
    blob = filtered(point, (1.0, 3.0))
    offsets = (torch.arange(31) - 15.0).square()
    assert float((blob.sum(1) * offsets).sum()) == pytest.approx(1.0, rel=0.03)
    assert float((blob.sum(0) * offsets).sum()) == pytest.approx(9.0, rel=0.03)


def test_filter_takes_axes_shorter_than_its_kernel():
    assert filtered(torch.ones(4, 3), 2.0).flatten().tolist() == pytest.approx([1.0] * 12)


def test_texture_has_its_wave_length_in_every_direction():
    spacing = (0.5, 1.0, 2.0)
    texture = smooth_noise(rng(), (96, 48, 24), spacing, wave_mm=8.0)
    assert 0.6 < float(texture.std()) < 1.1

    def correlation(axis, mm):
        step = round(mm / spacing[axis])
        near, far = (
            texture.narrow(axis, 0, texture.shape[axis] - step),
            texture.narrow(axis, step, texture.shape[axis] - step),
        )
        return float(torch.corrcoef(torch.stack([near.flatten(), far.flatten()]))[0, 1])

    for axis in range(3):
        assert correlation(axis, 2.0) > 0.6
        assert abs(correlation(axis, 14.0)) < 0.3
