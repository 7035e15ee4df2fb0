"""HU as the network sees them."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import ScaleIntensityRange

from bertswin_ext.transforms.standardize import StandardizeHU, StandardizeHUd

HU = torch.linspace(-3000, 4000, 701)


def test_the_papers_constants():
    """arXiv 2512.21769, section 4: clip to [-1011, 1992], then (HU + 21.14) / 578.02."""
    expected = (np.clip(HU.double().numpy(), -1011, 1992) + 21.14) / 578.02
    np.testing.assert_allclose(StandardizeHU()(HU).numpy(), expected, atol=1e-6)


def test_the_same_as_monais():
    low, high = (-1011 + 21.14) / 578.02, (1992 + 21.14) / 578.02
    monai = ScaleIntensityRange(-1011, 1992, low, high, clip=True)(HU)
    torch.testing.assert_close(StandardizeHU()(HU), torch.as_tensor(monai), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.int16, torch.float32, torch.float64])
def test_the_volume_stays_as_it_is(dtype):
    volume = HU.to(dtype)
    before = volume.clone()
    standardized = StandardizeHU()(volume)
    assert standardized.dtype == torch.float32
    assert torch.equal(volume, before)


def test_headers_stay():
    volume = MetaTensor(HU.reshape(1, 701, 1, 1), affine=torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0])))
    standardized = StandardizeHUd("image")({"image": volume})["image"]
    assert isinstance(standardized, MetaTensor)
    assert torch.equal(standardized.affine, volume.affine)


def test_one_volume_under_two_keys_is_done_once():
    item = StandardizeHUd(["image", "input"])({"image": HU, "input": HU})
    assert item["image"] is item["input"]
    item = StandardizeHUd(["image", "input"])({"image": HU, "input": HU + 100})
    assert not torch.equal(item["image"], item["input"])
