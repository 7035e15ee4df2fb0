"""Phantoms: anatomy in millimetres, and the scanner."""

from itertools import product

import nibabel as nib
import numpy as np
import pytest
import torch

from bertswin_ext.data.phantoms import phantom as module
from bertswin_ext.data.phantoms.phantom import FILL_HU, FOV_RADIUS_MM, make_phantom

SMALL = {"size": 24, "spacing_mm": 1.6}
CLEAN = {"noise": False, "artefacts": False}
SEEDS = (0, 1, 2, 3, 4)


@pytest.fixture(scope="module")
def fine():
    """Clean phantoms at 0.3 mm, long enough from back to front to hold the ear canal."""
    return [make_phantom(seed, (96, 128, 96), 0.3, **CLEAN) for seed in SEEDS]


def world_of(phantom):
    """RAS position of every voxel, (i, j, k, 3)."""
    voxels = np.stack(np.meshgrid(*map(np.arange, phantom.image.shape), indexing="ij"), axis=-1)
    return voxels @ phantom.affine[:3, :3].T + phantom.affine[:3, 3]


def surface_of(mask):
    """Voxels of a mask with a neighbour outside it."""
    padded = np.pad(mask, 1)
    shifted = [np.roll(padded, step, axis) for axis in range(3) for step in (-1, 1)]
    return mask & ~np.logical_and.reduce(shifted)[1:-1, 1:-1, 1:-1]


def dice(a, b):
    return 2.0 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def same(a, b):
    return np.array_equal(a.image, b.image) and np.array_equal(a.label, b.label)


# --- anatomy ---


def test_types_and_shapes():
    phantom = make_phantom(0, (16, 20, 24), (1.5, 2, 1.0))
    assert (phantom.image.shape, phantom.image.dtype) == ((16, 20, 24), np.float32)
    assert (phantom.label.shape, phantom.label.dtype) == ((16, 20, 24), np.uint8)
    assert np.allclose(np.diag(phantom.affine), [1.5, 2.0, 1.0, 1.0])
    assert np.isfinite(phantom.image).all()
    assert nib.aff2axcodes(phantom.affine) == ("R", "A", "S")


def test_same_seed_same_phantom_other_seed_other_phantom():
    first = make_phantom(3, **SMALL)
    again = make_phantom(3, **SMALL)
    other = make_phantom(4, **SMALL)
    assert same(first, again)
    assert np.array_equal(first.affine, again.affine)
    assert first.joint_center_mm == again.joint_center_mm
    assert not np.array_equal(first.label, other.label)
    assert first.joint_center_mm != other.joint_center_mm


def test_slabs_do_not_show(monkeypatch):
    whole = make_phantom(0, **SMALL, **CLEAN)
    monkeypatch.setattr(module, "_VOXELS_AT_ONCE", 1000)
    slabs = make_phantom(0, **SMALL, **CLEAN)
    assert np.array_equal(whole.label, slabs.label)
    assert np.allclose(whole.image, slabs.image, atol=0.05)


def test_both_bones_and_both_sides_over_many_seeds():
    phantoms = [make_phantom(seed, **SMALL, **CLEAN) for seed in range(40)]
    for phantom in phantoms:
        assert set(np.unique(phantom.label)) == {0, 1, 2}
        assert np.count_nonzero(phantom.label == 1) > 60
        assert np.count_nonzero(phantom.label == 2) > 600
        assert np.sign(phantom.joint_center_mm[0]) == (1 if phantom.side == "right" else -1)
    assert 10 < sum(phantom.side == "left" for phantom in phantoms) < 30


def test_variants_are_drawn():
    anatomies = [module.draw_anatomy(module._rng(seed, "anatomy")) for seed in range(60)]
    assert 8 < sum(a.flattening > 0 for a in anatomies) < 32
    assert 8 < sum(a.osteophyte > 0 for a in anatomies) < 32
    scanners = [module._draw_scanner(seed)[1] for seed in range(60)]
    assert 8 < sum(s.streak_hu > 0 for s in scanners) < 32


@pytest.mark.parametrize("spacing_mm", [0.6, (0.4, 0.6, 0.8)])
def test_spacing_only_samples_the_anatomy(spacing_mm):
    reference = make_phantom(5, 96, 0.4, **CLEAN)
    size = [round(38.4 / mm) for mm in np.broadcast_to(spacing_mm, 3)]
    other = make_phantom(5, size, spacing_mm, **CLEAN)
    assert other.joint_center_mm == reference.joint_center_mm
    where = (world_of(other) - reference.affine[:3, 3]) / 0.4
    nearest = tuple(np.moveaxis(np.rint(where).astype(int).clip(0, 95), -1, 0))
    for bone in (1, 2):
        assert dice(other.label == bone, reference.label[nearest] == bone) > 0.95
    assert np.corrcoef(other.image.ravel(), reference.image[nearest].ravel())[0, 1] > 0.95


