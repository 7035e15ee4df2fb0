import pytest
import torch

from bertswin_ext.networks import BertsWinMAE, ViTMAE

SMALL = {"hidden_size": 24, "mlp_dim": 48, "num_layers": 1, "num_heads": 2}
DECODER = {"decoder_hidden_size": 24, "decoder_mlp_dim": 24, "decoder_num_layers": 1, "decoder_num_heads": 2}


def small():
    torch.manual_seed(0)
    return ViTMAE(1, 32, 8, **SMALL, **DECODER).eval()


def test_contract_and_repeatable_mask():
    network, x, noise = small(), torch.randn(2, 1, 32, 32, 32), torch.rand(2, 64)
    output = network(x, noise=noise)
    assert output["reconstruction"].shape == x.shape
    assert torch.equal(output["masked"], noise.argsort(1).argsort(1) >= 16)
    assert torch.equal(network(x, noise=noise)["reconstruction"], output["reconstruction"])
    assert not torch.equal(network(x)["masked"], network(x)["masked"])


def test_same_numbers_as_monai():
    network, x, noise = small(), torch.randn(1, 1, 32, 32, 32), torch.rand(1, 64)
    kept = {}
    network.decoder_pred.register_forward_hook(lambda _m, _i, output: kept.update(patches=output[:, 1:]))
    volume = network(x, noise=noise)["reconstruction"]
    for token, (i, j, k) in {0: (0, 0, 0), 7: (0, 1, 3), 63: (3, 3, 3)}.items():
        cube = volume[0, 0, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8, 8 * k : 8 * k + 8]
        assert torch.equal(cube.flatten(), kept["patches"][0, token])


def test_masked_voxels_do_not_matter_and_visible_ones_do():
    network, x, noise = small(), torch.randn(1, 1, 32, 32, 32), torch.rand(1, 64)
    output = network(x, noise=noise)
    hidden, seen = output["masked"][0].nonzero()[0].item(), (~output["masked"][0]).nonzero()[0].item()
    for token, same in ((hidden, True), (seen, False)):
        i, j, k = token // 16, token // 4 % 4, token % 4
        changed = x.clone()
        changed[0, 0, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8, 8 * k : 8 * k + 8] = 3.0
        assert torch.equal(network(changed, noise=noise)["reconstruction"], output["reconstruction"]) is same


def test_invalid_tokens_are_hidden():
    network, x = small(), torch.randn(1, 1, 32, 32, 32)
    valid = torch.zeros(1, 64, dtype=torch.bool)
    valid[0, :20] = True
    assert not (~network(x, valid=valid)["masked"] & ~valid).any()


def test_the_ratio_is_that_of_the_valid_tokens_of_the_sample_that_has_fewest():
    """MONAI's encoder wants as many visible tokens in every sample; invalid ones are never among them."""
    network, x, noise = small(), torch.randn(2, 1, 32, 32, 32), torch.rand(2, 64)
    valid = torch.arange(64) < torch.tensor([[40], [64]])
    masked = network(x, valid=valid, noise=noise)["masked"]
    assert (~masked).sum(dim=1).tolist() == [10, 10]
    assert masked[~valid].all()
    few = torch.arange(64) < torch.tensor([[2], [64]])
    assert (~network(x, valid=few, noise=noise)["masked"]).sum(dim=1).tolist() == [1, 1]


def test_the_ratio_of_all_tokens_hides_what_bertswin_hides():
    x, noise = torch.randn(2, 1, 32, 32, 32), torch.rand(2, 64)
    sizes = {"hidden_size": 24, "num_layers": 1, "num_heads": 2}
    bertswin = BertsWinMAE(32, 8, **sizes, window_size=2, decoder_hidden_size=24, stem_channels=4, ratio_of="all")
    vit = ViTMAE(1, 32, 8, ratio_of="all", **SMALL, **DECODER)
    for valid in (torch.arange(64) < torch.tensor([[40], [64]]), torch.arange(64) < torch.tensor([[9], [20]])):
        masked = vit(x, valid=valid, noise=noise)["masked"]
        assert (~masked).sum(dim=1).tolist() == [16, 16]
        assert masked.equal(bertswin(x, valid=valid, noise=noise)["masked"])
    with pytest.raises(ValueError, match="`ratio_of` must be 'valid' or 'all', got 'some'"):
        ViTMAE(1, 32, 8, ratio_of="some", **SMALL, **DECODER)


def test_mixed_precision():
    network, x, noise = small(), torch.randn(1, 1, 32, 32, 32), torch.rand(1, 64)
    exact = network(x, noise=noise)["reconstruction"]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = network(x, noise=noise)["reconstruction"]
    assert mixed.isfinite().all()
    assert (mixed.float() - exact).norm() < 0.05 * exact.norm()
    mixed.float().square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.decoder_embed.parameters())
