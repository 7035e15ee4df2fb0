import pytest
import torch

from bertswin_ext.networks.backbone import (
    BertsWinBackbone,
    check_widths,
    checked_img_size,
    checked_patch_size,
    initialize_weights,
)
from bertswin_ext.networks.masked_autoencoder import BertsWinMAE

SMALL = {
    "img_size": (16, 24, 32),
    "patch_size": 8,
    "hidden_size": 24,
    "num_layers": 3,
    "num_heads": 2,
    "window_size": 2,
    "stem_channels": 4,
}


def small(**overrides):
    torch.manual_seed(0)
    return BertsWinBackbone(**SMALL | overrides).eval()


def test_the_masked_autoencoder_is_a_backbone_with_the_same_names_and_features():
    backbone, autoencoder = small(stem="overlapping"), BertsWinMAE(**SMALL, stem="overlapping").eval()
    names = set(backbone.state_dict())
    assert {name.split(".")[0] for name in names} == {"stem", "encoder"}
    assert {name.split(".")[0] for name in set(autoencoder.state_dict()) - names} == {"mask_token", "decoder"}
    autoencoder.load_state_dict(backbone.state_dict(), strict=False)
    x = torch.randn(2, 1, 16, 24, 32)
    assert torch.equal(autoencoder.forward_features(x), backbone.forward_features(x))
    assert torch.equal(autoencoder.tokens(x), backbone.tokens(x))


def test_an_equal_network_is_built_from_its_arguments():
    backbone = small(stem="non_overlapping", in_channels=2)
    again = BertsWinBackbone(**backbone.arguments)
    assert again.arguments == backbone.arguments
    again.load_state_dict(backbone.state_dict())


def test_any_size_that_the_patch_divides():
    backbone = small(stem="non_overlapping")
    features, skips = backbone.encode_volume(torch.randn(1, 1, 24, 8, 16), return_skips=True)
    assert features.shape == (1, 24, 3, 1, 2)
    assert [tuple(skip.shape[1:]) for skip in skips] == [(4, 12, 4, 8), (8, 6, 2, 4), (16, 3, 1, 2)]


def test_positions_of_another_grid_are_those_of_its_own_table():
    x = torch.randn(1, 1, 8, 24, 16)
    trained, fitting = small(), small(img_size=(8, 24, 16), window_size=(1, 2, 2))
    tokens = trained.tokens(x)
    placed = trained._place(tokens, (1, 3, 2))
    assert torch.equal(placed, fitting._place(tokens, (1, 3, 2)))
    assert not torch.allclose(placed.flatten(1, 3), tokens)


def test_intermediates_are_the_blocks_asked_for():
    backbone, x = small(), torch.randn(1, 1, 16, 24, 32)
    final, kept = backbone.forward_intermediates(x)
    assert len(kept) == 3
    assert torch.equal(kept[-1], final)
    assert torch.equal(backbone.forward_intermediates(x, [1])[1][0], kept[1])
    assert not torch.equal(kept[0], kept[1])


def test_weights_are_the_layers_defaults_until_initialized():
    backbone = small()
    assert backbone.encoder.blocks[0].attn.qkv.bias.abs().max() > 0
    backbone.apply(initialize_weights)
    assert backbone.encoder.blocks[0].attn.qkv.bias.abs().max() == 0
    assert backbone.stem.projection.bias.abs().max() == 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"patch_size": 12}, r"`patch_size` must be one power of two from 2 to 64, got 12\."),
        ({"img_size": (16, 24, 36)}, r"`img_size` must be divisible by patch_size 8 .*, got \(16, 24, 36\)\."),
        (
            {"window_size": 3},
            r"`window_size` must lie between 1 and the token grid .* = \(2, 3, 4\) .*, got \(3, 3, 3\)",
        ),
        ({"hidden_size": 20}, r"`hidden_size` must be divisible by 6 \(positions\) .*, got 20 with 2 heads\."),
        ({"in_channels": 0}, r"`in_channels` must be at least 1, got 0\."),
        ({"num_layers": 0}, r"`num_layers` must be one positive int: .*, got 0\."),
        ({"stem": "strict"}, r"`stem` must be 'overlapping' or 'non_overlapping', got 'strict'\."),
    ],
)
def test_bad_arguments(overrides, message):
    with pytest.raises(ValueError, match=message):
        small(**overrides)


def test_bad_input():
    with pytest.raises(ValueError, match=r"must be \(batch, 1 channels, i, j, k\), got \(1, 2, 16, 24, 32\)\."):
        small().forward_features(torch.zeros(1, 2, 16, 24, 32))
    with pytest.raises(ValueError, match=r"sizes must be divisible by patch_size 8, got \(16, 24, 30\)\."):
        small().forward_features(torch.zeros(1, 1, 16, 24, 30))
    with pytest.raises(ValueError, match=r"`return_skips=True` needs the stem .* stem='overlapping'\. Build it with"):
        small().encode_volume(torch.zeros(1, 1, 16, 24, 32), return_skips=True)


def test_the_checks_hand_back_what_they_let_through():
    assert checked_patch_size(16) == 16
    assert checked_img_size(48, 16) == (48, 48, 48)
    assert checked_img_size([16, 32, 48], 16) == (16, 32, 48)
    check_widths(12, 3, 1)
