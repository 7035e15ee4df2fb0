import pytest
import torch

from bertswin_ext.networks.stems import PatchStem, split_patches


def test_patches_are_in_c_order():
    volume = torch.zeros(1, 1, 8, 16, 24)
    volume[0, 0, 4, 9, 23] = 1.0
    patches = split_patches(volume, 8)
    assert patches.shape == (1, 6, 1, 8, 8, 8)
    assert patches.nonzero().tolist() == [[0, 5, 0, 4, 1, 7]]


def test_non_overlapping_volume_equals_patches():
    torch.manual_seed(0)
    stem = PatchStem(2, 24, 8, stem_channels=8, kind="non_overlapping").double()
    volume = torch.randn(2, 2, 16, 24, 8, dtype=torch.float64)
    tokens, skips = stem.embed_volume(volume)
    one_by_one = stem.embed_patches(split_patches(volume, 8).flatten(0, 1))
    assert tokens.shape == (2, 24, 2, 3, 1)
    torch.testing.assert_close(tokens.flatten(2).transpose(1, 2).flatten(0, 1), one_by_one)
    assert [skip.shape[1:] for skip in skips] == [(8, 8, 12, 4), (16, 4, 6, 2), (32, 2, 3, 1)]


def test_non_overlapping_skips_lie_where_the_voxels_are():
    torch.manual_seed(0)
    stem = PatchStem(1, 12, 4, stem_channels=4, kind="non_overlapping")
    volume = torch.randn(1, 1, 8, 8, 8)
    changed = volume.clone()
    changed[0, 0, 5, 2, 7] += 1.0
    moved = [
        (a - b).abs().sum(1)[0] > 0
        for a, b in zip(stem.embed_volume(volume)[1], stem.embed_volume(changed)[1], strict=True)
    ]
    # the first stage reaches half a patch (group norm), the patch of the voxel is (1, 0, 1)
    for touched, cells in zip(moved, (2, 1), strict=True):
        places = touched.nonzero() // cells
        assert {tuple(place) for place in places.tolist()} == {(1, 0, 1)}


def test_overlapping_stem_sees_its_neighbours():
    torch.manual_seed(0)
    stem = PatchStem(1, 12, 8, stem_channels=4)
    volume = torch.randn(1, 1, 16, 16, 16)
    tokens, skips = stem.embed_volume(volume)
    one_by_one = stem.embed_patches(split_patches(volume, 8).flatten(0, 1))
    assert not torch.allclose(tokens.flatten(2)[0].t(), one_by_one, atol=1e-3)
    assert len(skips) == 3


@pytest.mark.parametrize("patch_size", [2, 4, 8])
@pytest.mark.parametrize("kind", ["overlapping", "non_overlapping"])
def test_single_patches_equal_the_convolutions(kind, patch_size):
    torch.manual_seed(0)
    stem = PatchStem(2, 12, patch_size, stem_channels=4, kind=kind).double()
    patches = torch.randn(5, 2, patch_size, patch_size, patch_size, dtype=torch.float64)
    tokens, convolved = stem.embed_patches(patches), stem(patches)[0].flatten(1)
    torch.testing.assert_close(tokens, convolved)
    weights = torch.randn_like(tokens)
    ours, theirs = (torch.autograd.grad((out * weights).sum(), list(stem.parameters())) for out in (tokens, convolved))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stem_channels": 6}, r"`stem_channels` must be a positive multiple of 4 \(group norm\), got 6\."),
        ({"kind": "strict"}, r"`stem` must be 'overlapping' or 'non_overlapping', got 'strict'\."),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        PatchStem(1, 12, 8, **arguments)
