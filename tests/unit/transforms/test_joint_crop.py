"""Crops are drawn around the joint, within the volume and the field of view, and always from the same numbers."""

import pickle

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch.utils.data import DataLoader

from bertswin_ext.geometry import FieldOfView, moved
from bertswin_ext.stored_volume import open_stored_volume, write_stored_volume
from bertswin_ext.transforms.crop_plan import bounds
from bertswin_ext.transforms.joint_crop import RandJointCrop, RandJointCropd
from bertswin_ext.transforms.resample_crop import ResampleCropd
from tests.unit.transforms.crop_worlds import WORLDS, affine_of, world_volume

SHAPE = (48, 44, 52)
MIDDLE = (np.array(SHAPE) - 1) / 2


def volume(affine=None, shape=SHAPE, file="/data/a.nii", seed=0):
    values = torch.randint(-1000, 2000, (1, *shape), dtype=torch.int16, generator=torch.Generator().manual_seed(seed))
    affine = np.eye(4) if affine is None else affine
    return MetaTensor(values, affine=torch.from_numpy(affine), meta={"filename_or_obj": file})


def item(affine=None, joint_vox=MIDDLE, joint="right", **more):
    image = volume(affine)
    return {"image": image, "center_mm": moved(image.affine.numpy(), joint_vox).tolist(), "joint": joint, **more}


def joint_in_crop(plan, center_mm):
    return moved(np.linalg.inv(plan.crop_affine), center_mm)


def plans(num, data, **options):
    crop = RandJointCropd("image", **{"roi_size": 16, **options}).set_random_state(0)
    return [crop(data)["crop"] for _ in range(num)]


@pytest.mark.parametrize("joint", ["left", "right"])
@pytest.mark.parametrize("affine", WORLDS.values(), ids=WORLDS)
def test_the_core_around_the_joint_stays_inside(affine, joint):
    data = item(affine, joint=joint)
    offsets = np.array([joint_in_crop(plan, data["center_mm"]) - 7.5 for plan in plans(200, data, core_size=10)])
    assert (np.abs(offsets) <= 3.0 + 1e-9).all()
    assert (offsets.max(axis=0) > 2.7).all()
    assert (offsets.min(axis=0) < -2.7).all()
    np.testing.assert_allclose(offsets.mean(axis=0), 0.0, atol=0.5)


def test_rotations_and_scales_fill_their_ranges():
    found = [plan.matrix[:3, :3] for plan in plans(300, item(), rotate_range_deg=10.0, scale_range=(0.8, 1.2))]
    scales = np.array([1 / np.linalg.det(axes) ** (1 / 3) for axes in found])
    turns = [axes * scale for axes, scale in zip(found, scales, strict=True)]
    # k, j, i angles of a turn about i, then j, then k
    angles = np.rad2deg(
        [[np.arctan2(r[1, 0], r[0, 0]), -np.arcsin(r[2, 0]), np.arctan2(r[2, 1], r[2, 2])] for r in turns]
    )
    assert 0.8 <= scales.min() < 0.82
    assert 1.18 < scales.max() <= 1.2
    assert (np.abs(angles) <= 10.0 + 1e-9).all()
    assert (angles.max(axis=0) > 9).all()
    assert (angles.min(axis=0) < -9).all()
    assert np.abs(np.corrcoef(angles.T) - np.eye(3)).max() < 0.2


def test_jitter_rotation_and_scale_are_drawn_apart():
    data = item()
    found = plans(300, data, core_size=10)
    numbers = [[np.linalg.det(p.matrix), p.matrix[0, 1], p.matrix[0, 2], p.matrix[1, 2]] for p in found]
    offsets = [joint_in_crop(plan, data["center_mm"]) for plan in found]
    assert np.abs(np.corrcoef(np.hstack([numbers, offsets]).T) - np.eye(7)).max() < 0.2


def test_the_papers_numbers():
    crop = RandJointCrop(224)
    assert (crop.roi_size, crop.core_size) == ((224,) * 3, (140,) * 3)
    assert (crop.rotate_range_deg, crop.scale_range, crop.mirror_left) == (12.0, (0.9, 1.1), True)
    assert RandJointCrop((96, 64, 32)).core_size == (60, 40, 20)


