import pytest
import torch

from bertswin_ext.networks.masked_autoencoder import BertsWinMAE
from bertswin_ext.networks.presets import (
    bertswin_base,
    bertswin_segmenter_base,
    bertswin_segmenter_tiny,
    bertswin_tiny,
)
from bertswin_ext.networks.segmenter import BertsWinSegmenter

KINDS = ("unetr", "linear", "two_layer")
SMALL = {
    "img_size": (16, 24, 32),
    "patch_size": 8,
    "hidden_size": 24,
    "num_layers": 2,
    "num_heads": 2,
    "window_size": 2,
    "stem_channels": 4,
}


def small(**overrides):
    torch.manual_seed(0)
    return BertsWinSegmenter(**SMALL | {"decoder_channels": 4} | overrides)


def num_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_contract(kind):
    network = small(decoder=kind, in_channels=2, out_channels=4)
    assert network(torch.randn(2, 2, 16, 24, 32)).shape == (2, 4, 16, 24, 32)
    assert {name for name, _ in network.named_children()} == {"stem", "encoder", "decoder"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(8, 8, 16), (24, 16, 40)])
def test_any_size_that_the_patch_divides(kind, size):
    assert small(decoder=kind).eval()(torch.randn(1, 1, *size)).shape == (1, 3, *size)


def test_every_tensor_of_the_encoder_comes_from_the_masked_autoencoder():
    torch.manual_seed(1)
    pretrained, network = BertsWinMAE(**SMALL, stem="non_overlapping"), small()
    wanted = {key for key in network.state_dict() if not key.startswith("decoder.")}
    given = {key: value for key, value in pretrained.state_dict().items() if key in wanted}
    assert set(given) == wanted
    network.load_state_dict(given, strict=False)
    x = torch.randn(1, 1, 16, 24, 32)
    assert torch.equal(network.forward_features(x), pretrained.forward_features(x))


def test_the_decoder_gets_the_image_the_skips_and_the_blocks_it_wants():
    network = small(num_layers=5).eval()
    x, seen = torch.randn(1, 1, 16, 24, 32), []
    network.decoder.register_forward_pre_hook(lambda _module, given: seen.extend(given))
    network(x)
    image, skips, features = seen
    final, blocks = network.forward_intermediates(x, [1, 2, 3, 4])
    assert torch.equal(image, x)
    assert all(map(torch.equal, skips, network.encode_volume(x, return_skips=True)[1]))
    assert all(map(torch.equal, features, blocks))
    assert torch.equal(features[-1], final)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter(kind):
    network = small(decoder=kind, num_layers=4)
    logits = network(torch.randn(2, 1, 16, 24, 32))
    torch.nn.functional.cross_entropy(logits, torch.randint(0, 3, (2, 16, 24, 32))).backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    still = [name for name, p in network.named_parameters() if p.grad is not None and not p.grad.any()]
    assert (without, still) == ([], [])


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


@pytest.mark.parametrize("voxel", [(3, 20, 11), (12, 4, 27)])
def test_a_lit_voxel_moves_the_logits_within_half_a_patch(voxel):
    network, x = small().eval(), torch.randn(1, 1, 16, 24, 32)
    lit = x.clone()
    lit[(0, 0, *voxel)] += 10.0
    change = (network(lit) - network(x)).abs().sum((0, 1))
    most = torch.unravel_index(change.argmax(), change.shape)
    assert max(abs(int(place) - lit_place) for place, lit_place in zip(most, voxel, strict=True)) <= 4


@pytest.mark.parametrize("kind", KINDS)
def test_the_argument_dropout_is_all_it_takes(kind):
    still, dropping = small(decoder=kind), small(decoder=kind, dropout=0.4)
    dropping.load_state_dict(still.state_dict())
    x = torch.randn(1, 1, 16, 24, 32)
    torch.testing.assert_close(still(x), still(x))
    assert not torch.allclose(dropping(x), dropping(x))
    torch.testing.assert_close(dropping.eval()(x), dropping(x))


