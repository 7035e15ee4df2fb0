"""Specks are removed, of the classes asked for."""

import pytest
import torch
from monai.data import MetaTensor

from bertswin_ext.transforms.clean_labels import KeepLargestParts, KeepLargestPartsd


def label(dtype=torch.uint8):
    ids = torch.zeros(1, 8, 8, 8, dtype=dtype)
    ids[0, :3, :3, :3] = 1
    ids[0, 6:, 6:, 6:] = 1
    ids[0, 3, 3, 3] = 1  # touches the first part by a corner
    ids[0, :2, 6:, :2] = 2
    ids[0, 6, :2, 0] = 2
    return ids


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_the_mandible_keeps_its_largest_part(dtype):
    given = label(dtype)
    expected = given.clone()
    expected[0, 6:, 6:, 6:] = 0
    result = KeepLargestParts()(given)
    assert result.dtype == dtype
    assert torch.equal(result, expected)
    assert torch.equal(given, label(dtype))


@pytest.mark.parametrize(("applied", "mandible", "skull"), [([2], 36, 8), ([1, 2], 28, 8), ([], 36, 10), ([7], 36, 10)])
def test_the_classes_asked_for(applied, mandible, skull):
    result = KeepLargestParts(applied)(label())
    assert [(result == n).sum().item() for n in (1, 2)] == [mandible, skull]


def test_an_empty_label_stays_empty():
    assert not KeepLargestParts()(torch.zeros(1, 3, 3, 3)).any()


def test_meta_data_stay():
    given = MetaTensor(label(), affine=torch.diag(torch.tensor([2.0, 2, 2, 1])), meta={"filename_or_obj": "/a.nii"})
    result = KeepLargestPartsd("pred")({"pred": given})["pred"]
    assert (result == 1).sum() == 28
    assert torch.equal(result.affine, given.affine)
    assert result.meta["filename_or_obj"] == "/a.nii"
    assert (given == 1).sum() == 36


def test_missing_keys_follow_monai():
    assert KeepLargestPartsd("pred", allow_missing_keys=True)({"a": 1}) == {"a": 1}
    with pytest.raises(KeyError, match="pred"):
        KeepLargestPartsd("pred")({"a": 1})


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"`applied_labels` must be ids above 0, got \[0, 1\]\."):
        KeepLargestParts([0, 1])
    with pytest.raises(
        ValueError, match=r"A label must be \(1, i, j, k\), got \(3, 2, 2, 2\)\. Take the argmax before"
    ):
        KeepLargestParts()(torch.zeros(3, 2, 2, 2))