@pytest.mark.parametrize("corner", [(2, 2, 2), (45, 41, 49), (2, 41, 25)])
def test_near_a_wall_the_cube_is_pushed_into_the_volume(corner):
    for plan in plans(30, item(joint_vox=corner), rotate_range_deg=0.0):
        low, high = bounds(plan.matrix, plan.size)
        half_step = plan.matrix[0, 0] / 2
        assert (low - half_step >= -0.5 - 1e-9).all()
        assert (high + half_step <= np.array(SHAPE) - 0.5 + 1e-9).all()


def test_a_crop_larger_than_the_volume_is_centred_on_it():
    for plan in plans(5, item(joint_vox=(5, 40, 7)), roi_size=64):
        np.testing.assert_allclose(moved(plan.matrix, np.full(3, 31.5)), MIDDLE, atol=1e-9)
        assert plan.box[0] == (0, 0, 0)
        assert plan.box[1] == SHAPE


@pytest.mark.parametrize("as_item", [True, False])
def test_the_middle_of_the_crop_is_in_the_field_of_view(as_item):
    fov = FieldOfView((MIDDLE[0] - 8.0, MIDDLE[1], 0.0), 9.0)
    data = item(fov=fov.to_item() if as_item else fov)
    distances = [fov.distances_mm(moved(plan.crop_affine, np.full(3, 7.5))) for plan in plans(100, data)]
    assert max(distances) <= 9.0 + 1e-6
    assert np.isclose(distances, 9.0).sum() > 10
    without = [fov.distances_mm(moved(plan.crop_affine, np.full(3, 7.5))) for plan in plans(100, item())]
    assert max(without) > 10.0


def test_without_a_joint_crops_are_anywhere_in_the_volume():
    centers = np.array([moved(plan.matrix, np.full(3, 7.5)) for plan in plans(300, {"image": volume()})])
    room = (np.array(SHAPE) - 16 / 0.9) / 2
    assert (np.abs(centers - MIDDLE) <= (np.array(SHAPE) - 16 / 1.1) / 2).all()
    assert (np.abs(centers - MIDDLE).max(axis=0) > 0.95 * room).all()
    np.testing.assert_allclose(centers.mean(axis=0), MIDDLE, atol=1.8)


@pytest.mark.parametrize("options", [{"random": False}, {"rotate_range_deg": 0, "scale_range": (1, 1)}], ids=str)
@pytest.mark.parametrize("roi_size", [15, 16])
@pytest.mark.parametrize("joint", ["left", "right"])
def test_without_rotation_and_scale_the_crop_is_a_copy(options, roi_size, joint):
    data = item(WORLDS["oblique and anisotropic"], MIDDLE + np.array([0.3, -0.4, 0.2]), joint)
    crop = RandJointCropd("image", roi_size, **options).set_random_state(3)(data)
    assert crop["image"].shape == (1, roi_size, roi_size, roi_size)
    start = crop["crop"].box[0]
    expected = data["image"].as_tensor()[(slice(None), *(slice(n, n + roi_size) for n in start))]
    assert torch.equal(crop["image"].as_tensor(), expected)
    values = ResampleCropd("image")(crop)["image"].as_tensor()
    assert torch.equal(values, (expected.flip(1) if joint == "left" else expected).float())


def test_validation_puts_the_joint_in_the_middle():
    data = item(joint_vox=(20.3, 21.9, 30.1))
    first, second = plans(2, data, random=False)
    assert np.array_equal(first.matrix, second.matrix)
    np.testing.assert_allclose(joint_in_crop(first, data["center_mm"]), 7.5, atol=0.5)
    np.testing.assert_allclose(np.abs(first.matrix[:3, :3]), np.eye(3))


def test_validation_without_a_joint_takes_the_middle_of_the_volume():
    (plan,) = plans(1, {"image": volume()}, random=False)
    assert plan.box == ((16, 14, 18), (32, 30, 34))
    (plan,) = plans(1, {"image": volume()}, roi_size=64, random=False)
    assert plan.matrix[:3, 3].tolist() == [-8.0, -10.0, -6.0]