def test_the_encoder_starts_equal_whatever_the_decoder():
    one, other = small(decoder="linear").state_dict(), small(decoder="unetr", decoder_channels=8).state_dict()
    shared = [key for key in one if not key.startswith("decoder.")]
    assert all(torch.equal(one[key], other[key]) for key in shared)


def test_an_equal_network_is_built_from_its_arguments():
    network = small(decoder="two_layer", out_channels=5, dropout=0.2, stem="overlapping")
    again = BertsWinSegmenter(**network.arguments)
    assert again.arguments == network.arguments
    again.load_state_dict(network.state_dict())


@pytest.mark.parametrize("kind", ["linear", "two_layer"])
def test_the_probes_take_the_overlapping_stem(kind):
    assert small(decoder=kind, stem="overlapping")(torch.randn(1, 1, 16, 24, 32)).shape == (1, 3, 16, 24, 32)


def test_bfloat16_autocast_trains():
    network = small()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(torch.randn(1, 1, 16, 24, 32))
    logits.float().square().mean().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


def test_export():
    network, x = small(num_layers=1).eval(), torch.randn(1, 1, 16, 24, 32)
    program = torch.export.export(network, (torch.zeros_like(x),))
    torch.testing.assert_close(program.module()(x), network(x))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_tracing():
    """A traced network serves the size that it was traced with."""
    network, x = small().eval(), torch.randn(1, 1, 16, 24, 32)
    with torch.no_grad():
        assert torch.equal(torch.jit.trace(network, x)(x), network(x))


def test_presets():
    with torch.device("meta"):
        base, pretrained = bertswin_segmenter_base(), bertswin_base(stem="non_overlapping")
    assert num_parameters(base) == 89_729_411
    assert num_parameters(base.decoder) == 3_286_931
    tiny, tiny_pretrained = bertswin_segmenter_tiny(), bertswin_tiny(stem="non_overlapping")
    assert num_parameters(tiny) == 981_155
    for network, other in ((base, pretrained), (tiny, tiny_pretrained)):
        for part in ("stem", "encoder"):
            shapes = {name: tensor.shape for name, tensor in getattr(network, part).state_dict().items()}
            assert shapes == {name: tensor.shape for name, tensor in getattr(other, part).state_dict().items()}


def test_the_full_size_is_cheap():
    """Per voxel, all that autograd keeps at full size is less than three maps of 48 channels."""
    network, kept = small(decoder_channels=16), {}
    full = 16 * 24 * 32
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}

    def note(tensor):
        if tensor.untyped_storage().data_ptr() not in weights and tensor.shape[2:] == (16, 24, 32):
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        network(torch.randn(1, 1, 16, 24, 32))
    assert 16 <= sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / 4 / full < 3 * 48


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"stem": "overlapping"},
            r"needs stem='non_overlapping', got 'overlapping'\. Tune .*bundles/pretrain/configs/tune_stem\.json\), "
            r"or choose decoder='linear' or 'two_layer'",
        ),
        ({"decoder": "upernet"}, r"`decoder` must be one of 'unetr', 'linear', 'two_layer', got 'upernet'\."),
        ({"out_channels": 1}, r"`out_channels` must be at least 2 .*, got 1\."),
        ({"dropout": 1}, r"`dropout` must be in \[0, 1\), got 1\."),
        ({"window_size": 3}, r"`window_size` must lie between 1 and the token grid"),
    ],
)
def test_bad_arguments(overrides, message):
    with pytest.raises(ValueError, match=message):
        small(**overrides)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 16, 24, 30), r"sizes must be divisible by patch_size 8, got \(16, 24, 30\)\."),
        ((1, 2, 16, 24, 32), r"must be \(batch, 1 channels, i, j, k\), got \(1, 2, 16, 24, 32\)\."),
        ((16, 24, 32), r"must be \(batch, 1 channels, i, j, k\), got \(16, 24, 32\)\."),
    ],
)
def test_bad_input(shape, message):
    with pytest.raises(ValueError, match=message):
        small()(torch.zeros(shape))
