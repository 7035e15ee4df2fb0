"""Tissues change their brightness, but keep their order."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from bertswin_ext.transforms.hu_warp import HU_ANCHORS, RandHUWarp, RandHUWarpd

SCALE = torch.arange(-1100.0, 2500.0, 0.5)


def frozen(anchors, shifted):
    """A warp with given places of the anchors."""
    warp = RandHUWarp(anchors, prob=1.0).set_random_state(0)
    warp.randomize()
    warp.shifted_hu = shifted
    return lambda hu: warp(hu, randomize=False)


def test_the_papers_numbers():
    assert dict(HU_ANCHORS) == {-500: 0, -80: 25, 15: 10, 45: 8, 90: 6, 1000: 20, 1500: 0}
    for warp in (RandHUWarp(), RandHUWarpd("image").warp):
        assert warp.anchors == dict(HU_ANCHORS)
        assert warp.prob == 0.8
    assert RandHUWarpd("image").prob == 0.8


def test_values_by_hand():
    warp = frozen({-100: 0, 0: 50, 100: 50, 300: 0}, [-100, 20, 90, 300])
    hu = torch.tensor([-1000, -100, -75, -50, 0, 25, 50, 100, 200, 300, 301, 3000])
    expected = torch.tensor([-1000, -100, -70, -40, 20, 37.5, 55, 90, 195, 300, 301, 3000])
    torch.testing.assert_close(warp(hu), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(), (7,), (2, 3, 5, 7), (1, 64, 64, 64)])
def test_any_shape_agrees_with_interpolation(shape):
    warp = RandHUWarp(prob=1.0).set_random_state(3)
    hu = torch.empty(shape).uniform_(-1200, 2200, generator=torch.Generator().manual_seed(0))
    warped = warp(hu)
    inside = (hu >= -500) & (hu <= 1500)
    expected = np.where(inside, np.interp(hu.double().numpy(), list(warp.anchors), warp.shifted_hu), hu.numpy())
    assert warped.shape == hu.shape
    np.testing.assert_allclose(warped.numpy(), expected, atol=0.01, rtol=0)


def test_identity_outside_the_anchors_only():
    outside = (SCALE <= -500) | (SCALE >= 1500)
    warped = RandHUWarp(prob=1.0).set_random_state(1)(SCALE)
    assert torch.equal(warped[outside], SCALE[outside])
    assert (warped != SCALE)[~outside].float().mean() > 0.99


def test_anchors_move_uniformly_within_their_range():
    warp = RandHUWarp(prob=1.0).set_random_state(0)
    anchors = torch.tensor(list(HU_ANCHORS))
    largest = torch.tensor(list(HU_ANCHORS.values()))
    shifts = torch.stack([warp(anchors) - anchors for _ in range(600)])
    assert (shifts.abs() <= largest + 1e-3).all()
    # of a uniform distribution over +-a: mean 0, deviation a / sqrt(3), ends reached
    torch.testing.assert_close(shifts.mean(dim=0), torch.zeros(7), atol=2.5, rtol=0)
    torch.testing.assert_close(shifts.std(dim=0), largest / 3**0.5, atol=1e-3, rtol=0.08)
    assert (shifts.amax(dim=0) >= 0.97 * largest).all()
    moved = shifts[:, largest > 0]
    assert (torch.corrcoef(moved.T) - torch.eye(5)).abs().max() < 0.15


def test_crossing_anchors_are_sorted_so_that_the_map_never_falls():
    warp = RandHUWarp({0: 0, 90: 80, 100: 80, 110: 80, 200: 0}, prob=1.0).set_random_state(0)
    for _ in range(20):
        assert (warp(SCALE).diff() >= -1e-3).all()
        assert warp.shifted_hu == sorted(warp.shifted_hu)


def test_order_of_the_anchors_and_their_type_do_not_matter():
    written = {"1500": 0, "-500": 0, "40": 10}
    torch.testing.assert_close(
        RandHUWarp(written, prob=1.0).set_random_state(0)(SCALE),
        RandHUWarp({-500: 0, 40: 10, 1500: 0}, prob=1.0).set_random_state(0)(SCALE),
    )


def test_repeatable_whatever_else_is_random():
    warp = RandHUWarp(prob=1.0)
    first = warp.set_random_state(1)(SCALE)
    assert not torch.equal(warp(SCALE), first)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 - the global state that must not matter
    assert torch.equal(warp.set_random_state(1)(SCALE), first)
    assert not torch.equal(warp.set_random_state(2)(SCALE), first)


def test_prob_decides_how_often_but_not_how():
    often, rarely, never = (RandHUWarp(prob=prob).set_random_state(0) for prob in (1.0, 0.8, 0.0))
    kept = 0
    for _ in range(300):
        every, some, none = often(SCALE[::50]), rarely(SCALE[::50]), never(SCALE[::50])
        same = torch.equal(some, SCALE[::50])
        kept += same
        assert same or torch.equal(some, every)
        assert torch.equal(none, SCALE[::50])
    assert kept / 300 == pytest.approx(0.2, abs=0.06)


def test_the_input_and_its_metadata_are_kept():
    affine = torch.diag(torch.tensor([0.2, 0.2, 0.2, 1.0], dtype=torch.float64))
    hu = MetaTensor(SCALE[:7200].reshape(1, 20, 18, 20), affine=affine, meta={"filename_or_obj": "a.nii"})
    before = hu.clone()
    warped = RandHUWarp(prob=1.0).set_random_state(0)(hu)
    assert torch.equal(hu, before)
    assert isinstance(warped, MetaTensor)
    assert warped.meta["filename_or_obj"] == "a.nii"
    assert torch.equal(warped.affine, affine)
    assert not torch.equal(warped, before)


@pytest.mark.parametrize("prob", [0.0, 1.0])
@pytest.mark.parametrize(
    "hu",
    [np.array([-600, 20, 1600], np.int16), torch.tensor([-600, 20, 1600], dtype=torch.int16)],
    ids=["numpy", "torch"],
)
def test_stored_integers_become_a_float32_tensor(hu, prob):
    warped = RandHUWarp(prob=prob).set_random_state(0)(hu)
    assert type(warped) is torch.Tensor
    assert warped.dtype == torch.float32
    assert (warped[1] == 20) == (prob == 0)
    assert warped[[0, 2]].tolist() == [-600, 1600]
    assert hu.tolist() == [-600, 20, 1600]


def test_transposed_volumes():
    hu = SCALE[:60].reshape(3, 4, 5)
    warp = RandHUWarp(prob=1.0).set_random_state(0)
    assert torch.equal(warp(hu.permute(2, 0, 1)), warp(hu, randomize=False).permute(2, 0, 1))


def test_an_item_gets_one_warp_the_same_as_a_volume():
    item = {"image": SCALE, "prior": SCALE.flip(0), "label": SCALE}
    result = RandHUWarpd(["image", "prior"], prob=1.0).set_random_state(4)(item)
    assert set(result) == set(item)
    assert result["label"] is SCALE
    assert torch.equal(result["image"], RandHUWarp(prob=1.0).set_random_state(4)(SCALE))
    assert torch.equal(result["prior"], result["image"].flip(0))
    assert item["image"] is SCALE


def test_in_a_chain_items_differ_and_repeat():
    chain = Compose([RandHUWarpd("image", prob=0.5)])
    runs = []
    for seed in (0, 0, 1):
        chain.set_random_state(seed)
        runs.append([chain({"image": SCALE})["image"] for _ in range(20)])
    assert all(map(torch.equal, runs[0], runs[1]))
    assert not all(map(torch.equal, runs[0], runs[2]))
    kept = sum(torch.equal(image, SCALE) for image in runs[0])
    assert 0 < kept < 20


def test_missing_keys_follow_monai():
    assert RandHUWarpd("label", allow_missing_keys=True)({"image": 1}) == {"image": 1}
    with pytest.raises(KeyError, match="label"):
        RandHUWarpd("label")({"image": 1})


@pytest.mark.parametrize(
    ("anchors", "message"),
    [
        ({0: 0}, r"`anchors` must be at least two, got \{0\.0: 0\.0\}\."),
        ({}, r"`anchors` must be at least two, got \{\}\."),
        ({0: 0, 5: -1, 9: 0}, r"must be finite HU with finite shifts of at least 0, got .*5\.0: -1\.0"),
        ({0: 0, float("inf"): 0}, r"must be finite HU with finite shifts of at least 0, got .*inf: 0\.0"),
        ({0: 0, 5: float("nan"), 9: 0}, r"must be finite HU with finite shifts of at least 0, got .*5\.0: nan"),
        (
            {0: 0, 5: 1, 9: 1},
            r"outermost `anchors` must have shift 0, .* jump there, got .* Add an anchor with shift 0",
        ),
        ({9: 0, 5: 1, 0: 1}, r"outermost `anchors` must have shift 0"),
        ({0: 0, 5: 6, 50: 0}, r"No anchor of `anchors` may shift past the outermost ones, got"),
        ({0: 0, 45: 6, 50: 0}, r"No anchor of `anchors` may shift past the outermost ones, got"),
    ],
)
@pytest.mark.parametrize("make", [RandHUWarp, lambda anchors: RandHUWarpd("image", anchors)], ids=["array", "item"])
def test_bad_anchors(make, anchors, message):
    with pytest.raises(ValueError, match=message):
        make(anchors)