def test_left_joints_are_mirrored():
    def determinant(**options):
        (plan,) = plans(1, **options)
        return np.linalg.det(plan.matrix[:3, :3])

    assert determinant(data=item(joint="left")) < 0
    assert determinant(data=item(joint="right")) > 0
    assert determinant(data=item(joint="left"), mirror_left=False) > 0
    assert determinant(data={"image": volume()}) > 0


def test_a_left_joint_and_the_right_joint_of_the_mirrored_head_give_the_same_crop():
    left = item(joint_vox=(20, 22, 30), joint="left")
    mirrored = MetaTensor(left["image"].as_tensor().flip(1), affine=torch.eye(4, dtype=torch.float64))
    right = {"image": mirrored, "center_mm": [SHAPE[0] - 1 - 20, 22, 30], "joint": "right"}
    options = {"roi_size": 16, "rotate_range_deg": 0.0, "scale_range": (0.9, 1.1), "core_size": 10}
    crops = []
    for data in (left, right):
        crop = RandJointCropd("image", **options).set_random_state(5)(data)
        crops.append(ResampleCropd("image")(crop)["image"].as_tensor())
    torch.testing.assert_close(*crops, atol=1e-2, rtol=0)
    assert crops[0].std() > 100


# --- boxes ---


@pytest.fixture
def stored(tmp_path):
    affine, image = WORLDS["oblique and anisotropic"], volume()
    label = (image[0] > 500).to(torch.uint8).numpy()
    write_stored_volume(tmp_path / "image.nii", image[0].numpy(), affine)
    write_stored_volume(tmp_path / "label.nii", label, affine)
    return {
        "image": open_stored_volume(tmp_path / "image.nii"),
        "label": open_stored_volume(tmp_path / "label.nii"),
        "center_mm": moved(affine, MIDDLE).tolist(),
        "joint": "left",
        "patient": "x",
    }


def test_a_stored_volume_gives_what_a_loaded_one_gives(stored):
    crop = RandJointCropd(["image", "label"], 16)
    disk = crop.set_random_state(1)(stored)
    loaded = dict(stored)
    for key in ("image", "label"):
        affine = torch.from_numpy(stored[key].affine)
        loaded[key] = MetaTensor(torch.from_numpy(stored[key].read())[None], affine=affine)
    memory = crop.set_random_state(1)(loaded)
    assert (disk["image"].dtype, disk["label"].dtype) == (torch.int16, torch.uint8)
    assert type(disk["image"]) is torch.Tensor
    for key in ("image", "label"):
        assert torch.equal(disk[key], memory[key].as_tensor())
    np.testing.assert_allclose(disk["crop"].matrix, memory["crop"].matrix, atol=1e-12)
    np.testing.assert_allclose(memory["image"].affine, memory["crop"].box_affine)
    assert disk["crop"].file == stored["image"].path
    assert disk["crop"].shape == SHAPE
    assert disk["patient"] == "x"


def test_only_the_box_is_read(stored):
    crop = RandJointCropd(["image", "label"], 16).set_random_state(1)(stored)
    start, stop = crop["crop"].box
    assert crop["image"].shape == crop["label"].shape == (1, *np.subtract(stop, start))
    assert crop["image"].numel() < 0.5 * np.prod(SHAPE)
    assert np.array_equal(crop["image"][0].numpy(), stored["image"].read(start, stop))


def test_the_crop_shows_the_world_at_its_place():
    affine = WORLDS["oblique and anisotropic"]
    data = {"image": world_volume(SHAPE, affine), "center_mm": moved(affine, MIDDLE).tolist(), "joint": "left"}
    crop = RandJointCropd("image", 16).set_random_state(2)(data)
    planned = joint_in_crop(crop["crop"], data["center_mm"])
    image = ResampleCropd("image")(crop)["image"]
    distance = (image.as_tensor() - torch.tensor(data["center_mm"])[:, None, None, None]).norm(dim=0)
    nearest = np.unravel_index(int(distance.argmin()), distance.shape)
    assert np.abs(nearest - planned).max() <= 0.5 + 1e-3
    np.testing.assert_allclose(moved(image.affine.numpy(), planned), data["center_mm"], atol=1e-9)


