"""The chains of the segmentation bundle: what comes out of them, and what they refuse."""

import warnings

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose, LoadImaged

from bertswin_ext.data import SeededDataset, VolumeReader
from bertswin_ext.geometry import moved
from bertswin_ext.stored_volume import write_stored_volume
from bertswin_ext.transforms.joint_region import BlankRegiond
from bertswin_ext.transforms.pipelines import device_transforms
from bertswin_ext.transforms.segmentation_pipelines import (
    segmentation_postprocessing,
    segmentation_preprocessing,
    segmentation_training,
)

SIZE, SPACING_MM = (14, 12, 10), 0.5
PLAIN = np.diag([SPACING_MM] * 3 + [1.0])
UPRIGHT = {"rotate_range_deg": 0.0, "scale_range": (1.0, 1.0)}


def image_array():
    return np.linspace(-1500, 2500, int(np.prod(SIZE))).reshape(SIZE).astype(np.int16)


def label_array():
    label = np.zeros(SIZE, dtype=np.uint8)
    label[:, :, 8:] = 2
    label[6:8, 5:7, 3:5] = 1
    return label


def standardized(hu):
    return (np.clip(hu.astype(float), -1011, 1992) + 21.14) / 578.02


def save(folder, label=None, affine=PLAIN):
    """Files of an image and its label, as an item."""
    arrays = {"image": image_array(), "label": label_array() if label is None else label}
    for name, array in arrays.items():
        nib.save(nib.Nifti1Image(array, affine), folder / f"{name}.nii.gz")
    return {name: str(folder / f"{name}.nii.gz") for name in arrays}


def store(folder, label=None):
    """Prepared volumes of an image and its label, as an item."""
    arrays = {"image": image_array(), "label": label_array() if label is None else label}
    for name, array in arrays.items():
        write_stored_volume(folder / f"{name}.nii", array, PLAIN)
    return {name: str(folder / f"{name}.nii") for name in arrays}


def as_volume(array, affine):
    return MetaTensor(torch.from_numpy(array)[None], affine=torch.from_numpy(affine))


# --- preprocessing ---


def test_an_image_alone_is_enough(tmp_path):
    sample = segmentation_preprocessing(SPACING_MM)({"image": save(tmp_path)["image"]})
    assert set(sample) == {"image"}
    assert sample["image"].dtype == torch.float32
    np.testing.assert_allclose(sample["image"][0].numpy(), standardized(image_array()), atol=1e-5)


def test_what_else_an_item_has_is_left_alone(tmp_path):
    """MONAI Label puts the path beside the image."""
    path = save(tmp_path)["image"]
    sample = segmentation_preprocessing(0.25)({"image": path, "image_path": path, "device": "cpu"})
    assert (sample["image_path"], sample["device"]) == (path, "cpu")
    assert torch.equal(sample["image"], segmentation_preprocessing(0.25)({"image": path})["image"])