@pytest.mark.parametrize("oblique_deg", [0.0, 15.0])
def test_left_is_the_mirror_of_right(oblique_deg):
    left = make_phantom(2, **SMALL, side="left", oblique_deg=oblique_deg)
    right = make_phantom(2, **SMALL, side="right", oblique_deg=oblique_deg)
    assert (left.side, right.side) == ("left", "right")
    assert np.array_equal(left.image, right.image[::-1])
    assert np.array_equal(left.label, right.label[::-1])
    assert np.allclose(world_of(left), world_of(right)[::-1] * [-1, 1, 1])
    assert left.joint_center_mm == (-right.joint_center_mm[0], *right.joint_center_mm[1:])
    assert np.linalg.det(left.affine) > 0
    assert same(make_phantom(2, **SMALL), make_phantom(2, **SMALL, side=make_phantom(2, **SMALL).side))


def test_joint_space_is_1_5_to_4_mm(fine):
    for phantom in fine:
        world = world_of(phantom)
        near = np.linalg.norm(world - phantom.joint_center_mm, axis=-1) < 12.0
        mandible, skull = (torch.from_numpy(world[surface_of(phantom.label == b) & near]) for b in (1, 2))
        assert 1.5 <= float(torch.cdist(mandible, skull).min()) <= 4.0


def test_joint_centre_lies_between_condyle_and_fossa(fine):
    for phantom in fine:
        i, j, k = np.rint(np.linalg.solve(phantom.affine, [*phantom.joint_center_mm, 1.0])[:3]).astype(int)
        column = phantom.label[i, j]
        assert column[k] == 0
        condyle, fossa = np.flatnonzero(column == 1), np.flatnonzero(column == 2)
        assert 0.5 < (k - condyle.max()) * 0.3 < 2.2
        assert 0.5 < (fossa[fossa > k].min() - k) * 0.3 < 2.2
        assert abs(np.array([i, j, k]) - [47.5, 63.5, 47.5]).max() * 0.3 < 3.3


def test_eminence_in_front_canal_behind(fine):
    for phantom in fine:
        centre = np.array(phantom.joint_center_mm)
        offset = world_of(phantom) - centre
        plane = abs(offset[..., 0]) < 1.0
        height = {}
        for name, a in {"fossa": 0.0, "eminence": 12.0}.items():
            column = (phantom.label == 2) & plane & (abs(offset[..., 1] - a) < 1.0) & (offset[..., 2] > -13.0)
            height[name] = offset[column][:, 2].min()
        assert height["eminence"] < height["fossa"] - 3.0
        air = (phantom.image < -900.0) & (abs(offset[..., 0]) < 5.0)
        assert offset[air][:, 1].max() < -8.0


def test_hounsfield_units(fine):
    for phantom in fine:
        image, label = phantom.image, phantom.label
        # the shell of the condyle: inside the mandible, a third of a millimetre below its surface
        bone = label == 1
        shell = surface_of(bone & ~surface_of(bone))
        assert 1200.0 < np.median(image[shell]) < 1700.0
        assert image.max() <= 1700.0
        trabeculae = bone & (image < 1000.0)
        for _ in range(5):
            trabeculae = trabeculae & ~surface_of(trabeculae)
        assert 200.0 < image[trabeculae].mean() < 700.0
        assert image[trabeculae].std() > 80.0
        assert image.min() == -1000.0
        soft = label == 0
        for _ in range(3):
            soft = soft & ~surface_of(soft)
        values = image[soft & (image > -500.0)]
        assert np.mean((values >= -100.0) & (values <= 80.0)) > 0.99


def test_air_canal(fine):
    for phantom in fine:
        offset = world_of(phantom) - phantom.joint_center_mm
        behind = (phantom.label == 0) & (offset[..., 1] < -11.0) & (abs(offset[..., 0]) < 3.0)
        assert np.count_nonzero(behind & (phantom.image == -1000.0)) > 200


# --- scanner ---


