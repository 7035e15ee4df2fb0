"""From files to samples: values, axes, crops, and the checks' messages."""

import warnings
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose

from bertswin_ext.data import SeededDataset, VolumeReader
from bertswin_ext.geometry import moved
from bertswin_ext.stored_volume import write_stored_volume
from bertswin_ext.transforms.pipelines import device_transforms, pretraining_transforms, volume_preprocessing
from bertswin_ext.transforms.standardize import StandardizeHUd

SIZE = (10, 12, 14)
SPACING_MM = 0.5
AIR, LIT = -1000.0, 500.0


def save(folder, array, affine=None, name="a.nii.gz"):
    path = folder / name
    nib.save(nib.Nifti1Image(array, np.diag([SPACING_MM] * 3 + [1.0]) if affine is None else affine), path)
    return {"image": str(path), "patient": "x"}


def ramp(size=SIZE, dtype=np.int16):
    return np.linspace(-1500, 2500, int(np.prod(size))).reshape(size).astype(dtype)


def loading(roi_size=8, random=True, spacing_mm=SPACING_MM, **arguments):
    return pretraining_transforms(roi_size, 4, spacing_mm, random=random, reader=VolumeReader(), **arguments)


def chain(roi_size=8, random=True):
    """Both halves, without rotation and scale, so that a crop is a copy."""
    upright = {"rotate_range_deg": 0.0, "scale_range": (1.0, 1.0)}
    return Compose([loading(roi_size, random, **upright), device_transforms(4)]).flatten()


def standardized(hu):
    return (np.clip(hu, -1011, 1992) + 21.14) / 578.02


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_clipped_and_standardized(tmp_path, dtype):
    array = ramp(dtype=dtype)
    transform = Compose([*volume_preprocessing(8, SPACING_MM, VolumeReader()), StandardizeHUd("image")])
    image = transform(save(tmp_path, array))["image"]
    assert image.shape == (1, *SIZE)
    assert image.dtype == torch.float32
    np.testing.assert_allclose(image[0].numpy(), standardized(array.astype(float)), atol=1e-5)
    assert image.min().item() == pytest.approx(-1.712501, abs=1e-5)
    assert image.max().item() == pytest.approx(3.482821, abs=1e-5)


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("signs", list(product((1, -1), repeat=3))[::3])
def test_one_lit_voxel_lands_where_it_is_in_the_world(tmp_path, order, signs):
    """Axes swapped and flipped in the file: the voxel stands at its RAS position all the same."""
    where = np.array([2, 7, 9])
    ras = np.full(SIZE, AIR, dtype=np.float32)
    ras[tuple(where)] = LIT
    flipped = ras[tuple(slice(None, None, sign) for sign in signs)]
    stored = flipped.transpose(order)
    affine = np.eye(4)
    for file_axis, world_axis in enumerate(order):
        affine[:, file_axis] = 0
        affine[world_axis, file_axis] = SPACING_MM * signs[world_axis]
    affine[:3, 3] = [0 if sign > 0 else SPACING_MM * (size - 1) for sign, size in zip(signs, SIZE, strict=True)]
    transform = Compose(volume_preprocessing(8, SPACING_MM, VolumeReader()))
    image = transform(save(tmp_path, np.ascontiguousarray(stored), affine))["image"]
    assert image.shape == (1, *SIZE)
    assert np.unravel_index(int(image[0].argmax()), SIZE) == tuple(where)
    assert (image[0] > AIR + 100).sum() == 1
    np.testing.assert_allclose(image.affine.numpy(), np.diag([SPACING_MM] * 3 + [1.0]), atol=1e-6)


def test_resampled_to_the_spacing_asked_for(tmp_path):
    transform = Compose(volume_preprocessing(8, (0.25, 0.5, 1.0), VolumeReader()))
    image = transform(save(tmp_path, ramp((8, 10, 17))))["image"]
    assert image.shape == (1, 15, 10, 9)
    np.testing.assert_allclose(np.diag(image.affine.numpy()), [0.25, 0.5, 1.0, 1.0])


