"""A batch taken apart."""

import pytest
import torch
from monai.transforms import Compose, Lambdad, RandGaussianNoised

from bertswin_ext.data import Uncollated
from bertswin_ext.engines import PreparePretrainingBatch, PrepareSegmentationBatch

BATCH = {"image": torch.rand(2, 1, 4, 4, 4), "noise": torch.rand(2, 8)}


def test_image_and_noise():
    image, target, args, kwargs = PreparePretrainingBatch()(BATCH)
    assert image is BATCH["image"]
    assert list(target) == ["image"]
    assert target["image"] is BATCH["image"]
    assert args == ()
    assert list(kwargs) == ["noise"]
    assert kwargs["noise"] is BATCH["noise"]


def test_valid_goes_to_both_and_label_to_the_loss():
    valid, label = torch.ones(2, 8, dtype=torch.bool), torch.zeros(2, 1, 4, 4, 4)
    _, target, _, kwargs = PreparePretrainingBatch()({**BATCH, "valid": valid, "label": label, "patient": ["a", "b"]})
    assert set(target) == {"image", "valid", "label"}
    assert set(kwargs) == {"noise", "valid"}
    assert target["valid"] is kwargs["valid"]
    assert target["label"] is label


def test_a_disturbed_input_is_compared_with_the_clean_image():
    noisy = BATCH["image"] + 1
    image, target, _, _ = PreparePretrainingBatch(input_key="noisy")({**BATCH, "noisy": noisy})
    assert image is noisy
    assert target["image"] is BATCH["image"]
    image, target, _, _ = PreparePretrainingBatch(target_key="clean")({**BATCH, "clean": noisy})
    assert image is BATCH["image"]
    assert target["image"] is noisy


def test_everything_is_moved():
    image, target, _, kwargs = PreparePretrainingBatch()(BATCH, "meta", non_blocking=True, dtype=torch.float16)
    for moved in (image, target["image"], kwargs["noise"]):
        assert moved.device.type == "meta"
        assert moved.dtype == torch.float16
    assert BATCH["image"].device.type == "cpu"


def test_what_a_batch_lacks_is_named():
    with pytest.raises(ValueError, match=r"A batch must have clean, found image, noise\."):
        PreparePretrainingBatch(target_key="clean")(BATCH)
    with pytest.raises(ValueError, match=r"A batch must have image, found no tensor\."):
        PreparePretrainingBatch()({"patient": ["a"]})


def samples(*seeds):
    """Boxes of different sizes."""
    return Uncollated([{"image": torch.ones(1, 4 + n, 4, 4), "seed": seed} for n, seed in enumerate(seeds)])


def finishing():
    cut = Lambdad("image", lambda image: image[:, :4])
    return Compose([cut, RandGaussianNoised("image", prob=1.0)])


def test_samples_are_finished_and_stacked():
    image, target, _, _ = PreparePretrainingBatch(finishing())(samples(1, 2, 1))
    assert image.shape == (3, 1, 4, 4, 4)
    assert target["image"] is image


def test_what_is_drawn_on_the_device_is_the_seed_of_the_sample():
    image, *_ = PreparePretrainingBatch(finishing())(samples(1, 2, 1))
    assert torch.equal(image[0], image[2])
    assert not torch.equal(image[0], image[1])
    again, *_ = PreparePretrainingBatch(finishing())(samples(2))
    assert torch.equal(again[0], image[1])


def test_samples_without_a_transform_are_stacked_as_they_are():
    image, _, _, kwargs = PreparePretrainingBatch()(
        Uncollated([{"image": torch.ones(1, 2, 2, 2), "noise": torch.ones(8)}])
    )
    assert image.shape == (1, 1, 2, 2, 2)
    assert kwargs["noise"].shape == (1, 8)


def test_a_sample_that_lacks_something_is_not_dropped_silently():
    one, other = {"image": torch.ones(1, 2), "valid": torch.ones(8) > 0}, {"image": torch.ones(1, 2)}
    with pytest.raises(ValueError, match="must have the same entries; some lack valid"):
        PreparePretrainingBatch()(Uncollated([one, other]))


def test_a_transforms_error_comes_out_as_it_is():
    def fail(image):
        raise ValueError("a.nii: no token of the crop lies in the scan")

    with pytest.raises(ValueError, match=r"^a\.nii: no token"):
        PreparePretrainingBatch(Compose([Lambdad("image", fail)]))(samples(1))


def test_samples_to_be_finished_need_a_seed_and_must_not_be_collated():
    with pytest.raises(ValueError, match="A sample to be finished must have a `seed`: add `RandSeedd`"):
        PreparePretrainingBatch(finishing())(Uncollated([{"image": torch.ones(1, 4, 4, 4)}]))
    with pytest.raises(ValueError, match="must not be collated: give the loader `collate_fn=Uncollated`"):
        PreparePretrainingBatch(finishing())(BATCH)


def test_input_and_target_are_stacked_once_where_they_are_one():
    one, other = torch.ones(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    same = Uncollated([{"image": one, "input": one}, {"image": other, "input": other}])
    image, target, _, _ = PreparePretrainingBatch(input_key="input")(same)
    assert image is target["image"]
    mixed = Uncollated([{"image": one, "input": one}, {"image": other, "input": other + 1}])
    image, target, _, _ = PreparePretrainingBatch(input_key="input")(mixed)
    assert not torch.equal(image, target["image"])


# --- segmentation ---


def test_input_and_label():
    label = torch.ones(2, 1, 4, 4, 4)
    image, target = PrepareSegmentationBatch()({**BATCH, "label": label, "patient": ["a", "b"]})
    assert image is BATCH["image"]
    assert target is label


def test_labelled_samples_are_finished_and_stacked():
    samples = [{"image": torch.full((1, 2, 2, 2), float(n)), "label": torch.full((1, 2, 2, 2), n)} for n in range(3)]
    plus = Compose([Lambdad("image", lambda x: x + 10)])
    prepare = PrepareSegmentationBatch(plus)
    image, label = prepare(Uncollated([{**sample, "seed": n} for n, sample in enumerate(samples)]))
    assert image[:, 0, 0, 0, 0].tolist() == [10, 11, 12]
    assert label[:, 0, 0, 0, 0].tolist() == [0, 1, 2]
    assert label.dtype == torch.int64


def test_a_label_that_is_missing():
    with pytest.raises(ValueError, match="A batch must have label, found image, noise"):
        PrepareSegmentationBatch()(BATCH)