def test_field_of_view_is_a_vertical_cylinder_of_constant_fill():
    phantom = make_phantom(1, (80, 40, 16), (1.0, 2.0, 2.0))
    world = world_of(phantom)
    outside = np.hypot(world[..., 0], world[..., 1]) > FOV_RADIUS_MM
    assert 0.05 < outside.mean() < 0.7
    assert np.array_equal(outside, np.broadcast_to(outside[..., :1], outside.shape))
    assert (phantom.image[outside] == FILL_HU).all()
    assert not phantom.label[outside].any()
    assert (phantom.image[~outside] == FILL_HU).mean() < 1e-3


def test_joint_stays_clear_of_the_rim():
    for seed in range(50):
        x, y, _ = make_phantom(seed, 16, 0.5, **CLEAN).joint_center_mm
        corners = [np.hypot(x + i, y + j) for i, j in product((-11.0, 11.0), repeat=2)]
        assert max(corners) < FOV_RADIUS_MM


def test_noise_is_correlated_and_grows_with_the_signal():
    clean = make_phantom(0, 48, 0.6, **CLEAN)
    noise = make_phantom(0, 48, 0.6, artefacts=False).image - clean.image
    level = {
        "air": noise[(clean.image == -1000.0) & (noise != 0.0)].std(),
        "soft": noise[(clean.image > -100.0) & (clean.image < 80.0)].std(),
        "cortex": noise[clean.image > 1100.0].std(),
    }
    assert level["air"] < 0.8 * level["soft"] < 0.8 * 0.8 * level["cortex"]
    assert 20.0 < level["soft"] < 110.0
    for axis in range(3):
        ahead, behind = (np.delete(noise, end, axis).ravel() for end in (0, -1))
        assert np.corrcoef(ahead, behind)[0, 1] > 0.4


def test_artefacts_cup_and_streak():
    scanners = {seed: module._draw_scanner(seed)[1] for seed in range(30)}
    streaked = next(seed for seed, scanner in scanners.items() if scanner.streak_hu > 0)
    plain = next(seed for seed, scanner in scanners.items() if scanner.streak_hu == 0)
    for seed in (plain, streaked):
        clean = make_phantom(seed, 32, 1.5, **CLEAN).image
        change = make_phantom(seed, 32, 1.5, noise=False).image - clean
        assert np.abs(change).max() < 250.0
        rises = (change > 1.0).mean()
        assert rises > 0.01 if seed == streaked else rises == 0.0
        assert (change < -5.0).mean() > 0.05


@pytest.mark.parametrize("oblique_deg", [10.0, 30.0])
def test_oblique_grid_is_tilted_by_at_most_what_was_asked(oblique_deg):
    for seed in range(5):
        phantom = make_phantom(seed, 16, (0.5, 1.0, 1.5), oblique_deg=oblique_deg)
        rotation = phantom.affine[:3, :3] / [0.5, 1.0, 1.5]
        assert np.allclose(rotation @ rotation.T, np.eye(3))
        angle = np.degrees(np.arccos((np.trace(rotation) - 1.0) / 2.0))
        assert oblique_deg / 2 <= angle <= oblique_deg


# --- messages ---


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"seed": -1}, ValueError, "`seed` must not be negative, got -1"),
        ({"seed": 0.5}, TypeError, "`seed` must be an int, got 0.5"),
        ({"seed": True}, TypeError, "`seed` must be an int, got True"),
        ({"size": 8}, ValueError, "`size` must be at least 16 voxels per axis, got 8. Use 128"),
        ({"size": (32, 32)}, TypeError, "`size` must be an int or three of them (i, j, k), got (32, 32). Use 128"),
        ({"size": 32.0}, TypeError, "`size` must be an int or three of them (i, j, k), got 32.0"),
        ({"size": "32"}, TypeError, "`size` must be an int or three of them (i, j, k), got '32'"),
        ({"spacing_mm": 0}, ValueError, "`spacing_mm` must be above 0 and below 10 mm per axis, got 0. Use 0.4"),
        ({"spacing_mm": float("nan")}, ValueError, "`spacing_mm` must be above 0"),
        ({"spacing_mm": None}, TypeError, "`spacing_mm` must be a number or three of them (i, j, k), got None"),
        ({"side": "Left"}, ValueError, '`side` must be "left", "right" or None, got \'Left\'. Leave it out'),
        ({"oblique_deg": 45}, ValueError, "`oblique_deg` must be from 0 to 30 degrees, got 45. Use 0"),
        ({"oblique_deg": "5"}, TypeError, "`oblique_deg` must be a number, got '5'. Use 0"),
    ],
)
def test_argument_messages(arguments, error, message):
    with pytest.raises(error) as caught:
        make_phantom(**{"seed": 0, **SMALL, **arguments})
    assert message in str(caught.value)