def test_the_given_item_stays_as_it_is():
    data = item()
    before, voxels = dict(data), data["image"].clone()
    box = RandJointCropd("image", 16, plan_key="plan")(data)
    assert data == before
    box["image"].zero_()
    assert torch.equal(data["image"], voxels)
    assert box["image"].applied_operations is not data["image"].applied_operations
    assert np.array_equal(data["image"].affine, np.eye(4))
    assert set(box) == {*data, "plan"}


@pytest.mark.parametrize("tracked", [True, False])
def test_a_box_is_no_view_which_would_take_the_whole_volume_along_to_another_process(tracked):
    image = volume() if tracked else volume().as_tensor()
    box, plan = RandJointCrop(16)(image, MIDDLE, "left")
    assert isinstance(box, MetaTensor) == tracked
    assert box.untyped_storage().nbytes() == box.numel() * 2
    (i, j, k), (a, b, c) = plan.box
    assert np.array_equal(box.numpy(), image.numpy()[:, i:a, j:b, k:c])


# --- randomness ---


def test_the_seed_gives_the_crop():
    crop = RandJointCropd("image", 16)
    first, second = crop.set_random_state(1)(item()), crop(item())
    assert not np.array_equal(first["crop"].matrix, second["crop"].matrix)
    again = crop.set_random_state(1)(item())
    assert np.array_equal(again["crop"].matrix, first["crop"].matrix)
    assert torch.equal(again["image"], first["image"])
    state = np.random.RandomState(1)
    assert np.array_equal(crop.set_random_state(state=state)(item())["crop"].matrix, first["crop"].matrix)


def test_every_sample_takes_as_many_numbers():
    data = [item(), item(joint="left"), {"image": volume()}, item(fov=FieldOfView((0, 0, 0), 30.0).to_item())]
    for options in ({}, {"random": False}, {"rotate_range_deg": 0.0, "scale_range": (1, 1)}):
        positions = []
        for sample in data:
            crop = RandJointCropd("image", 16, **options).set_random_state(7)
            crop(sample)
            positions.append(crop.cropper.R.random_sample())
        assert len(set(positions)) == 1
        assert positions[0] == np.random.RandomState(7).random_sample(8)[7]


def test_array_and_dictionary_draw_alike():
    data = item(joint="left")
    array = RandJointCrop(16).set_random_state(4)
    box, plan = array(data["image"], data["center_mm"], data["joint"])
    crop = RandJointCropd("image", 16).set_random_state(4)(data)
    assert np.array_equal(plan.matrix, crop["crop"].matrix)
    assert torch.equal(box, crop["image"])
    _, same = array(data["image"], data["center_mm"], data["joint"], randomize=False)
    assert np.array_equal(plan.matrix, same.matrix)


class Boxes(torch.utils.data.Dataset):
    def __init__(self, data, transform):
        self.data, self.transform = data, transform

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return self.transform.set_random_state(index)(self.data)


def test_boxes_and_plans_come_out_of_a_loaders_workers(stored):
    crop = RandJointCropd(["image", "label"], 16)
    finish = ResampleCropd(["image", "label"], mode=["bilinear", "nearest"])
    for index, sample in enumerate(DataLoader(Boxes(stored, crop), batch_size=None, num_workers=1, timeout=60)):
        here = crop.set_random_state(index)(stored)
        assert torch.equal(sample["image"], here["image"])
        assert np.array_equal(sample["crop"].matrix, here["crop"].matrix)
        assert finish(sample)["image"].shape == (1, 16, 16, 16)


def test_transforms_travel():
    twin = pickle.loads(pickle.dumps(RandJointCropd("image", 16).set_random_state(1)))
    assert np.array_equal(
        twin(item())["crop"].matrix, RandJointCropd("image", 16).set_random_state(1)(item())["crop"].matrix
    )


def test_other_keys():
    data = {"image": volume(), "c": MIDDLE, "s": "left", "f": {"center_mm": [0, 0, 0], "radius_mm": 99}}
    crop = RandJointCropd("image", 16, center_key="c", joint_key="s", fov_key="f", random=False)(data)["crop"]
    assert crop.matrix[0, 0] == -1
    with pytest.raises(ValueError, match="radius_mm"):
        RandJointCropd("image", 16, fov_key="f")({**data, "f": {"center_mm": [0, 0, 0]}})


