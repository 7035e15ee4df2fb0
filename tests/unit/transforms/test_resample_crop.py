"""A crop shows what is at its place in the world, and goes back there."""

import pickle

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Compose, Flipd, Invertd, Orientationd

from bertswin_ext.geometry import moved, spacing_of
from bertswin_ext.transforms.crop_plan import CropPlan, plan_crop
from bertswin_ext.transforms.joint_crop import RandJointCropd
from bertswin_ext.transforms.resample_crop import ResampleCrop, ResampleCropd
from tests.unit.transforms.crop_worlds import WORLDS, positions, world_volume

SHAPE = (26, 24, 28)
SIZE = (12, 10, 11)
CENTER = (12.2, 11.9, 14.4)
POSE = {"rotation_deg": (12.0, -9.0, 7.0), "scale": 0.93, "mirror": True}


def cut(volume, plan):
    (i, j, k), (a, b, c) = plan.box
    return volume[:, i:a, j:b, k:c]


def crop_of(volume, plan, **options):
    return ResampleCrop(**options)(cut(volume, plan), plan)


def ball(center_mm, radius_mm, affine, shape=SHAPE):
    inside = np.linalg.norm(positions(shape, affine) - center_mm, axis=-1) <= radius_mm
    return torch.from_numpy(inside.astype(np.uint8))[None]


@pytest.mark.parametrize("pose", [POSE, {**POSE, "mirror": False}, {}, {"mirror": True}], ids=str)
@pytest.mark.parametrize("affine", WORLDS.values(), ids=WORLDS)
def test_every_voxel_shows_its_own_place_in_the_world(affine, pose):
    crop = crop_of(world_volume(SHAPE, affine), plan_crop(SHAPE, affine, SIZE, CENTER, **pose))
    found = crop.as_tensor().movedim(0, -1).numpy()
    np.testing.assert_allclose(found, positions(SIZE, crop.affine.numpy()), atol=1e-3 * spacing_of(affine).min())


@pytest.mark.parametrize("affine", WORLDS.values(), ids=WORLDS)
def test_a_ball_in_the_label_comes_to_lie_where_planned(affine):
    joint = moved(affine, CENTER)
    radius = 4.5 * spacing_of(affine).min()
    plan = plan_crop(SHAPE, affine, (16, 16, 16), CENTER, **POSE)
    label = crop_of(ball(joint, radius, affine), plan, mode="nearest")
    assert label.dtype == torch.uint8
    assert 0 < label.sum() < label.numel()
    centroid = label[0].nonzero().double().mean(dim=0).numpy()
    np.testing.assert_allclose(centroid, 7.5, atol=0.5)


def test_a_larger_scale_enlarges_and_turning_does_not():
    affine = WORLDS["plain"]
    label = ball(moved(affine, CENTER), 3.0, affine)
    sizes = {}
    for scale in (0.9, 1.0, 1.1):
        for angle in (0.0, 12.0):
            plan = plan_crop(SHAPE, affine, (18, 18, 18), CENTER, (angle, -angle, angle), scale)
            sizes[scale, angle] = int(crop_of(label, plan, mode="nearest").sum())
        assert sizes[scale, 12.0] == pytest.approx(sizes[scale, 0.0], rel=0.03)
    assert sizes[1.1, 0.0] / sizes[1.0, 0.0] == pytest.approx(1.1**3, rel=0.06)
    assert sizes[0.9, 0.0] / sizes[1.0, 0.0] == pytest.approx(0.9**3, rel=0.06)


@pytest.mark.parametrize("affine", WORLDS.values(), ids=WORLDS)
@pytest.mark.parametrize("rotation", [(0.0, 0.0, 0.0), (12.0, -9.0, 7.0)])
def test_a_mirrored_left_joint_looks_like_a_right_one(affine, rotation):
    """Flip the volume left-right instead: about j and k it then turns the other way."""
    left = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0))
    center = np.array([12.0, 12.0, 14.0]) + 0.5 * (np.array(SIZE) % 2 == 0)
    crop = crop_of(left, plan_crop(SHAPE, affine, SIZE, center, rotation, 1.0, mirror=True))
    turned_back = np.array(rotation) * (1, -1, -1)
    center[0] = SHAPE[0] - 1 - center[0]
    right = crop_of(left.flip(1), plan_crop(SHAPE, affine, SIZE, center, turned_back))
    torch.testing.assert_close(crop.as_tensor(), right.as_tensor(), atol=1e-5, rtol=0)


