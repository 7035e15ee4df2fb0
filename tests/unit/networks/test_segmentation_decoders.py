import pytest
import torch
from torch import nn

from bertswin_ext.networks.segmentation_decoders import (
    LinearDecoder,
    TwoLayerDecoder,
    UNETRDecoder,
    build_decoder,
    spaced_blocks,
)

GRID, PATCH, WIDTH, STEM = (3, 5, 7), 8, 24, 4
SIZE = tuple(PATCH * tokens for tokens in GRID)
KINDS = ("unetr", "linear", "two_layer")
OPTIONS = {
    "hidden_size": WIDTH,
    "num_layers": 2,
    "out_channels": 3,
    "patch_size": PATCH,
    "in_channels": 1,
    "stem_channels": STEM,
    "decoder_channels": 4,
    "dropout": 0.0,
}


def built(kind, **overrides):
    torch.manual_seed(0)
    return build_decoder(kind, **OPTIONS | overrides)


def inputs(decoder, generator_seed=1):
    """Image, skips and features as a segmenter gives them."""
    torch.manual_seed(generator_seed)
    skips = [torch.randn(1, STEM * 2**s, *(size // 2 ** (s + 1) for size in SIZE)) for s in range(3)]
    features = [torch.randn(1, WIDTH, *GRID) for _ in decoder.wanted_blocks]
    return torch.randn(1, 1, *SIZE), skips, features


def local(decoder):
    """Instance norm spreads everything over the volume: take it out."""
    for module in list(decoder.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.InstanceNorm3d):
                setattr(module, name, nn.Identity())
    return decoder.eval()


def box_of_change(before, after):
    """First and last voxel per axis that moved by more than rounding: ((i, i), (j, j), (k, k))."""
    moved = ((before - after).abs().amax((0, 1)) > 1e-6).nonzero()
    return list(zip(moved.amin(0).tolist(), moved.amax(0).tolist(), strict=True))


def box_around(place, edge, reach):
    """The voxels of cell ``place`` of that edge and ``reach`` more, within the volume."""
    starts = [edge * cell for cell in place]
    return [
        (max(0, start - reach), min(size, start + edge + reach) - 1) for start, size in zip(starts, SIZE, strict=True)
    ]


@pytest.mark.parametrize(
    ("num_layers", "blocks"),
    [(12, (2, 5, 8, 11)), (8, (1, 3, 5, 7)), (5, (1, 2, 3, 4)), (4, (0, 1, 2, 3)), (3, (0, 1, 2)), (1, (0,))],
)
def test_blocks_are_evenly_spaced_and_the_last_is_among_them(num_layers, blocks):
    assert spaced_blocks(num_layers) == blocks


@pytest.mark.parametrize("kind", KINDS)
def test_logits_have_the_size_of_the_image(kind):
    decoder = built(kind, out_channels=5)
    assert decoder(*inputs(decoder)).shape == (1, 5, *SIZE)


def test_the_probes_are_the_papers():
    linear, two_layer = built("linear"), built("two_layer", hidden_size=192)
    assert isinstance(linear, LinearDecoder)
    assert isinstance(two_layer, TwoLayerDecoder)
    assert linear.wanted_blocks == (1,)
    assert {name: tuple(p.shape) for name, p in linear.named_parameters()} == {
        "head.weight": (3, WIDTH, 1, 1, 1),
        "head.bias": (3,),
    }
    layers = [type(module).__name__ for module in two_layer.modules() if not list(module.children())]
    assert layers == ["Conv3d", "BatchNorm3d", "ReLU", "Dropout3d", "Conv3d", "Upsample"]
    assert two_layer.hidden.conv.weight.shape == (48, 192, 3, 3, 3)
    assert built("two_layer").hidden.conv.weight.shape == (32, WIDTH, 3, 3, 3)


def test_the_linear_probe_is_a_pointwise_map_of_the_last_features_between_the_tokens():
    decoder = built("linear")
    image, skips, features = inputs(decoder)
    logits = decoder(image, skips, features)
    tokens = torch.einsum("oh,bhijk->boijk", decoder.head.weight[..., 0, 0, 0], features[-1])
    # the middle of a token's cube lies between its two middle voxels
    middle = logits.unfold(2, 8, 8).unfold(3, 8, 8).unfold(4, 8, 8)[..., 3:5, 3:5, 3:5].mean((-1, -2, -3))
    weights = torch.tensor([1 / 32, 30 / 32, 1 / 32])
    padded = torch.nn.functional.pad(tokens, (1,) * 6, mode="replicate")
    kernel = torch.einsum("i,j,k->ijk", weights, weights, weights)[None, None].repeat(3, 1, 1, 1, 1)
    expected = torch.nn.functional.conv3d(padded, kernel, groups=3)
    torch.testing.assert_close(middle, expected)


def test_channels_double_with_every_halving_up_to_256():
    decoder = built("unetr", patch_size=32, decoder_channels=24)
    assert isinstance(decoder, UNETRDecoder)
    assert [up.up.deconv.out_channels for up in decoder.ups] == [256, 192, 96, 48]
    assert decoder.fuse.linear.out_features == 256
    assert decoder.full.up.deconv.out_channels == 24
    assert [len(up.convs) for up in [*decoder.ups, decoder.full]] == [2, 2, 2, 2, 1]


# half a patch of upsampling; a token and half a patch; two convolutions at 1/4 and at 1/2, one at full size
@pytest.mark.parametrize(("kind", "reach"), [("linear", 4), ("two_layer", 12), ("unetr", 13)])
@pytest.mark.parametrize("token", [(0, 2, 6), (2, 0, 3), (1, 4, 0)])
def test_a_token_moves_exactly_the_logits_within_reach(kind, reach, token):
    decoder = local(built(kind))
    image, skips, features = inputs(decoder)
    changed = [feature.clone() for feature in features]
    for feature in changed:
        feature[(0, slice(None), *token)] += torch.randn(WIDTH) * 3
    before, after = decoder(image, skips, features), decoder(image, skips, changed)
    assert box_of_change(before, after) == box_around(token, PATCH, reach)


@pytest.mark.parametrize(("stage", "reach"), [(0, 5), (1, 13), (2, 13)])
def test_a_skip_moves_exactly_the_logits_within_reach(stage, reach):
    decoder = local(built("unetr"))
    image, skips, features = inputs(decoder)
    changed = [skip.clone() for skip in skips]
    edge = 2 ** (stage + 1)
    cell = tuple(voxel // edge for voxel in (5, 22, 40))
    changed[stage][(0, slice(None), *cell)] += 5.0
    before, after = decoder(image, skips, features), decoder(image, changed, features)
    assert box_of_change(before, after) == box_around(cell, edge, reach)


def test_a_voxel_of_the_image_moves_exactly_the_logits_within_reach():
    decoder = local(built("unetr"))
    image, skips, features = inputs(decoder)
    lit = image.clone()
    lit[0, 0, 3, 17, 45] += 20.0
    before, after = decoder(image, skips, features), decoder(lit, skips, features)
    assert box_of_change(before, after) == box_around((3, 17, 45), 1, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_acts_in_training_only(kind):
    still, dropping = built(kind), built(kind, dropout=0.5)
    given = inputs(still)
    for decoder in (still, dropping):
        torch.testing.assert_close(decoder.eval()(*given), built(kind).eval()(*given))
    torch.testing.assert_close(still.train()(*given), still(*given))
    dropping.train()
    assert not torch.allclose(dropping(*given), dropping(*given))


@pytest.mark.parametrize("kind", KINDS)
def test_the_names_of_the_weights_do_not_depend_on_dropout(kind):
    built(kind, dropout=0.3).load_state_dict(built(kind).state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_logits_start_small_and_without_a_favourite(kind):
    decoder = built(kind)
    logits = decoder(*inputs(decoder))
    assert 0.05 < logits.std() < 3
    assert decoder.head.bias.abs().max() == 0


def test_upsampling_keeps_the_scale():
    up = built("unetr", decoder_channels=16).full.up
    x = torch.nn.functional.leaky_relu(torch.randn(1, 32, 6, 6, 6))
    assert up(x).std().item() == pytest.approx(1, rel=0.25)


@pytest.mark.parametrize(
    ("kind", "overrides", "message"),
    [
        ("deconv", {}, r"`decoder` must be one of 'unetr', 'linear', 'two_layer', got 'deconv'\."),
        ("unetr", {"out_channels": 1}, r"`out_channels` must be at least 2 \(background and a class\), got 1\."),
        ("unetr", {"decoder_channels": 0}, r"`decoder_channels` must be at least 1, got 0\."),
        ("linear", {"dropout": 1.0}, r"`dropout` must be in \[0, 1\), got 1\.0\."),
        ("two_layer", {"dropout": -0.1}, r"`dropout` must be in \[0, 1\), got -0\.1\."),
    ],
)
def test_bad_arguments(kind, overrides, message):
    with pytest.raises(ValueError, match=message):
        built(kind, **overrides)
