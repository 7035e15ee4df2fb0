import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from bertswin_ext.geometry import moved
from bertswin_ext.transforms.head_view import RandHeadViewd

PLACES = {"left": (-50.0, 3.0, -4.0), "right": (50.0, -2.0, 5.0)}


def item(hu):
    """A volume of 5 mm with a smooth bump of another height at each joint."""
    affine = np.diag([5.0, 5.0, 5.0, 1.0])
    affine[:3, 3] = (-110.0, -100.0, -90.0)
    world = moved(affine, np.stack(np.meshgrid(*map(np.arange, (45, 41, 37)), indexing="ij"), axis=-1))
    image = np.full(world.shape[:3], -1000.0)
    for side, height in hu.items():
        distance = np.linalg.norm(world - PLACES[side], axis=-1)
        image += height * np.exp(-0.5 * (distance / 9.0) ** 2)
    joints = [{"joint": side, "center_mm": list(PLACES[side])} for side in hu]
    return {
        "image": MetaTensor(torch.from_numpy(image[None]).float(), affine=torch.from_numpy(affine)),
        "joints": joints,
    }


@pytest.fixture
def undisturbed(monkeypatch):
    monkeypatch.setattr("bertswin_ext.transforms.head_view.disturbed", lambda image, how, rng: image)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("side", [0, 1])
def test_the_label_is_where_the_joint_is_in_the_view(undisturbed, seed, side):
    name = ("left", "right")[side]
    view = RandHeadViewd(size=56, bend_mm=4.0).set_random_state(seed=seed)(item({name: 2000.0}))
    # a view may be mirrored, and then shows the other side
    rows = view["label"][view["label"][:, :3].abs().sum(1) > 0]
    assert len(rows) == 1
    *place, shown = rows[0].tolist()
    if shown != 1:
        return
    image = view["image"][0]
    peak = np.array([int(n) for n in torch.unravel_index(image.argmax(), image.shape)])
    if float(image.max()) > 700.0:
        assert np.linalg.norm(peak - place) < 1.6


def test_a_mirrored_head_has_its_sides_exchanged(undisturbed):
    sides = set()
    for seed in range(12):
        view = RandHeadViewd(size=24, spacing_mm=9.0, rotate_range_deg=10.0).set_random_state(seed=seed)
        label = view(item({"left": 900.0, "right": 1900.0}))["label"]
        assert label[0, 0] < label[1, 0]  # the left joint is always further left in the view
        one = RandHeadViewd(size=24, spacing_mm=9.0).set_random_state(seed=seed)(item({"left": 900.0}))["label"]
        sides.add(bool(one[0, :3].abs().sum() > 0))
    assert sides == {True, False}


def test_a_seed_gives_a_view():
    view = RandHeadViewd(size=20, spacing_mm=10.0)
    one, two = (view.set_random_state(seed=s)(item({"left": 900.0})) for s in (5, 5))
    torch.testing.assert_close(one["image"], two["image"])
    torch.testing.assert_close(one["label"], two["label"])


def test_views_show_a_joint_or_not_or_at_the_edge():
    view = RandHeadViewd(size=20, spacing_mm=10.0).set_random_state(seed=0)
    given = item({"left": 900.0, "right": 900.0})
    shown = torch.stack([view(given)["label"][:, 3] for _ in range(60)])
    assert set(shown.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert 0.35 < float((shown == 1).float().mean()) < 0.9


def test_a_volume_without_joints_shows_none():
    view = RandHeadViewd(size=20, spacing_mm=10.0).set_random_state(seed=0)(item({}))
    assert view["label"].abs().sum() == 0