def test_missing_keys_follow_monai():
    crop = RandJointCropd(["image", "label"], 16, allow_missing_keys=True)
    assert set(crop(item())) == {*item(), "crop"}
    assert crop({"patient": "x"}) == {"patient": "x"}
    with pytest.raises(KeyError, match="label"):
        RandJointCropd(["image", "label"], 16)(item())


# --- messages ---


@pytest.mark.parametrize("joint", ["Left", "l", "", 3])
def test_a_joint_is_left_or_right(joint):
    with pytest.raises(ValueError, match=rf'^/data/a\.nii: `joint` must be "left" or "right", got {joint!r}\.'):
        RandJointCropd("image", 16)(item(joint=joint))


@pytest.mark.parametrize("joint_vox", [(-0.6, 5, 5), (47.6, 5, 5), (5, 5, 51.6), (5, 999, 5)])
def test_a_joint_outside_the_volume(joint_vox):
    with pytest.raises(
        ValueError,
        match=r"^/data/a\.nii: the joint's centre \[.*\] mm \(RAS\) is voxel \[.*\], outside the volume of 48 x",
    ):
        RandJointCropd("image", 16)(item(WORLDS["oblique"], joint_vox))


@pytest.mark.parametrize("joint_vox", [(-0.4, 5, 5), (47.4, 43.4, 51.4)])
def test_a_joint_within_the_outermost_voxel(joint_vox):
    assert RandJointCropd("image", 16)(item(WORLDS["oblique"], joint_vox))["crop"].size == (16, 16, 16)


@pytest.mark.parametrize("center", [[1.0, 2.0], [1.0, 2.0, float("nan")], 5.0])
def test_a_centre_is_three_numbers(center):
    with pytest.raises(ValueError, match=r"^/data/a\.nii: the joint's centre must be 3 finite numbers in mm, got"):
        RandJointCropd("image", 16)({**item(), "center_mm": center})


@pytest.mark.parametrize(
    "label", [volume(shape=(48, 44, 51), file="/data/b.nii"), volume(affine_of(), file="/data/b.nii")]
)
def test_volumes_of_an_item_are_on_one_grid(label):
    with pytest.raises(
        ValueError,
        match=r"same grid: 'image' \(/data/a\.nii\) has 48 x 44 x 52 voxels and .*, 'label' \(/data/b\.nii\) has 48 x",
    ):
        RandJointCropd(["image", "label"], 16)({**item(), "label": label})


def test_grids_may_differ_by_what_headers_round():
    nearly = np.eye(4)
    nearly[0, 3] = 5e-4
    assert "crop" in RandJointCropd(["image", "label"], 16)({**item(), "label": volume(nearly)})


def test_a_volume_has_a_channel_axis():
    with pytest.raises(ValueError, match=r"^the volume: a volume must be \(c, i, j, k\), got 4 x 4 x 4\. Add `Ensure"):
        RandJointCrop(4)(torch.zeros(4, 4, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"core_size": 17}, r"`core_size` must be at least 1 and at most `roi_size` .*, got 17 x 17 x 17 and 16 x 16"),
        ({"core_size": (0, 4, 4)}, r"`core_size` must be at least 1"),
        ({"rotate_range_deg": -1.0}, r"`rotate_range_deg` must lie in \[0, 180\], got -1\."),
        ({"scale_range": (1.1, 0.9)}, r"`scale_range` must be \(low, high\) with 0 < low <= high, got \(1\.1, 0\.9\)"),
        ({"scale_range": (0.0, 0.9)}, r"`scale_range` must be"),
        ({"scale_range": (0.9,)}, r"`scale_range` must be"),
    ],
)
def test_numbers_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        RandJointCropd("image", 16, **options)


def test_on_the_grid_every_place_is_as_likely_as_the_others():
    crop = RandJointCrop(4, rotate_range_deg=0.0, scale_range=(1.0, 1.0)).set_random_state(0)
    volume = torch.zeros(1, 6, 4, 4)
    starts = [int(crop(volume)[1].matrix[0, 3]) for _ in range(600)]
    counts = np.bincount(starts, minlength=3)
    assert len(counts) == 3
    assert counts.min() > 160
