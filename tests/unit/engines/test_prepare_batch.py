"""A batch taken apart."""

import pytest
import torch

from bertswin_ext.engines import PreparePretrainingBatch

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
