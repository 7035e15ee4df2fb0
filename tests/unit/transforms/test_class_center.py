"""Centres of crops, class by class, on volumes in memory and on disk."""

from collections import Counter

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from bertswin_ext.geometry import moved
from bertswin_ext.stored_volume import open_stored_volume, write_stored_volume
from bertswin_ext.transforms.class_center import LabelVoxelsd, RandClassCenterd
from bertswin_ext.transforms.joint_crop import RandJointCropd
from tests.unit.transforms.crop_worlds import WORLDS, indices

SIZE = (12, 10, 14)


def label_array():
    label = np.zeros(SIZE, dtype=np.uint8)
    label[2:8, 3:9, 1:12] = 1
    label[9:11, 0:2, 13] = 2
    return label


def in_memory(array, affine):
    return MetaTensor(torch.from_numpy(array)[None].float(), affine=torch.from_numpy(affine))


def on_disk(folder, array, affine):
    write_stored_volume(folder / "a.nii", array, affine)
    return open_stored_volume(folder / "a.nii")


def noted(label, **arguments):
    return LabelVoxelsd(**arguments)({"label": label})["class_voxels_mm"]


def voxels_of(places, affine):
    found = moved(np.linalg.inv(affine), places)
    np.testing.assert_allclose(found, found.round(), atol=1e-4)
    return found.round().astype(int)


@pytest.mark.parametrize("world", ["plain", "oblique and anisotropic"])
def test_every_voxel_of_a_small_class_is_noted(world):
    array, affine = label_array(), WORLDS[world]
    places = noted(in_memory(array, affine), max_voxels=10_000)
    assert [place.dtype for place in places] == [np.float32] * 3
    for index, place in enumerate(places):
        np.testing.assert_array_equal(voxels_of(place, affine), np.argwhere(array == index))


def test_a_large_class_is_noted_evenly():
    array = label_array()
    places = noted(in_memory(array, np.eye(4)), max_voxels=60)
    assert [len(place) for place in places[1:]] == [60, 4]
    for index, place in enumerate(places):
        assert (array[tuple(voxels_of(place, np.eye(4)).T)] == index).all()
    mandible = voxels_of(places[1], np.eye(4))
    assert len(np.unique(mandible, axis=0)) == 60
    # 6 x 6 x 11 voxels, 10 of each plane i; no j and no k is left out for long
    assert np.bincount(mandible[:, 0], minlength=12)[2:8].tolist() == [10] * 6
    assert len(np.unique(mandible[:, 1])) == 6
    assert len(np.unique(mandible[:, 2])) >= 10


def test_a_step_of_whole_lines_does_not_keep_to_one_plane():
    places = noted(torch.zeros(1, 20, 20, 20), max_voxels=20)[0]
    assert len(np.unique(places[:, 2])) > 5
    np.testing.assert_array_equal(np.sort(places[:, 0]), np.arange(20))


def test_noting_is_repeatable_and_the_same_on_disk(tmp_path):
    array, affine = label_array(), WORLDS["oblique and anisotropic"]
    one = noted(in_memory(array, affine), max_voxels=50)
    for other in (
        noted(in_memory(array, affine), max_voxels=50),
        noted(on_disk(tmp_path, array, affine), max_voxels=50),
    ):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)


def test_an_item_without_a_label():
    item = {"image": 1, "center_mm": [1.0, 2.0, 3.0]}
    assert LabelVoxelsd(allow_missing_keys=True)(item) == item
    assert RandClassCenterd()(item) == item
    with pytest.raises(KeyError, match="label"):
        LabelVoxelsd()(item)


@pytest.mark.parametrize("arguments", [{"num_classes": 0}, {"max_voxels": 0}, {"keys": ["a", "b"]}])
def test_wrong_numbers_to_note(arguments):
    with pytest.raises(ValueError, match=r"`keys` must be one key, `num_classes` and `max_voxels` at least 1, got"):
        LabelVoxelsd(**arguments)


def places(*counts):
    """Class n has places (n, number, 0)."""
    return [
        np.array([[n, m, 0] for m in range(count)], dtype=np.float32).reshape(-1, 3) for n, count in enumerate(counts)
    ]


def drawn(item, ratios, number=300):
    transform = RandClassCenterd(ratios).set_random_state(0)
    return [tuple(transform(item)["center_mm"]) for _ in range(number)]


def test_classes_are_drawn_by_their_ratios_and_places_evenly():
    found = drawn({"class_voxels_mm": places(500, 2, 1)}, [1, 2, 1], number=2000)
    classes = Counter(center[0] for center in found)
    assert classes[0] == pytest.approx(500, abs=80)
    assert classes[1] == pytest.approx(1000, abs=80)
    assert classes[2] == pytest.approx(500, abs=80)
    assert Counter(found)[(1.0, 0.0, 0.0)] == pytest.approx(500, abs=80)
    assert len({center for center in found if center[0] == 0}) > 250


