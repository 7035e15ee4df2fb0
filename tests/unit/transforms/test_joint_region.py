"""The box around a joint, and a prediction for it back in the whole volume."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd

from bertswin_ext.geometry import moved, spacing_of
from bertswin_ext.transforms.joint_region import BlankRegiond, JointRegiond
from tests.unit.transforms.crop_worlds import WORLDS, indices, positions, world_volume

SHAPE = (20, 18, 16)


@pytest.mark.parametrize("world", WORLDS)
def test_the_box_is_as_large_as_asked_for_and_lies_around_the_joint(world):
    affine = WORLDS[world]
    joint = moved(affine, [9.3, 8.0, 7.6])
    item = {"image": world_volume(SHAPE, affine), "center_mm": joint.tolist()}
    image = JointRegiond("image", 4.0)(item)["image"]
    spacing = spacing_of(affine)
    np.testing.assert_array_equal(image.shape[1:], np.ceil(4.0 / spacing - 1e-6))
    np.testing.assert_allclose(image.as_tensor().movedim(0, -1), positions(image.shape[1:], image.affine), atol=1e-4)
    middle = (np.array(image.shape[1:]) - 1) / 2
    assert np.abs(moved(np.linalg.inv(image.affine.numpy()), joint) - middle).max() <= 0.5 + 1e-6


def test_three_edges():
    item = {"image": torch.zeros(1, *SHAPE), "center_mm": [9.0, 9.0, 9.0]}
    assert JointRegiond("image", (3.0, 5.0, 7.5))(item)["image"].shape == (1, 3, 5, 8)


@pytest.mark.parametrize(
    ("center", "shape", "first"),
    [
        ([1.0, 9.0, 9.0], (4, 5, 5), [0.0, 7.0, 7.0]),
        ([9.0, 17.4, 15.0], (5, 3, 3), [7.0, 15.0, 13.0]),
        ([19.5, 17.5, 15.5], (3, 3, 3), [17.0, 15.0, 13.0]),
        ([-0.5, -0.5, -0.5], (3, 3, 3), [0.0, 0.0, 0.0]),
    ],
)
def test_the_box_ends_where_the_volume_does(center, shape, first):
    volume = world_volume(SHAPE, np.eye(4))
    image = JointRegiond("image", 5.0)({"image": volume, "center_mm": center})["image"]
    assert image.shape == (3, *shape)
    assert image[:, 0, 0, 0].tolist() == first


def test_the_smallest_box_holds_the_voxel_of_the_joint():
    volume = world_volume(SHAPE, np.eye(4))
    image = JointRegiond("image", 0.1)({"image": volume, "center_mm": [19.5, 0.2, 15.5]})["image"]
    assert image.flatten().tolist() == [19.0, 0.0, 15.0]


@pytest.mark.parametrize(("size_mm", "item"), [(None, {"center_mm": [9.0, 9.0, 9.0]}), (5.0, {}), (500.0, {})])
def test_whole_volumes(size_mm, item):
    volume = world_volume(SHAPE, WORLDS["plain"])
    image = JointRegiond("image", size_mm)({"image": volume, **item})["image"]
    assert torch.equal(image.as_tensor(), volume.as_tensor())
    assert torch.equal(image.affine, volume.affine)


@pytest.mark.parametrize("center", [[9.0, 9.0, 9.0], [0.0, 17.0, 8.0], None])
def test_a_prediction_comes_back_with_0_around_it(center):
    volume = world_volume(SHAPE, np.eye(4))
    chain = Compose([JointRegiond("image", 5.0)])
    item = chain({"image": volume, "center_mm": center})
    item["pred"] = MetaTensor(torch.ones_like(item["image"].as_tensor())[:1])
    back = Invertd("pred", chain, orig_keys="image", nearest_interp=False)(item)["pred"]
    near = np.ones(SHAPE) if center is None else (np.abs(indices(SHAPE) - center) <= 2).all(axis=-1)
    np.testing.assert_array_equal(back[0].numpy(), near)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-12)
    assert back.applied_operations == []


def test_volumes_of_one_item_stay_on_one_grid():
    item = {key: MetaTensor(torch.zeros(1, *SHAPE)) for key in ("image", "label")}
    result = JointRegiond(["image", "label", "no"], 6.0, "where", True)({**item, "where": [3.0, 9.0, 9.0]})
    assert result["image"].shape == result["label"].shape == (1, 6, 6, 6)
    assert torch.equal(result["image"].affine, result["label"].affine)


def test_a_joint_outside_the_volume():
    message = r"^/data/a\.nii: the joint's centre \[1\.0, 2\.0, -3\.0\] mm \(RAS\) is voxel \[1\.0, 2\.0, -3\.0\], out"
    with pytest.raises(ValueError, match=message):
        JointRegiond("image", 5.0)({"image": world_volume(SHAPE, np.eye(4)), "center_mm": [1.0, 2.0, -3.0]})


@pytest.mark.parametrize("size_mm", [0, -1.0, (5.0, 5.0, 0.0), float("inf")])
def test_wrong_sizes(size_mm):
    with pytest.raises(
        ValueError, match=r"`size_mm` must be above 0 mm, or None for whole volumes, got .* Use 60, say"
    ):
        JointRegiond("image", size_mm)


# --- a label that stays on its grid ---


def test_a_blanked_label_is_what_the_cut_leaves_at_its_place():
    label = MetaTensor(torch.ones(1, 12, 9, 10), affine=torch.diag(torch.tensor([-2.0, 1.0, 1.5, 1.0])))
    item = {"label": label, "center_mm": [-6.0, 4.0, 3.0]}
    cut = JointRegiond("label", size_mm=6.0)
    blanked = BlankRegiond("label", size_mm=6.0)(item)["label"]
    assert torch.equal(blanked, cut.inverse(cut(item))["label"])
    assert 0 < blanked.sum() < label.sum()
    assert label.min() == 1
    assert torch.equal(blanked.affine, label.affine)


@pytest.mark.parametrize(("size_mm", "center"), [(None, [4.0, 4.0, 4.0]), (5.0, None)])
def test_nothing_is_blanked_without_a_box(size_mm, center):
    item = {"label": torch.ones(1, 9, 9, 9)} | ({"center_mm": center} if center else {})
    assert BlankRegiond("label", size_mm=size_mm)(item)["label"] is item["label"]


@pytest.mark.parametrize("size", [20, 21])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (-1, -1, -1)])
def test_a_volume_and_its_flipped_copy_lose_the_same_voxels(size, signs):
    """Also where the box could begin at either of two voxels."""
    marked = torch.arange(float(size**3)).reshape(1, size, size, size) + 1
    flips = [axis + 1 for axis, sign in enumerate(signs) if sign < 0]
    affine = np.diag([*map(float, signs), 1.0])
    affine[:3, 3] = [size - 1 if sign < 0 else 0 for sign in signs]
    for center, edge in ((10.0, 8.0), (9.5, 7.0)):
        blank = BlankRegiond("label", size_mm=edge)
        plain = blank({"label": MetaTensor(marked), "center_mm": [center] * 3})["label"]
        stored = MetaTensor(marked.flip(flips), affine=torch.from_numpy(affine))
        turned = blank({"label": stored, "center_mm": [center] * 3})["label"]
        assert torch.equal(turned.as_tensor().flip(flips), plain.as_tensor())
