import pytest
import torch
from torch._dynamo.testing import CompileCounter

from bertswin_ext.networks import BertsWinMAE, bertswin_base, bertswin_tiny
from tests.unit.networks.test_encoder import reachable

SMALL = {
    "img_size": 32,
    "patch_size": 8,
    "hidden_size": 24,
    "num_layers": 2,
    "num_heads": 2,
    "window_size": 2,
    "decoder_hidden_size": 16,
    "stem_channels": 4,
}


def small(**overrides):
    torch.manual_seed(0)
    return BertsWinMAE(**SMALL | overrides)


def test_contract():
    network = small(in_channels=2)
    output = network(torch.randn(3, 2, 32, 32, 32))
    assert set(output) == {"reconstruction", "masked"}
    assert output["reconstruction"].shape == (3, 2, 32, 32, 32)
    assert output["masked"].dtype == torch.bool
    assert output["masked"].sum(1).tolist() == [48, 48, 48]


def test_noise_makes_the_mask_repeatable():
    network, x, noise = small(), torch.randn(2, 1, 32, 32, 32), torch.rand(2, 64)
    first, second = network(x, noise=noise), network(x, noise=noise)
    assert torch.equal(first["masked"], second["masked"])
    assert torch.equal(first["masked"], noise.argsort(1).argsort(1) >= 16)
    assert torch.equal(first["reconstruction"], second["reconstruction"])
    assert not torch.equal(network(x)["masked"], network(x)["masked"])


@pytest.mark.parametrize("stem", ["overlapping", "non_overlapping"])
def test_masked_voxels_never_influence_the_reconstruction(stem):
    network, x, noise = small(stem=stem), torch.randn(1, 1, 32, 32, 32), torch.rand(1, 64)
    output = network(x, noise=noise)
    hidden = (
        output["masked"].view(1, 1, 4, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3).repeat_interleave(8, 4)
    )
    changed = torch.where(hidden, torch.randn_like(x) * 100, x)
    assert torch.equal(network(changed, noise=noise)["reconstruction"], output["reconstruction"])


