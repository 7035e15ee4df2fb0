"""Token noise belongs to the sample."""

import pytest
import torch

from bertswin_ext.networks.masking import choose_visible
from bertswin_ext.transforms.masking import RandTokenNoised


@pytest.mark.parametrize(("img_size", "num_tokens"), [(32, 64), ((32, 16, 8), 8), ([8, 8, 8], 1)])
def test_one_number_per_token(img_size, num_tokens):
    noise = RandTokenNoised(img_size, 8).set_random_state(0)({})["noise"]
    assert noise.shape == (num_tokens,)
    assert noise.dtype == torch.float32
    assert type(noise) is torch.Tensor
    assert 0 <= noise.min() <= noise.max() < 1


def test_the_seed_gives_the_noise():
    draw = RandTokenNoised(32, 8)
    first = draw.set_random_state(1)({})["noise"]
    assert not torch.equal(draw({})["noise"], first)
    torch.manual_seed(5)
    assert torch.equal(draw.set_random_state(1)({})["noise"], first)
    assert not torch.equal(draw.set_random_state(2)({})["noise"], first)


def test_the_noise_is_uniform_enough_to_mask_by():
    noise = RandTokenNoised(128, 8).set_random_state(0)({})["noise"]
    assert noise.mean().item() == pytest.approx(0.5, abs=0.02)
    assert len(noise.unique()) == len(noise)
    assert len(choose_visible(noise[None], masking_ratio=0.75).token) == 1024


def test_the_item_is_kept():
    item = {"image": torch.zeros(1), "patient": "x"}
    result = RandTokenNoised(16, 8, key="order")(item)
    assert set(item) == {"image", "patient"}
    assert set(result) == {"image", "patient", "order"}
    assert result["image"] is item["image"]


@pytest.mark.parametrize(("img_size", "patch_size"), [(20, 8), ((16, 16, 4), 8), (16, 0)])
def test_sizes_must_fit(img_size, patch_size):
    with pytest.raises(ValueError, match="`img_size` must be a multiple of `patch_size` along every axis, got"):
        RandTokenNoised(img_size, patch_size)
