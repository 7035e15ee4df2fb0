"""Left joints are flipped, and predictions for them flipped back."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Orientationd

from bertswin_ext.transforms.mirror_left import MirrorLeftd
from tests.unit.transforms.crop_worlds import WORLDS, positions, world_volume

SHAPE = (5, 4, 3)


@pytest.mark.parametrize("world", WORLDS)
def test_a_left_joint_is_flipped_and_still_where_it_was(world):
    volume = world_volume(SHAPE, WORLDS[world])
    image = MirrorLeftd("image")({"image": volume, "joint": "left"})["image"]
    assert torch.equal(image.as_tensor(), volume.as_tensor().flip(1))
    np.testing.assert_allclose(image.as_tensor().movedim(0, -1), positions(SHAPE, image.affine.numpy()), atol=1e-4)


@pytest.mark.parametrize("item", [{"joint": "right"}, {}, {"joint": None}])
def test_other_items_are_not_flipped(item):
    volume = world_volume(SHAPE, WORLDS["plain"])
    image = MirrorLeftd("image")({"image": volume, **item})["image"]
    assert torch.equal(image.as_tensor(), volume.as_tensor())
    assert torch.equal(image.affine, volume.affine)


@pytest.mark.parametrize("joint", ["left", "right", None])
def test_the_inverse_gives_the_volume_back(joint):
    volume = world_volume(SHAPE, WORLDS["oblique"])
    mirror = MirrorLeftd(["image", "label"])
    item = mirror({"image": volume, "label": volume.clone(), "joint": joint})
    # the inverse is not told of the joint
    back = mirror.inverse({key: item[key] for key in ("image", "label")})
    for key in ("image", "label"):
        assert torch.equal(back[key].as_tensor(), volume.as_tensor())
        np.testing.assert_allclose(back[key].affine, volume.affine, atol=1e-12)
        assert back[key].applied_operations == []


@pytest.mark.parametrize("joint", ["left", "right"])
def test_monai_inverts_it_for_a_prediction(joint):
    volume = world_volume(SHAPE, WORLDS["mirrored"])
    chain = Compose([Orientationd("image", axcodes="RAS", labels=None), MirrorLeftd("image")])
    item = chain({"image": volume, "joint": joint})
    item["pred"] = MetaTensor(item["image"].as_tensor() + 100)
    back = Invertd("pred", chain, orig_keys="image", nearest_interp=False)(item)["pred"]
    assert torch.equal(back.as_tensor(), volume.as_tensor() + 100)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-12)
    assert len(item["image"].applied_operations) == 2


def test_labels_keep_their_type():
    label = MetaTensor(torch.arange(6, dtype=torch.uint8).reshape(1, 6, 1, 1))
    assert MirrorLeftd("label")({"label": label, "joint": "left"})["label"].dtype == torch.uint8


def test_missing_keys_and_another_name_of_the_joint():
    item = {"image": torch.arange(2.0).reshape(1, 2, 1, 1), "side": "left"}
    result = MirrorLeftd(["image", "label"], joint_key="side", allow_missing_keys=True)(item)
    assert result["image"].flatten().tolist() == [1.0, 0.0]
    assert "label" not in result


def test_neither_left_nor_right():
    volume = world_volume(SHAPE, WORLDS["plain"])
    with pytest.raises(
        ValueError, match=r'^/data/a\.nii: `joint` must be "left" or "right", got \'Left\'\. Correct it'
    ):
        MirrorLeftd("image")({"image": volume, "joint": "Left"})