def test_a_plain_crop_is_a_copy():
    volume = torch.randint(-1000, 2000, (1, *SHAPE), dtype=torch.int16)
    plan = plan_crop(SHAPE, np.eye(4), (4, 4, 4), (11.5, 9.5, 7.5))
    crop = crop_of(volume, plan)
    assert crop.dtype == torch.float32
    assert torch.equal(crop.as_tensor(), volume[:, 10:14, 8:12, 6:10].float())


@pytest.mark.parametrize(
    ("options", "expected"), [({}, -1000.0), ({"fill": -1.0}, -1.0), ({"mode": "nearest"}, 0.0), ({"fill": 0.0}, 0.0)]
)
def test_what_lies_outside_is_filled(options, expected):
    plan = plan_crop(SHAPE, np.eye(4), SIZE, (1.0, 12.0, 14.0), (10.0, 0.0, 10.0))
    crop = crop_of(torch.full((1, *SHAPE), 500.0), plan, **options)
    inside = plan.matrix[0, 3] + positions(SIZE, np.eye(4)) @ plan.matrix[0, :3] >= -0.5
    assert np.array_equal(crop[0].numpy() == 500.0, inside)
    assert crop[0].numpy()[~inside].min() == crop[0].numpy()[~inside].max() == expected


def test_the_crop_keeps_the_meta_data_of_its_volume():
    volume = world_volume(SHAPE, WORLDS["oblique"])
    volume.meta["patient"] = "x"
    plan = plan_crop(SHAPE, WORLDS["oblique"], SIZE, CENTER, **POSE)
    crop = crop_of(volume, plan)
    assert (crop.meta["filename_or_obj"], crop.meta["patient"]) == ("/data/a.nii", "x")
    np.testing.assert_allclose(crop.affine.numpy(), plan.crop_affine)
    np.testing.assert_allclose(volume.affine.numpy(), WORLDS["oblique"])
    assert volume.applied_operations == []


def test_the_crop_of_a_plain_box_knows_its_file():
    plan = plan_crop(SHAPE, np.eye(4), SIZE, CENTER, file="/data/b.nii")
    assert crop_of(torch.zeros(1, *SHAPE), plan).meta["filename_or_obj"] == "/data/b.nii"


def test_plain_tensors_on_demand():
    plan = plan_crop(SHAPE, WORLDS["plain"], SIZE, CENTER, **POSE)
    plain = crop_of(world_volume(SHAPE, WORLDS["plain"]), plan, track_meta=False)
    assert type(plain) is torch.Tensor
    assert torch.equal(plain, crop_of(world_volume(SHAPE, WORLDS["plain"]), plan).as_tensor())


# --- inverse ---


@pytest.mark.parametrize("affine", WORLDS.values(), ids=WORLDS)
@pytest.mark.parametrize("mirror", [False, True])
def test_the_inverse_puts_every_voxel_back(affine, mirror):
    plan = plan_crop(SHAPE, affine, SIZE, CENTER, **{**POSE, "mirror": mirror})
    transform = ResampleCrop(fill=-999.0)
    back = transform.inverse(transform(cut(world_volume(SHAPE, affine), plan), plan))
    assert back.shape == (3, *SHAPE)
    np.testing.assert_allclose(back.affine.numpy(), affine)
    assert back.applied_operations == []
    places = moved(np.linalg.inv(plan.matrix), positions(SHAPE, np.eye(4)))
    wholly, outside = (
        ((places >= margin) & (places <= np.array(SIZE) - 1 - margin)).all(axis=-1) for margin in (0.0, -0.5)
    )
    found, expected = back.as_tensor().movedim(0, -1).numpy(), positions(SHAPE, affine)
    assert wholly.sum() > 500
    np.testing.assert_allclose(found[wholly], expected[wholly], atol=1e-3)
    assert (found[~outside] == -999.0).all()


