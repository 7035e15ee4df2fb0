"""Samples with and without labels."""

import torch

from bertswin_ext.transforms.labelled import Labelledd

IMAGE = torch.zeros(1, 3, 4, 5)


def test_a_label_stays():
    label = torch.ones(1, 3, 4, 5) * 2
    sample = Labelledd()({"image": IMAGE, "label": label, "patient": "x"})
    assert sample["label"].dtype == torch.uint8
    assert torch.equal(sample["label"], label.byte())
    assert sample["has_label"].item() is True
    assert sample["patient"] == "x"


def test_a_missing_label_is_empty():
    sample = Labelledd()({"image": IMAGE})
    assert sample["label"].shape == IMAGE.shape
    assert sample["label"].dtype == torch.uint8
    assert not sample["label"].any()
    assert sample["has_label"].item() is False
