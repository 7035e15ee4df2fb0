"""One id per voxel, as argmax gives it."""

import pytest
import torch
from monai.data import MetaTensor

from bertswin_ext.transforms.most_likely import MostLikelyClass, MostLikelyClassd


@pytest.mark.parametrize("classes", [1, 2, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_same_as_argmax(classes, dtype):
    values = torch.randn(classes, 4, 5, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    given = values.clone()
    ids = MostLikelyClass()(values)
    assert ids.dtype == torch.uint8
    assert torch.equal(ids, given.float().argmax(dim=0, keepdim=True).to(torch.uint8))
    assert torch.equal(values, given)


def test_of_equal_classes_the_lowest():
    assert MostLikelyClass()(torch.tensor([0.0, 1.0, 1.0]).reshape(3, 1, 1, 1)).item() == 1
    assert not MostLikelyClass()(torch.zeros(3, 2, 2, 2)).any()


def test_meta_data_stay():
    values = MetaTensor(torch.eye(2).reshape(2, 1, 1, 2), affine=torch.diag(torch.tensor([2.0, 3, 4, 1])))
    values.meta["filename_or_obj"] = "/a.nii"
    ids = MostLikelyClassd("pred")({"pred": values})["pred"]
    assert ids.flatten().tolist() == [0, 1]
    assert torch.equal(ids.affine, values.affine)
    assert ids.meta["filename_or_obj"] == "/a.nii"


def test_missing_keys_follow_monai():
    assert MostLikelyClassd("pred", allow_missing_keys=True)({"a": 1}) == {"a": 1}
    with pytest.raises(KeyError, match="pred"):
        MostLikelyClassd("pred")({"a": 1})


@pytest.mark.parametrize("classes", [0, 257])
def test_more_classes_than_ids(classes):
    with pytest.raises(ValueError, match=f"There must be 1 to 256 classes in the first axis, got {classes}"):
        MostLikelyClass()(torch.zeros(classes, 1, 1, 1))