def test_the_centre_comes_back_within_half_a_voxel():
    affine = WORLDS["oblique and anisotropic"]
    joint = moved(affine, (11.0, 12.0, 14.0))
    plan = plan_crop(SHAPE, affine, (16, 16, 16), (12.3, 11.2, 14.4), **POSE)
    transform = ResampleCrop("nearest")
    label = transform(cut(ball(joint, 2.1, affine), plan), plan)
    back = transform.inverse(label)
    assert back.dtype == torch.uint8
    np.testing.assert_allclose(back[0].nonzero().double().mean(dim=0).numpy(), (11.0, 12.0, 14.0), atol=0.5)


def test_a_copied_crop_comes_back_as_it_was():
    volume = torch.randn(1, *SHAPE)
    plan = plan_crop(SHAPE, np.eye(4), (4, 4, 4), (11.5, 9.5, 7.5), mirror=True)
    transform = ResampleCrop()
    back = transform.inverse(transform(cut(volume, plan), plan))
    assert torch.equal(back.as_tensor()[:, 10:14, 8:12, 6:10], volume[:, 10:14, 8:12, 6:10])
    assert (back != -1000).sum() == 64


def test_the_inverse_leaves_the_crop_its_record():
    plan = plan_crop(SHAPE, np.eye(4), SIZE, CENTER, **POSE)
    transform = ResampleCrop()
    crop = transform(cut(torch.randn(1, *SHAPE), plan), plan)
    assert torch.equal(transform.inverse(crop), transform.inverse(crop))
    np.testing.assert_allclose(crop.affine, plan.crop_affine)


def item():
    affine = WORLDS["mirrored"]
    volume = world_volume(SHAPE, affine)
    label = MetaTensor(ball(moved(affine, CENTER), 2.0, affine), affine=torch.from_numpy(affine))
    return {"image": volume, "label": label, "center_mm": moved(affine, CENTER).tolist(), "joint": "left"}


def chain():
    return Compose(
        [
            Orientationd(["image", "label"], "RAS", labels=None),
            RandJointCropd(["image", "label"], SIZE),
            ResampleCropd(["image", "label"], mode=("bilinear", "nearest")),
            Flipd(["image", "label"], spatial_axis=1),
        ]
    )


def test_a_whole_chain_is_undone():
    """From flipped axes to RAS, cropped, flipped; and all the way back."""
    data, transform = item(), chain().set_random_state(0)
    crop = transform(data)
    assert (crop["image"].dtype, crop["label"].dtype) == (torch.float32, torch.uint8)
    assert crop["image"].shape == (3, *SIZE)
    back = transform.inverse(crop)
    assert back["image"].shape == data["image"].shape
    np.testing.assert_allclose(back["image"].affine, data["image"].affine, atol=1e-9)
    inside = (back["image"] > -999).all(dim=0)
    inside_voxels = inside.sum()
    close = ((back["image"].as_tensor() - data["image"].as_tensor()).abs() < 1e-3).all(dim=0)
    assert 800 < inside_voxels < 3000
    assert (close & inside).sum() > 0.6 * inside_voxels  # the rest is the continued rim
    found, expected = (volume[0].nonzero().double().mean(dim=0) for volume in (back["label"], data["label"]))
    torch.testing.assert_close(found.as_tensor(), expected.as_tensor(), atol=0.5, rtol=0)


def test_invertd_brings_a_prediction_home_with_background_around_it():
    data, transform = item(), chain().set_random_state(0)
    crop = transform(data)
    prediction = {**crop, "pred": MetaTensor(torch.ones(1, *SIZE))}
    invert = Invertd("pred", transform, orig_keys="image", nearest_interp=True, to_tensor=True)
    found = invert(prediction)["pred"]
    assert found.shape == (1, *SHAPE)
    assert found.unique().tolist() == [0.0, 1.0]
    inside = (transform.inverse(crop)["image"] > -999).all(dim=0)
    assert (found[0].bool() == inside).float().mean() > 0.999


def test_crops_are_inverted_after_a_loader_with_workers():
    transform = chain().set_random_state(0)
    loader = DataLoader(Dataset([item()] * 2, _Keep(transform)), batch_size=2, num_workers=1)
    batch = next(iter(loader))
    for crop in decollate_batch(batch):
        back = transform.inverse(crop)
        assert back["image"].shape == (3, *SHAPE)
        np.testing.assert_allclose(back["image"].affine, WORLDS["mirrored"], atol=1e-9)