@pytest.mark.parametrize("own_grid", [False, True])
def test_the_label_is_resampled_too_or_left_where_it_was(tmp_path, own_grid):
    affine = np.diag([-SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    item = {**save(tmp_path, affine=affine), "joint": "left", "center_mm": [-3.0, 3.0, 2.5]}
    chain = segmentation_preprocessing(0.25, VolumeReader(), True, region_mm=4.0, label_on_own_grid=own_grid)
    sample = chain(item)
    assert sample["image"].shape == (1, 15, 15, 15)
    assert sample["label"].dtype == torch.uint8
    if own_grid:
        # what lies outside the region cannot be segmented
        blanked = BlankRegiond("label", 4.0)(
            {"label": as_volume(label_array(), affine), "center_mm": item["center_mm"]}
        )
        assert torch.equal(sample["label"].as_tensor(), blanked["label"].as_tensor())
        assert 0 < np.count_nonzero(blanked["label"]) < np.count_nonzero(label_array())
        np.testing.assert_array_equal(sample["label"].affine, affine)
    else:
        assert torch.equal(sample["label"].affine, sample["image"].affine)
        assert sample["label"].shape == sample["image"].shape
        assert set(sample["label"].unique().tolist()) == {0, 1, 2}


def test_without_mirroring(tmp_path):
    item = {**save(tmp_path), "joint": "left"}
    plain, mirrored = (segmentation_preprocessing(SPACING_MM, mirror_left=m)(item)["image"] for m in (False, True))
    assert torch.equal(mirrored.as_tensor(), plain.as_tensor().flip(1))
    assert not torch.equal(mirrored.as_tensor(), plain.as_tensor())


def test_a_loader_stands_at_the_top_of_the_chain():
    """MONAI Label looks for it there, to put its own in its place."""
    for with_label in (False, True):
        chain = segmentation_preprocessing(with_label=with_label)
        assert isinstance(chain, Compose)
        assert [isinstance(transform, LoadImaged) for transform in chain.transforms].count(True) == 1


def test_another_loader_in_its_place_and_the_rest_one_by_one(tmp_path):
    """As MONAI Label runs the chain; what comes out is undone by the chain as it was built."""
    item = {**save(tmp_path, affine=np.diag([-0.5, 0.5, 0.5, 1.0])), "joint": "left", "center_mm": [-3.0, 3.0, 2.5]}
    chain = segmentation_preprocessing(0.25, VolumeReader(), with_label=True, region_mm=60.0)
    sample = LoadImaged(["image", "label"])(item)
    for transform in chain.transforms:
        sample = sample if isinstance(transform, LoadImaged) else transform(sample)
    sample["pred"] = logits_of(sample["label"])
    found = segmentation_postprocessing(chain)(sample)["pred"]
    np.testing.assert_array_equal(found[0].numpy(), label_array())


@pytest.mark.parametrize("spacing_mm", [SPACING_MM, 2.0])
def test_a_volume_smaller_than_the_window(tmp_path, spacing_mm):
    preprocessing = segmentation_preprocessing(spacing_mm)
    sample = preprocessing({"image": save(tmp_path)["image"]})
    window = SlidingWindowInferer(roi_size=(16, 16, 16), overlap=0.25, mode="gaussian")
    sample["pred"] = window(sample["image"][None], lambda x: torch.cat([x, 1 - x, x - 1], dim=1))[0]
    label = segmentation_postprocessing(preprocessing)(sample)["pred"]
    assert label.shape == (1, *SIZE)
    assert set(label.unique().tolist()) == {0, 1}


def test_labels_are_checked_before_anything_moves(tmp_path):
    item = save(tmp_path, label=np.full(SIZE, 4, dtype=np.uint8))
    with pytest.raises(RuntimeError) as caught:
        segmentation_preprocessing(SPACING_MM, VolumeReader(), with_label=True)(item)
    assert "label.nii.gz: holds the unknown id 4 (1680 voxels)" in str(caught.value.__cause__)
    assert segmentation_preprocessing(SPACING_MM)(item)["image"].shape == (1, *SIZE)


def run_all_chains(item):
    preprocessing = segmentation_preprocessing(0.4, VolumeReader(), with_label=True, region_mm=4.0)
    sample = preprocessing(item)
    sample["pred"] = torch.zeros(3, *sample["image"].shape[1:])
    segmentation_postprocessing(preprocessing, keep_largest=True)(sample)
    training = segmentation_training(8, SPACING_MM, VolumeReader())
    device_transforms(4, with_label=True)(training.set_random_state(0)(item))


def test_building_and_running_the_chains_warns_of_nothing(tmp_path):
    item = {**save(tmp_path), "joint": "left", "center_mm": [3.0, 3.0, 2.0]}
    run_all_chains(item)  # ITK does not outlive a warning that becomes an error while it is loaded
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # MONAI's, where pydicom is installed and NVIDIA's decoder is not
        warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
        run_all_chains(item)


# --- postprocessing ---


def logits_of(label):
    return torch.nn.functional.one_hot(label[0].as_tensor().long(), 3).movedim(-1, 0).float() * 20


@pytest.mark.parametrize("keep_largest", [False, True])
def test_specks_of_the_mandible_go_if_asked_for(tmp_path, keep_largest):
    label = label_array()
    label[0, 0, 0] = 1
    label[13, 0, 0] = 2
    preprocessing = segmentation_preprocessing(SPACING_MM, with_label=True)
    sample = preprocessing(save(tmp_path, label))
    sample["pred"] = logits_of(sample["label"])
    found = segmentation_postprocessing(preprocessing, keep_largest)(sample)["pred"]
    if keep_largest:
        label[0, 0, 0] = 0
    assert found.dtype == torch.uint8
    np.testing.assert_array_equal(found[0].numpy(), label)


def test_classes_are_probable_not_only_larger(tmp_path):
    """Interpolated logits would let one confident voxel outvote its neighbours."""
    preprocessing = segmentation_preprocessing((SPACING_MM, SPACING_MM, 4 * SPACING_MM))
    sample = preprocessing({"image": save(tmp_path)["image"]})
    logits = torch.zeros(2, *sample["image"].shape[1:])
    logits[0] = 1.0
    logits[1, ..., 0] = 100.0
    sample["pred"] = logits
    found = segmentation_postprocessing(preprocessing)(sample)["pred"]
    # the fourth voxel: 0.25 * 1 + 0.75 * 0.27 against 0.75 * 0.73; of logits it would be 25 against 1
    assert found[0, 0, 0].tolist() == [1, 1, 1] + [0] * 7


def test_other_keys_and_a_collated_batch(tmp_path):
    preprocessing = segmentation_preprocessing(0.25, with_label=True)
    item = preprocessing({**save(tmp_path), "joint": "left"})
    batch = list_data_collate([item])
    batch["logits"] = torch.stack([logits_of(label) for label in batch["label"]])
    (sample,) = decollate_batch(batch)
    found = segmentation_postprocessing(preprocessing, key="logits")(sample)["logits"]
    assert isinstance(found, MetaTensor)
    np.testing.assert_array_equal(found[0].numpy(), label_array())
    np.testing.assert_allclose(found.affine, PLAIN, atol=1e-12)


# --- training ---


@pytest.mark.parametrize("prepared", [False, True])
def test_a_sample_for_training(tmp_path, prepared):
    item = store(tmp_path) if prepared else save(tmp_path)
    chain = Compose(
        [
            segmentation_training(8, SPACING_MM, VolumeReader(), prepared, **UPRIGHT),
            device_transforms(4, with_label=True, with_valid=False),
        ]
    )
    sample = chain.set_random_state(2)(item)
    assert "valid" not in sample
    assert "noise" not in sample
    assert sample["has_label"].item() is True
    assert sample["input"].shape == sample["image"].shape == sample["label"].shape == (1, 8, 8, 8)
    plan = sample["crop"]
    start = np.rint(moved(plan.matrix, [0, 0, 0])).astype(int)
    where = tuple(slice(a, a + 8) for a in start)
    np.testing.assert_array_equal(sample["label"][0].numpy(), label_array()[where])
    np.testing.assert_allclose(sample["image"][0].numpy(), standardized(image_array()[where]), atol=1e-4)


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize(("ratios", "wanted"), [([0, 1, 0], 1), ([0, 0, 1], 2)])
def test_crops_hold_the_class_that_is_wanted(tmp_path, prepared, ratios, wanted):
    item = {**(store(tmp_path) if prepared else save(tmp_path)), "center_mm": [0.0, 0.0, 0.0], "joint": "right"}
    dataset = SeededDataset([item], segmentation_training(4, SPACING_MM, VolumeReader(), prepared, ratios, **UPRIGHT))
    samples = [dataset[0, seed] for seed in range(30)]
    assert all((sample["label"] == wanted).any() for sample in samples)
    assert len({tuple(sample["center_mm"]) for sample in samples}) > 5


def test_the_classes_are_noted_once_and_cached(tmp_path):
    dataset = SeededDataset([store(tmp_path)], segmentation_training(4, SPACING_MM, prepared=True))
    assert [len(places) for places in dataset._cache[0]["class_voxels_mm"]] == [1336, 8, 336]
    assert "class_voxels_mm" not in dataset[0]
    assert isinstance(dataset[0]["seed"], int)
    assert torch.equal(dataset[0, 7]["label"], dataset[0, 7]["label"])


@pytest.mark.parametrize("prepared", [False, True])
def test_an_item_without_a_label_is_cropped_around_its_joint(tmp_path, prepared):
    item = store(tmp_path) if prepared else save(tmp_path)
    item = {"image": item["image"], "center_mm": [3.5, 3.0, 2.5]}
    chain = segmentation_training(4, SPACING_MM, VolumeReader(), prepared, core_size=4, **UPRIGHT)
    sample = Compose([chain, device_transforms(4, with_label=True)])(item)
    assert sample["has_label"].item() is False
    np.testing.assert_allclose(moved(sample["crop"].crop_affine, [1.5] * 3), item["center_mm"], atol=SPACING_MM / 2)


@pytest.mark.parametrize("prepared", [False, True])
def test_labels_are_checked_in_training_too(tmp_path, prepared):
    make = store if prepared else save
    item = make(tmp_path, label=np.full(SIZE, 3, dtype=np.uint8))
    message = (
        r"1 of 1 volumes cannot be used:\n  - .*label\.nii.*: holds the unknown id 3 \(1680 voxels\); known are 0 b"
    )
    with pytest.raises(ValueError, match=message):
        SeededDataset([item], segmentation_training(4, SPACING_MM, VolumeReader(), prepared))


def test_a_label_of_another_grid_is_refused(tmp_path):
    item = save(tmp_path)
    nib.save(nib.Nifti1Image(label_array(), np.diag([0.5, 0.5, 0.6, 1.0])), tmp_path / "label.nii.gz")
    message = (
        r"label\.nii\.gz: the label is not on the grid of its image .*image\.nii\.gz: they lie up to 0\.9 mm apart"
    )
    with pytest.raises(ValueError, match=message):
        SeededDataset([item], segmentation_training(4, SPACING_MM, VolumeReader()))


def test_the_image_comes_back_too_if_asked_for(tmp_path):
    chain = segmentation_preprocessing(0.25, VolumeReader())
    sample = chain({**save(tmp_path, affine=np.diag([-SPACING_MM, SPACING_MM, SPACING_MM, 1.0])), "joint": "left"})
    logits = MetaTensor(torch.rand(3, *sample["image"].shape[1:]), affine=sample["image"].affine)
    back = segmentation_postprocessing(chain, with_image=True)({**sample, "pred": logits})
    assert back["pred"].shape == back["image"].shape == (1, *SIZE)
    assert torch.equal(back["pred"].affine, back["image"].affine)
    inner = (slice(1, -1),) * 3
    wanted = standardized(image_array())[inner]
    np.testing.assert_allclose(back["image"][0].numpy()[inner], wanted, atol=0.1 * wanted.std())


def test_a_label_that_is_not_asked_for_is_not_touched(tmp_path):
    item = {**save(tmp_path), "center_mm": [3.0, 3.0, 2.5]}
    done = segmentation_preprocessing(SPACING_MM, VolumeReader(), region_mm=4.0, label_on_own_grid=True)(item)
    assert done["label"] == item["label"]
    assert done["image"].shape == (1, 8, 8, 8)