@pytest.mark.parametrize(
    ("counts", "ratios", "expected"),
    [((5, 0, 5), [1, 1, 1], {0, 2}), ((5, 5, 5), [0, 1, 0], {1}), ((0, 0, 5), [1, 1, 1], {2})],
)
def test_only_classes_that_are_there_and_wanted(counts, ratios, expected):
    assert {center[0] for center in drawn({"class_voxels_mm": places(*counts)}, ratios)} == expected


@pytest.mark.parametrize("item", [{"center_mm": [7.0, 8.0, 9.0]}, {}])
def test_without_a_wanted_class_the_item_keeps_its_joint(item):
    assert RandClassCenterd([0, 1, 1])({**item, "class_voxels_mm": places(5, 0, 0)}) == item


def test_the_drawn_place_takes_the_place_of_the_joint_in_a_new_item():
    item = {"class_voxels_mm": places(0, 3, 0), "center_mm": [7.0, 8.0, 9.0], "joint": "left"}
    result = RandClassCenterd()(item)
    assert sorted(result) == ["center_mm", "joint"]
    assert result["center_mm"][0] == 1.0
    assert all(type(mm) is float for mm in result["center_mm"])
    assert item["center_mm"] == [7.0, 8.0, 9.0]
    assert "class_voxels_mm" in item


def test_a_seed_gives_the_same_place_whatever_came_before():
    item = {"class_voxels_mm": places(50, 50, 50)}
    transform = RandClassCenterd()
    first = transform.set_random_state(4)(item)
    assert transform.set_random_state(4)(item) == first
    # an item that needs no draw takes as many
    transform.set_random_state(4)({})
    others = RandClassCenterd().set_random_state(4)
    others(item)
    assert transform(item) == others(item)


@pytest.mark.parametrize("ratios", [[], [0, 0], [1, -1], [1, float("nan")], [1, float("inf")]])
def test_wrong_ratios(ratios):
    with pytest.raises(ValueError, match=r"`ratios` must be one number for each class, from 0, and not all 0, got \["):
        RandClassCenterd(ratios)


def test_ratios_of_other_classes():
    message = "`ratios` must have one number for each of the 3 classes that were noted, got 2. Give `LabelVoxelsd` as"
    with pytest.raises(ValueError, match=message):
        RandClassCenterd([1, 1])({"class_voxels_mm": places(1, 1, 1)})


CROP = RandJointCropd(["image", "label"], 8, core_size=4, rotate_range_deg=0.0, scale_range=(1.0, 1.0))


@pytest.mark.parametrize("world", ["plain", "oblique and anisotropic", "mirrored"])
@pytest.mark.parametrize("joint", ["left", "right"])
def test_the_crop_holds_the_voxel_wherever_it_is(world, joint):
    """Every voxel, also those of corners, where the crop is moved into the volume."""
    array, affine = indices(SIZE) @ [1000, 30, 1], WORLDS[world]
    corners = np.array([[i, j, k] for i in (0, 11) for j in (0, 9) for k in (0, 13)])
    for corner in [*corners, (5, 5, 7), (0, 5, 13)]:
        center = moved(affine, corner).astype(np.float32)
        item = {"class_voxels_mm": [center[None]], "joint": joint}
        item |= {key: in_memory(array, affine) for key in ("image", "label")}
        crop = CROP(RandClassCenterd([1])(item))
        assert crop["label"].shape == (1, 8, 8, 8)
        assert (crop["label"].as_tensor() == float(array[tuple(corner)])).sum() == 1


def test_the_voxel_lies_in_the_core_where_the_volume_goes_on():
    affine, wanted = WORLDS["plain"], np.array([6, 5, 7])
    item = {"class_voxels_mm": [moved(affine, wanted)[None]]}
    item |= {key: in_memory(np.zeros(SIZE), affine) for key in ("image", "label")}
    offsets = []
    for seed in range(40):
        plan = CROP.set_random_state(seed)(RandClassCenterd([1])(item))["crop"]
        offsets.append(moved(np.linalg.inv(plan.matrix), wanted))
    assert np.min(offsets) >= 1.5
    assert np.max(offsets) <= 5.5
    assert np.ptp(offsets) > 2


def test_a_crop_of_background_outside_the_field_of_view_is_moved_into_it():
    affine = np.eye(4)
    item = {"class_voxels_mm": [np.array([[19.0, 0.0, 10.0]])], "fov": {"center_mm": [9.5, 9.5, 0.0], "radius_mm": 5.0}}
    item |= {key: in_memory(np.zeros((20, 20, 20)), affine) for key in ("image", "label")}
    plan = CROP(RandClassCenterd([1])(item))["crop"]
    middle = moved(plan.crop_affine, [3.5, 3.5, 3.5])
    assert np.linalg.norm(middle[:2] - 9.5) <= 5.71  # half a voxel along i and j, for the grid
    del item["fov"]
    assert np.linalg.norm(moved(CROP(RandClassCenterd([1])(item))["crop"].crop_affine, [3.5] * 3)[:2] - 9.5) > 7
