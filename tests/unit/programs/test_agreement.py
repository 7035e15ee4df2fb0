import pytest
import torch

from bertswin_ext.programs.agreement import compare_logits, ct_like
from bertswin_ext.voxels import VOXELS


def test_equal_logits():
    logits = torch.randn(2, 3, 4, 5, 6)
    found = compare_logits(logits, logits.clone())
    assert (found.largest, found.same_labels) == (0.0, 1.0)


def test_one_voxel_with_another_label():
    logits = torch.zeros(1, 3, 2, 5, 10)
    logits[:, 0] = 1.0
    other = logits.clone()
    other[0, 2, 1, 2, 3] = 1.25
    found = compare_logits(logits, other)
    assert found.largest == 1.25
    assert found.same_labels == pytest.approx(0.99)


def test_other_shapes():
    with pytest.raises(ValueError, match=r"same shape, got \(1, 3, 2, 2, 2\) and \(1, 2, 2, 2, 2\)"):
        compare_logits(torch.zeros(1, 3, 2, 2, 2), torch.zeros(1, 2, 2, 2, 2))


def test_what_is_like_ct():
    image = ct_like((2, 1, 24, 16, 8))
    hu = image * VOXELS.std_hu + VOXELS.mean_hu
    assert image.shape == (2, 1, 24, 16, 8)
    assert hu.min() >= VOXELS.min_hu - 0.1
    assert hu.max() <= VOXELS.max_hu + 0.1
    assert hu.max() - hu.min() > 1500
    assert not torch.equal(image[0], image[1])


def test_seeds():
    assert torch.equal(ct_like((1, 1, 8, 8, 8)), ct_like((1, 1, 8, 8, 8)))
    assert not torch.equal(ct_like((1, 1, 8, 8, 8)), ct_like((1, 1, 8, 8, 8), seed=1))