def test_one_lit_voxel_influences_exactly_the_tokens_of_its_window_path():
    network = small(masking_ratio=0.0).double()
    x = torch.randn(1, 1, 32, 32, 32, dtype=torch.float64)
    expected = reachable((4, 4, 4), (2, 2, 2), (1, 1, 1), 2)
    before = network.encode_patches(x)
    for voxel in [(0, 0, 0), (31, 31, 31), (9, 20, 3), (15, 8, 27)]:
        lit = x.clone()
        lit[(0, 0, *voxel)] += 5.0
        moved = (network.encode_patches(lit) != before).any(1).flatten()
        token = (voxel[0] // 8) * 16 + (voxel[1] // 8) * 4 + voxel[2] // 8
        assert torch.equal(moved, expected[token])


def test_the_decoder_puts_tokens_where_they_are():
    network = small().double()
    features = torch.randn(1, 24, 4, 4, 4, dtype=torch.float64)
    changed = features.clone()
    changed[0, :, 1, 2, 3] += 1.0
    network.decoder.head[1] = network.decoder.head[4] = torch.nn.Identity()  # group norm spreads over the volume
    places = (network.decode(features) != network.decode(changed)).nonzero()[:, 2:]
    assert {tuple(place) for place in (places // 8).tolist()} == {(1, 2, 3)}


def test_invalid_tokens_are_always_hidden():
    network, x = small(), torch.randn(2, 1, 32, 32, 32)
    valid = torch.ones(2, 64, dtype=torch.bool)
    valid[0, 16:] = False
    valid[1] = False
    output = network(x, valid=valid)
    assert (~output["masked"]).sum(1).tolist() == [4, 0]
    assert torch.isfinite(output["reconstruction"]).all()
    changed = x.clone()
    changed[0, :, 8:] = 1e6
    noise = torch.rand(2, 64)
    reference = network(x, valid=valid, noise=noise)["reconstruction"][0]
    assert torch.equal(network(changed, valid=valid, noise=noise)["reconstruction"][0], reference)


def test_axes_may_differ():
    network = small(img_size=(16, 32, 40), window_size=(2, 3, 4))
    assert network.grid_size == (2, 4, 5)
    assert network(torch.randn(1, 1, 16, 32, 40))["reconstruction"].shape == (1, 1, 16, 32, 40)


def test_volumes_of_other_sizes():
    network = small(stem="non_overlapping")
    x = torch.randn(1, 1, 48, 32, 40)
    features, skips = network.encode_volume(x, return_skips=True)
    assert features.shape == (1, 24, 6, 4, 5)
    assert [skip.shape[2:] for skip in skips] == [(24, 16, 20), (12, 8, 10), (6, 4, 5)]
    assert network.decode(features).shape == x.shape
    assert network.tokens(x).shape == (1, 120, 24)
    torch.testing.assert_close(network.encode_patches(x), features)


def test_intermediates():
    network, x = small(num_layers=3), torch.randn(1, 1, 32, 32, 32)
    final, kept = network.forward_intermediates(x)
    assert len(kept) == 3
    torch.testing.assert_close(final, kept[-1])
    torch.testing.assert_close(final, network.forward_features(x))
    only = network.forward_intermediates(x, [-2])[1]
    torch.testing.assert_close(only[0], kept[1])
    with pytest.raises(ValueError, match=r"`indices` must name blocks of a 3-block encoder, got \[3\]\."):
        network.forward_intermediates(x, [0, 3])


def test_bfloat16_autocast_trains():
    network = small()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(torch.randn(2, 1, 32, 32, 32))
    output["reconstruction"].float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize("with_valid", [False, True])
def test_compiled_equals_eager(with_valid):
    network = small(img_size=(24, 32, 32))
    x, noise = torch.randn(2, 1, 24, 32, 32), torch.rand(2, 48)
    valid = torch.rand(2, 48) > 0.4 if with_valid else None
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    eager, fast = network(x, valid=valid, noise=noise), compiled(x, valid=valid, noise=noise)
    assert torch.equal(eager["masked"], fast["masked"])
    torch.testing.assert_close(eager["reconstruction"], fast["reconstruction"])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_one_graph_serves_all_batches(checkpointing):
    network, counter = small(activation_checkpointing=checkpointing), CompileCounter()
    compiled = torch.compile(network, backend=counter, fullgraph=True)
    for share in (1.0, 0.5, 0.1):
        valid = torch.rand(2, 64) < share
        compiled(torch.randn(2, 1, 32, 32, 32), valid=valid)["reconstruction"].mean().backward()
    assert counter.frame_count == 1


def test_activation_checkpointing_is_no_part_of_the_architecture():
    plain, network = small(), small(activation_checkpointing=True)
    assert network.encoder.activation_checkpointing
    assert not plain.encoder.activation_checkpointing
    assert network.arguments == plain.arguments
    assert network.state_dict().keys() == plain.state_dict().keys()
    x, noise = torch.randn(1, 1, 32, 32, 32), torch.rand(1, 64)
    gradients = []
    for one in (plain, network):
        volume = one(x, noise=noise)["reconstruction"]
        parameters = list(one.parameters())
        terms = (volume.mean(), volume.square().mean(), volume.abs().mean())
        gradients.append([torch.autograd.grad(term, parameters, retain_graph=True) for term in terms])
    for mine, theirs in zip(*gradients, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(mine, theirs, strict=True))


def test_export():
    network, x, noise = small(), torch.randn(1, 1, 32, 32, 32), torch.rand(1, 64)
    program = torch.export.export(network.eval(), (x,), {"noise": noise})
    other = torch.rand(1, 64)
    torch.testing.assert_close(
        program.module()(x, noise=other)["reconstruction"], network(x, noise=other)["reconstruction"]
    )


def test_export_with_any_number_of_volumes():
    from bertswin_ext.networks import BertsWinFeatures

    network = BertsWinFeatures(small().eval())
    x = torch.randn(2, 1, 32, 32, 32)
    program = torch.export.export(network, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=8)},))
    three = torch.randn(3, 1, 32, 32, 32)
    torch.testing.assert_close(program.module()(three), network(three))


def test_presets():
    assert sum(p.numel() for p in bertswin_base().parameters()) == pytest.approx(90.5e6, rel=0.01)
    tiny = bertswin_tiny(img_size=32, window_size=2)
    assert tiny(torch.zeros(1, 1, 32, 32, 32))["reconstruction"].shape == (1, 1, 32, 32, 32)