def test_the_spacing_is_the_contracts_by_default(tmp_path):
    image = Compose(volume_preprocessing(8))(save(tmp_path, ramp((5, 5, 5)), np.diag([0.4, 0.4, 0.4, 1.0])))["image"]
    assert image.shape == (1, 9, 9, 9)


def test_a_centre_crop_to_validate_and_random_crops_to_train(tmp_path):
    item = save(tmp_path, ramp())
    whole = Compose([*volume_preprocessing(8, SPACING_MM, VolumeReader()), StandardizeHUd("image")])(item)[
        "image"
    ].as_tensor()
    centre = chain(random=False)
    assert torch.equal(centre(item)["image"], whole[:, 1:9, 2:10, 3:11])
    assert torch.equal(centre(item)["image"], centre(item)["image"])
    draw = chain()
    corners = set()
    for seed in range(40):
        crop = draw.set_random_state(seed)(item)["image"]
        assert crop.shape == (1, 8, 8, 8)
        start = np.unravel_index(int((whole[0] - crop[0, 0, 0, 0]).abs().argmin()), SIZE)
        i, j, k = (int(n) for n in start)
        if crop[0, 0, 0, 0] > whole.min():
            assert torch.equal(crop, whole[:, i : i + 8, j : j + 8, k : k + 8])
            corners.add((i, j, k))
    assert len(corners) > 10
    assert torch.equal(draw.set_random_state(3)(item)["image"], draw.set_random_state(3)(item)["image"])


@pytest.mark.parametrize("random", [True, False])
def test_a_volume_as_large_as_the_crop_fits_after_resampling(tmp_path, random):
    """6 voxels of 1 mm become 11 of 0.5 mm: the twelfth repeats the last one."""
    item = save(tmp_path, ramp((6, 6, 7)), np.diag([1.0, 1.0, 1.0, 1.0]))
    image = Compose(volume_preprocessing(12, 0.5, VolumeReader()))(item)["image"]
    assert image.shape == (1, 12, 12, 13)
    exact = Compose(volume_preprocessing(11, 0.5, VolumeReader()))(item)["image"]
    assert exact.shape == (1, 11, 11, 13)
    np.testing.assert_array_equal(image[0, :11, :11].numpy(), exact[0].numpy())
    np.testing.assert_array_equal(image[0, 11].numpy(), image[0, 10].numpy())
    np.testing.assert_array_equal(image[0, :, 11].numpy(), image[0, :, 10].numpy())
    assert chain(12, random=random)(item)["image"].shape == (1, 12, 12, 12)
    with pytest.raises(RuntimeError) as caught:
        chain(16, random=random)(item)
    assert "11 x 11 x 13 voxels" in str(caught.value.__cause__)


@pytest.mark.parametrize("random", [True, False])
def test_plain_tensors_come_out(tmp_path, random):
    sample = chain(random=random)(save(tmp_path, ramp()))
    tensors = {key: value for key, value in sample.items() if isinstance(value, torch.Tensor)}
    assert set(tensors) == {"image", "input", "noise", "valid"}
    assert {type(value) for value in tensors.values()} == {torch.Tensor}
    assert sample["image"].shape == sample["input"].shape == (1, 8, 8, 8)
    assert sample["noise"].shape == sample["valid"].shape == (8,)


@pytest.mark.parametrize("random", [True, False])
def test_what_comes_before_the_crop_is_cached(tmp_path, random):
    dataset = SeededDataset([save(tmp_path, ramp())], chain(random=random))
    assert dataset._cache[0]["image"].shape[1:] == SIZE
    assert "noise" not in dataset._cache[0]
    first = dataset[0, 1]
    others = [dataset[0, seed] for seed in range(2, 8)]
    assert all(torch.equal(other["image"], first["image"]) for other in others) is not random
    assert not any(torch.equal(other["noise"], first["noise"]) for other in others)
    assert torch.equal(dataset[0, 1]["image"], first["image"])


