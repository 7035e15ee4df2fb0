"""Token noise belongs to the sample."""

import numpy as np
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


# --- blocks ---


def visible(noise, grid, num_kept):
    """The tokens that stay, on their grid."""
    ratio = 1 - (num_kept + 0.5) / len(noise)
    kept = torch.zeros(len(noise), dtype=torch.bool)
    kept[choose_visible(noise[None], ratio).token] = True
    return kept.reshape(grid)


def like_neighbours(kept):
    """Share of the pairs of tokens with a common face that are both visible or both hidden."""
    same = [
        (kept.narrow(axis, 1, kept.shape[axis] - 1) == kept.narrow(axis, 0, kept.shape[axis] - 1)) for axis in range(3)
    ]
    return torch.cat([pairs.flatten() for pairs in same]).float().mean().item()


def cut(grid, block_size, offsets):
    """The number of every token's block, counted by hand."""
    numbers, blocks = {}, torch.empty(grid, dtype=torch.long)
    for place in np.ndindex(*grid):
        block = tuple((index + offset) // block_size for index, offset in zip(place, offsets, strict=True))
        blocks[place] = numbers.setdefault(block, len(numbers))
    return blocks


def matching_cuts(kept, block_size):
    """Offsets at which all blocks but at most one are visible or hidden as a whole."""
    found = []
    for offsets in np.ndindex(*[block_size] * 3):
        blocks = cut(kept.shape, block_size, offsets)
        torn = [number for number in blocks.unique() if len(kept[blocks == number].unique()) > 1]
        if len(torn) <= 1:
            found.append(offsets)
    return found


def test_single_tokens_are_drawn_as_ever():
    """The numbers of a seed, with and without saying so: runs and masks of before stay what they were."""
    for transform in (RandTokenNoised(32, 8), RandTokenNoised(32, 8, block_size=1)):
        noise = transform.set_random_state(3)({})["noise"]
        expected = np.random.RandomState(3).random_sample(64).astype(np.float32)
        assert torch.equal(noise, torch.from_numpy(expected))


@pytest.mark.parametrize(
    ("grid", "block_size"), [((4, 4, 4), 2), ((5, 5, 5), 2), ((6, 4, 3), 3), ((4, 6, 8), 4), ((3, 3, 3), 3)]
)
@pytest.mark.parametrize("num_kept", [1, 5, 17, 26])
def test_blocks_are_visible_or_hidden_as_a_whole_but_for_one(grid, block_size, num_kept):
    sizes = [8 * n for n in grid]
    noise = RandTokenNoised(sizes, 8, block_size=block_size).set_random_state(num_kept)({})["noise"]
    kept = visible(noise, grid, num_kept)
    assert kept.sum() == num_kept
    assert matching_cuts(kept, block_size)


def test_no_two_tokens_are_alike():
    noise = RandTokenNoised(128, 8, block_size=3).set_random_state(0)({})["noise"]
    assert noise.dtype == torch.float32
    assert len(noise.unique()) == len(noise) == 4096
    assert 0 <= noise.min() < 0.01 < 0.99 < noise.max() < 1


def test_larger_blocks_are_larger():
    shares = []
    for block_size in (1, 2, 4):
        transform = RandTokenNoised(64, 8, block_size=block_size)
        masks = [visible(transform.set_random_state(seed)({})["noise"], (8, 8, 8), 128) for seed in range(10)]
        shares.append(np.mean([like_neighbours(kept) for kept in masks]))
    # two tokens of one block are alike, two others with the chance 1/4 * 1/4 + 3/4 * 3/4
    assert shares[0] == pytest.approx(0.625, abs=0.02)
    assert shares[1] == pytest.approx(0.5 + 0.5 * 0.625, abs=0.03)
    assert shares[2] == pytest.approx(0.75 + 0.25 * 0.625, abs=0.03)


def test_the_borders_of_the_blocks_move():
    """Where only one cut fits the mask, it tells the offset."""
    transform = RandTokenNoised(48, 8, block_size=2)
    cuts = set()
    for seed in range(60):
        found = matching_cuts(visible(transform.set_random_state(seed)({})["noise"], (6, 6, 6), 100), 2)
        assert found
        if len(found) == 1:
            cuts.add(found[0])
    assert cuts == set(np.ndindex(2, 2, 2))


def test_every_token_is_visible_about_as_often_as_every_other():
    """Also at the sides of the grid, where blocks are cut off."""
    transform = RandTokenNoised(40, 8, block_size=2)
    count = sum(visible(transform.set_random_state(seed)({})["noise"], (5, 5, 5), 31).float() for seed in range(1500))
    assert (count / 1500 - 31 / 125).abs().max() < 0.06


def test_the_seed_gives_the_blocks():
    draw = RandTokenNoised(32, 8, block_size=2)
    first = draw.set_random_state(1)({})["noise"]
    assert torch.equal(draw.set_random_state(1)({})["noise"], first)
    assert not torch.equal(draw({})["noise"], first)


@pytest.mark.parametrize("block_size", [0, -1, 3, 16])
def test_a_block_must_fit(block_size):
    message = (
        r"`block_size` counts tokens and must lie between 1 and the token grid img_size / patch_size = \(4, 2, 4\) on "
        rf"every axis, got {block_size}\."
    )
    with pytest.raises(ValueError, match=message):
        RandTokenNoised((32, 16, 32), 8, block_size=block_size)