class _Keep:
    """A chain, of whose items the volumes are kept."""

    def __init__(self, transform):
        self.transform = transform

    def __call__(self, data):
        sample = self.transform(data)
        return {key: sample[key] for key in ("image", "label")}


# --- dictionary, pickling, messages ---


def test_one_mode_and_one_fill_per_key():
    plan = plan_crop(SHAPE, np.eye(4), SIZE, (1.0, 12.0, 14.0), (10.0, 0.0, 0.0))
    box = cut(torch.ones(1, *SHAPE, dtype=torch.uint8), plan)
    transform = ResampleCropd(["a", "b", "c"], mode=["bilinear", "nearest", "nearest"], fill=[None, None, 255])
    crop = transform({"a": box, "b": box, "c": box, "crop": plan, "patient": "x"})
    assert [crop[key].min().item() for key in "ab"] == [-1000.0, 0]
    assert crop["c"].max() == 255
    assert (crop["patient"], crop["crop"]) == ("x", plan)
    with pytest.raises(ValueError, match="length"):
        ResampleCropd(["a", "b"], mode=["nearest"] * 3)


def test_missing_keys_follow_monai():
    plan = plan_crop(SHAPE, np.eye(4), SIZE, CENTER)
    assert ResampleCropd("label", allow_missing_keys=True)({"crop": plan}) == {"crop": plan}
    with pytest.raises(KeyError, match="label"):
        ResampleCropd("label")({"crop": plan})


def test_the_item_that_is_given_stays():
    plan = plan_crop(SHAPE, np.eye(4), SIZE, CENTER, **POSE)
    data = {"image": cut(world_volume(SHAPE, np.eye(4)), plan), "plan": plan}
    before = dict(data)
    crop = ResampleCropd("image", plan_key="plan")(data)
    assert data == before
    assert crop["image"].shape == (3, *SIZE)


def test_transforms_travel():
    twin = pickle.loads(pickle.dumps(ResampleCropd("image", fill=3.0)))
    assert twin.resamplers[0].fill == 3.0


def test_a_box_of_another_plan():
    plan = plan_crop(SHAPE, np.eye(4), SIZE, CENTER, file="/data/a.nii")
    with pytest.raises(
        ValueError,
        match=r"^/data/a\.nii: a box of \(c, 13 x 11 x 12\) voxels belongs to the plan, from \(6, 7, 9\) to "
        r"\(19, 18, 21\), got 1 x 26 x 24 x 28\. Crop what `RandJointCrop` has cut",
    ):
        ResampleCrop()(torch.zeros(1, *SHAPE), plan)


def test_what_cannot_be_inverted():
    plan = plan_crop(SHAPE, np.eye(4), SIZE, CENTER, file="/data/a.nii")
    transform = ResampleCrop()
    crop = transform(cut(torch.zeros(1, *SHAPE), plan), plan)
    with pytest.raises(ValueError, match=r"Only a MetaTensor knows which crop it is\. Crop with `track_meta=True`"):
        transform.inverse(crop.as_tensor())
    with pytest.raises(ValueError, match=r"^/data/a\.nii: the crop was 12 x 10 x 11 voxels, .* is 6 x 10 x 11\. Undo"):
        transform.inverse(crop[:, ::2])
    with pytest.raises(RuntimeError, match="ResampleCrop"):
        ResampleCrop().inverse(crop)
    assert len(crop.applied_operations) == 1


def test_an_unknown_mode():
    with pytest.raises(ValueError, match=r"`mode` must be one of bilinear, nearest, got 'linear'\."):
        ResampleCropd("image", mode="linear")


def test_the_plan_may_be_made_by_hand():
    plan = CropPlan(np.diag([0.5, 1, 1, 1]), (4, 2, 2), (3, 2, 2), np.eye(4))
    ramp = torch.arange(3.0)[None, :, None, None].expand(1, 3, 2, 2)
    torch.testing.assert_close(ResampleCrop()(ramp, plan).as_tensor()[0, :, 0, 0], torch.tensor([0, 0.5, 1, 1.5]))