def store(folder, array, label=None):
    """A prepared volume and, with it, its label."""
    affine = np.diag([SPACING_MM] * 3 + [1.0])
    item = {"image": str(folder / "a.nii"), "patient": "x", "center_mm": [2.5, 3.0, 3.0], "joint": "right"}
    write_stored_volume(item["image"], array, affine)
    if label is not None:
        item["label"] = str(folder / "b.nii")
        write_stored_volume(item["label"], label, affine)
    return item


@pytest.mark.parametrize("random", [True, False])
def test_a_prepared_volume_gives_the_crop_of_the_raw_one(tmp_path, random):
    """Read by the box and resampled, or loaded whole: the same."""
    item = store(tmp_path, ramp())
    raw, prepared = ({**item, **loading(random=random, prepared=p).set_random_state(5)(item)} for p in (False, True))
    assert prepared["image"].dtype == torch.int16
    assert type(prepared["image"]) is torch.Tensor
    one, other = (device_transforms(4)(sample) for sample in (raw, prepared))
    torch.testing.assert_close(one["image"], other["image"], atol=1e-4, rtol=0)
    assert torch.equal(one["valid"], other["valid"])


def test_crops_are_right_in_the_world(tmp_path):
    """Values that are linear in the world tell where the voxels of a turned and scaled crop come from."""
    size = (40, 36, 32)
    affine = np.diag([SPACING_MM] * 3 + [1.0])
    world = moved(affine, np.moveaxis(np.indices(size), 0, -1))
    item = store(tmp_path, np.rint(world @ [40.0, 0.0, 0.0] - 400).astype(np.int16))
    item["center_mm"] = [9.0, 9.0, 8.0]
    sample = loading(12, prepared=True).set_random_state(2)(item)
    finished = device_transforms(4)(sample)
    assert finished["valid"].all()
    expected = moved(sample["crop"].crop_affine, np.moveaxis(np.indices((12, 12, 12)), 0, -1)) @ [40.0, 0.0, 0.0] - 400
    np.testing.assert_allclose(finished["image"][0].numpy(), standardized(expected), atol=1e-4)


def test_labels_come_where_there_are_some(tmp_path):
    label = (ramp() > 0).astype(np.uint8)
    item = store(tmp_path, ramp(), label)
    for prepared in (True, False):
        with_label = Compose([loading(prepared=prepared, with_label=True), device_transforms(4, with_label=True)])
        sample = with_label.set_random_state(1)(item)
        assert sample["has_label"].item() is True
        assert sample["label"].dtype == torch.uint8
        assert ((sample["image"] > standardized(0)) == (sample["label"] > 0)).float().mean() > 0.9
        del (bare := dict(item))["label"]
        sample = with_label.set_random_state(1)(bare)
        assert sample["has_label"].item() is False
        assert not sample["label"].any()
        assert "label" not in loading(prepared=prepared)(bare)


def test_disturbances_reach_the_input_and_never_the_target(tmp_path):
    item = store(tmp_path, ramp())
    sample = loading(prepared=True).set_random_state(0)(item)
    calm = device_transforms(4).set_random_state(0)(sample)
    disturbed = device_transforms(4, warp_prob=1.0, noise_prob=1.0).set_random_state(0)(sample)
    assert calm["input"] is calm["image"]
    assert torch.equal(disturbed["image"], calm["image"])
    assert (disturbed["input"] - disturbed["image"]).abs().max() > 0.01