def test_initial_weights():
    network = small(hidden_size=48, num_heads=4)
    block = network.encoder.blocks[0]
    assert block.attn.qkv.bias.abs().max() == 0
    assert block.attn.qkv.weight.abs().max().item() <= (6 / (48 + 144)) ** 0.5
    assert block.attn.relative_position_bias_table.std().item() == pytest.approx(0.02, rel=0.3)
    assert network.mask_token.std().item() == pytest.approx(0.02, rel=0.4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch_size": 12}, r"`patch_size` must be one power of two from 2 to 64, got 12\. Use 8, 16 or 32\."),
        ({"patch_size": 128}, r"`patch_size` must be one power of two from 2 to 64, got 128\."),
        ({"patch_size": (8, 8, 8)}, r"`patch_size` must be one power of two from 2 to 64, got \(8, 8, 8\)\."),
        ({"img_size": 36}, r"`img_size` must be divisible by patch_size 8 on every axis, got \(36, 36, 36\)\."),
        ({"img_size": (32, 32)}, r"`img_size` must be an int or three ints \(i, j, k\), got \(32, 32\)\."),
        (
            {"window_size": 5},
            r"`window_size` must lie between 1 and the token grid .* \(4, 4, 4\) .*, got \(5, 5, 5\)\.",
        ),
        ({"window_size": 2.5}, r"`window_size` must be an int or three ints \(i, j, k\), got 2\.5\."),
        ({"in_channels": 0}, r"`in_channels` must be at least 1, got 0\."),
        ({"decoder_hidden_size": 0}, r"`decoder_hidden_size` must be at least 1, got 0\."),
        ({"hidden_size": 32}, r"`hidden_size` must be divisible by 6 \(positions\) and by `num_heads`, got 32 with 2"),
        ({"num_heads": 5}, r"`hidden_size` must be divisible .* got 24 with 5 heads\."),
        ({"num_layers": (2, 2)}, r"`num_layers` must be one positive int: BertsWin has a single encoder stage"),
        ({"masking_ratio": 1.0}, r"`masking_ratio` must be in \[0, 1\) .* 64 tokens visible, got 1\.0\."),
        ({"masking_ratio": 0.99}, r"`masking_ratio` must be in \[0, 1\) and leave at least one"),
        ({"stem": "strict"}, r"`stem` must be 'overlapping' or 'non_overlapping', got 'strict'\."),
        ({"ratio_of": "some"}, r"`ratio_of` must be 'valid' or 'all', got 'some'\."),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 32, 32, 32), r"The input must be \(batch, 1 channels, i, j, k\), got \(1, 32, 32, 32\)\."),
        ((1, 3, 32, 32, 32), r"The input must be \(batch, 1 channels, i, j, k\), got \(1, 3, 32, 32, 32\)\."),
        ((1, 1, 40, 32, 32), r"must have the network's `img_size` \(32, 32, 32\), got \(40, 32, 32\)\. Crop"),
    ],
)
def test_bad_input(shape, message):
    with pytest.raises(ValueError, match=message):
        small()(torch.zeros(shape))


def test_bad_masks_and_sizes():
    network, x = small(), torch.zeros(2, 1, 32, 32, 32)
    with pytest.raises(ValueError, match=r"`noise` must be .* = \(2, 64\) of torch.float32, got \(1, 64\) of torch"):
        network(x, noise=torch.rand(1, 64))
    with pytest.raises(ValueError, match=r"`valid` must be .* = \(2, 64\) of torch.bool, got \(2, 4, 4, 4\) of torch"):
        network(x, valid=torch.ones(2, 4, 4, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"`valid` must be .* of torch.bool, got \(2, 64\) of torch.float32\."):
        network(x, valid=torch.ones(2, 64))
    with pytest.raises(ValueError, match=r"sizes must be divisible by patch_size 8, got \(36, 32, 32\)\."):
        network.encode_volume(torch.zeros(1, 1, 36, 32, 32))
    with pytest.raises(ValueError, match=r"`return_skips=True` needs the stem .* stem='non_overlapping'\."):
        network.encode_volume(x, return_skips=True)
