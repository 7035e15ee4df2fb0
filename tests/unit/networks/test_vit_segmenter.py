import pytest
import torch

from bertswin_ext.networks.vit_mae import ViTMAE
from bertswin_ext.networks.vit_segmenter import ViTSegmenter

KINDS = ("unetr", "linear", "two_layer")
SMALL = {
    "img_size": (16, 24, 32),
    "patch_size": 8,
    "hidden_size": 24,
    "num_layers": 3,
    "num_heads": 2,
    "mlp_dim": 32,
}
MAE_DECODER = {"decoder_hidden_size": 24, "decoder_mlp_dim": 24, "decoder_num_layers": 1, "decoder_num_heads": 2}


def small(**overrides):
    torch.manual_seed(0)
    return ViTSegmenter(**SMALL | {"stem_channels": 4, "decoder_channels": 4} | overrides)


def pretrained():
    torch.manual_seed(1)
    return ViTMAE(1, **SMALL, **MAE_DECODER).eval()


def features_of(network, x):
    """The encoder's path of `ViTMAE` with nothing hidden, up to its decoder's embedding."""
    kept = []
    network.decoder_embed.register_forward_pre_hook(lambda _module, given: kept.append(given[0][:, 1:]))
    noise = torch.arange(24.0).repeat(len(x), 1)
    network.masking_ratio = 0.0
    network(x, noise=noise)
    return kept[0]


@pytest.mark.parametrize("kind", KINDS)
def test_contract(kind):
    network = small(decoder=kind, in_channels=2, out_channels=4)
    assert network(torch.randn(2, 2, 16, 24, 32)).shape == (2, 4, 16, 24, 32)


@pytest.mark.parametrize("kind", KINDS)
def test_all_but_the_decoder_of_a_vit_mae_loads_by_name(kind):
    given, network = pretrained().state_dict(), small(decoder=kind)
    outcome = network.load_state_dict(given, strict=False)
    assert all(key.startswith("decoder.") for key in outcome.missing_keys)
    assert all(key.startswith("decoder_") or key == "mask_tokens" for key in outcome.unexpected_keys)
    assert len(outcome.unexpected_keys) < len(given) / 2


def test_features_are_those_of_the_vit_mae_with_nothing_hidden():
    autoencoder, network, x = pretrained(), small().eval(), torch.randn(2, 1, 16, 24, 32)
    network.load_state_dict(autoencoder.state_dict(), strict=False)
    features = network.forward_features(x)
    assert features.shape == (2, 24, 2, 3, 4)
    torch.testing.assert_close(features.flatten(2).transpose(1, 2), features_of(autoencoder, x))


def test_the_decoder_gets_evenly_spaced_blocks_and_the_normed_last_one():
    network = small(num_layers=8).eval()
    x, seen = torch.randn(1, 1, 16, 24, 32), []
    blocks = {}
    for layer in (1, 3, 5):
        network.blocks[layer].register_forward_hook(lambda _m, _g, out, layer=layer: blocks.update({layer: out}))
    network.decoder.register_forward_pre_hook(lambda _module, given: seen.extend(given))
    network(x)
    _, _, features = seen
    assert len(features) == 4
    for feature, layer in zip(features, (1, 3, 5), strict=False):
        torch.testing.assert_close(feature.flatten(2).transpose(1, 2), blocks[layer][:, 1:])
    torch.testing.assert_close(features[-1], network.forward_features(x))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter_that_is_trained(kind):
    network = small(decoder=kind)
    logits = network(torch.randn(2, 1, 16, 24, 32))
    torch.nn.functional.cross_entropy(logits, torch.randint(0, 3, (2, 16, 24, 32))).backward()
    frozen = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    assert all("norm_cross_attn" in name or name == "patch_embedding.position_embeddings" for name in frozen)
    trained = {name: parameter.grad for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert [name for name, gradient in trained.items() if gradient is None or not gradient.any()] == []


def test_the_stem_of_the_skips_belongs_to_the_head():
    names = {name.split(".")[0] for name in small().state_dict()}
    assert names == {"cls_token", "patch_embedding", "blocks", "decoder"}
    assert any(name.startswith("decoder.stem.stages.") for name in small().state_dict())
    assert not any("projection" in name for name in small().state_dict())


# the other probe looks at the neighbours as much as at the token: see the test of the decoders
@pytest.mark.parametrize("kind", ["unetr", "linear"])
@pytest.mark.parametrize("patch", [(0, 0, 3), (1, 2, 0), (1, 0, 1)])
def test_a_lit_patch_moves_the_logits_there(kind, patch):
    network = small(decoder=kind).eval()
    x = torch.randn(1, 1, 16, 24, 32)
    lit = x.clone()
    i, j, k = (8 * place for place in patch)
    lit[0, 0, i : i + 8, j : j + 8, k : k + 8] = torch.randn(8, 8, 8) * 3 + 2
    change = (network(lit) - network(x)).abs().sum((0, 1))
    per_patch = torch.nn.functional.avg_pool3d(change[None], 8)[0]
    assert tuple(torch.unravel_index(per_patch.argmax(), per_patch.shape)) == patch


@pytest.mark.parametrize("kind", KINDS)
def test_the_argument_dropout_is_all_it_takes(kind):
    still, dropping = small(decoder=kind), small(decoder=kind, dropout=0.4)
    dropping.load_state_dict(still.state_dict())
    x = torch.randn(1, 1, 16, 24, 32)
    torch.testing.assert_close(still(x), still(x))
    assert not torch.allclose(dropping(x), dropping(x))
    torch.testing.assert_close(dropping.eval()(x), dropping(x))


def test_an_equal_network_is_built_from_its_arguments():
    network = small(decoder="two_layer", mlp_dim=None)
    assert network.arguments["mlp_dim"] == 96
    again = ViTSegmenter(**network.arguments)
    assert again.arguments == network.arguments
    again.load_state_dict(network.state_dict())


@pytest.mark.filterwarnings("ignore")
def test_trace():
    network, x = small().eval(), torch.randn(1, 1, 16, 24, 32)
    traced = torch.jit.trace(network, torch.zeros_like(x))
    torch.testing.assert_close(traced(x), network(x))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"patch_size": 12}, r"`patch_size` must be one power of two from 2 to 64, got 12\."),
        ({"img_size": 20}, r"`img_size` must be divisible by patch_size 8 on every axis, got \(20, 20, 20\)\."),
        ({"hidden_size": 20}, r"`hidden_size` must be divisible by 6 \(positions\) .*, got 20 with 2 heads\."),
        ({"num_layers": 0}, r"`num_layers` must be at least 1, got 0\."),
        ({"decoder": "upernet"}, r"`decoder` must be one of 'unetr', 'linear', 'two_layer', got 'upernet'\."),
        ({"dropout": 1.5}, r"`dropout` must be in \[0, 1\), got 1\.5\."),
        ({"out_channels": 0}, r"`out_channels` must be at least 2"),
        ({"stem_channels": 6}, r"`stem_channels` must be a positive multiple of 4"),
    ],
)
def test_bad_arguments(overrides, message):
    with pytest.raises(ValueError, match=message):
        small(**overrides)


@pytest.mark.parametrize("shape", [(1, 1, 24, 16, 32), (1, 2, 16, 24, 32), (16, 24, 32)])
def test_another_size_is_refused(shape):
    message = r"must be \(batch, \*\(1, 16, 24, 32\)\), a ViT has one size only, got .*\. Use crops of this size"
    with pytest.raises(ValueError, match=message):
        small()(torch.zeros(shape))