def test_a_left_joint_is_seen_as_a_right_one(tmp_path):
    array = ramp((16, 16, 16))
    left = {**store(tmp_path, array), "joint": "left", "center_mm": [3.75, 3.75, 3.75]}
    (tmp_path / "mirrored").mkdir()
    right = {**store(tmp_path / "mirrored", np.ascontiguousarray(array[::-1])), "center_mm": [3.75, 3.75, 3.75]}
    one, other = (Compose([loading(random=False, prepared=True), device_transforms(4)])(x) for x in (left, right))
    assert torch.equal(one["image"], other["image"])


def test_tokens_outside_the_field_of_view_are_not_valid(tmp_path):
    item = store(tmp_path, ramp((16, 16, 16)))
    item["fov"] = {"center_mm": [0.0, 3.75, 0.0], "radius_mm": 4.0}
    sample = Compose([loading(16, random=False, prepared=True), device_transforms(4)])(item)
    valid = sample["valid"].reshape(4, 4, 4)
    assert valid[0, 1].all()
    assert not valid[3].any()
    assert torch.equal(valid, valid[..., :1].expand(4, 4, 4))


def test_a_prepared_volume_of_another_spacing_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"1 of 1 volumes cannot be used:\n  - .*a\.nii: was prepared with voxels of 0\.5"
    ):
        SeededDataset([store(tmp_path, ramp())], loading(spacing_mm=0.2, prepared=True))


def with_nan():
    array = ramp(dtype=np.float32)
    array[1, 2, 3] = np.nan
    return array


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (with_nan(), r"1 voxels are NaN or infinite, the first at \(c, i, j, k\) = \(0, 1, 2, 3\)\. Replace them"),
        (np.full(SIZE, -1024, dtype=np.int16), "every voxel is -1024, there is nothing to learn from. Export the scan"),
        (
            ramp((10, 6, 7)),
            r"10 x 6 x 7 voxels \(5\.0 x 3\.0 x 3\.5 mm\) are fewer than the crop `roi_size` = 8 x 8 x 8",
        ),
    ],
)
@pytest.mark.parametrize("cache_rate", [0.0, 1.0])
def test_the_checks_speak_through_the_whole_chain(tmp_path, array, message, cache_rate):
    item = save(tmp_path, array)
    with pytest.raises(ValueError, match=rf"a\.nii\.gz: {message}"):
        SeededDataset([item], chain(), cache_rate=cache_rate)[0]


def test_the_reader_speaks_through_the_whole_chain(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"x" * 500)
    item = {"image": str(tmp_path / "a.nii.gz")}
    with pytest.raises(ValueError, match=r"1 of 1 volumes cannot be used:\n  - .*a\.nii\.gz: the file cannot be read"):
        SeededDataset([item], chain())


def test_building_and_running_the_chain_warns_of_nothing(tmp_path):
    item = save(tmp_path, ramp())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # MONAI's, where pydicom is installed and NVIDIA's decoder is not
        warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
        chain()(item)
        chain(random=False)(item)


def test_the_crop_must_be_made_of_tokens():
    with pytest.raises(ValueError, match="`img_size` must be a multiple of `patch_size`"):
        pretraining_transforms(10, 4)


def test_blocks_change_the_mask_of_training_and_nothing_else(tmp_path):
    item = save(tmp_path, ramp())
    single, blocks, named = (
        loading(8, **arguments).set_random_state(4)(item)
        for arguments in ({}, {"mask_block_size": 2}, {"mask_block_size": 1})
    )
    assert torch.equal(single["noise"], named["noise"])
    assert not torch.equal(single["noise"], blocks["noise"])
    assert single["seed"] == blocks["seed"]
    assert torch.equal(single["image"], blocks["image"])
    np.testing.assert_array_equal(single["crop"].crop_affine, blocks["crop"].crop_affine)


def test_validation_hides_single_tokens_whatever_training_hides(tmp_path):
    item = save(tmp_path, ramp())
    one, other = (loading(8, False, mask_block_size=size).set_random_state(4)(item)["noise"] for size in (1, 2))
    assert torch.equal(one, other)
