from copy import deepcopy

import pytest
import torch
from torch.nn.utils import parametrize

from bertswin_ext.networks.lora import (
    add_lora,
    has_lora,
    load_lora,
    lora_state_dict,
    merge_lora,
    merged_state_dict,
)
from bertswin_ext.networks.segmenter import BertsWinSegmenter
from bertswin_ext.networks.vit_segmenter import ViTSegmenter

SIZES = {"img_size": 16, "patch_size": 8, "hidden_size": 48, "num_layers": 2, "num_heads": 4, "stem_channels": 8}


def segmenter():
    torch.manual_seed(0)
    return BertsWinSegmenter(**SIZES, window_size=2).eval()


def vit():
    torch.manual_seed(0)
    return ViTSegmenter(**SIZES).eval()


def trained(network):
    """Adapters that do something."""
    with torch.no_grad():
        for key, value in network.named_parameters():
            if key.endswith(".up"):
                value.normal_(std=0.02)
    return network


@pytest.mark.parametrize("build", [segmenter, vit])
def test_nothing_changes_at_the_start_and_all_comes_back_at_the_end(build):
    network, x = build(), torch.randn(1, 1, 16, 16, 16)
    before, names = network(x), set(network.state_dict())
    assert add_lora(network, rank=4) is network
    assert torch.equal(network(x), before)
    adapted = trained(network)(x)
    assert not torch.allclose(adapted, before, atol=1e-3)
    state_dict = merged_state_dict(network)
    assert set(state_dict) == names
    merge_lora(network)
    assert not has_lora(network)
    assert set(network.state_dict()) == names
    torch.testing.assert_close(network(x), adapted, rtol=0, atol=1e-5)
    assert all(torch.equal(value, state_dict[key]) for key, value in network.state_dict().items())
    fresh = build()
    fresh.load_state_dict(state_dict)
    torch.testing.assert_close(fresh(x), adapted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("build", "per_block"), [(segmenter, 4), (vit, 4)])
def test_every_linear_layer_of_the_blocks_is_adapted_and_nothing_else(build, per_block):
    network = add_lora(build(), rank=4)
    adapted = [name for name, module in network.named_modules() if parametrize.is_parametrized(module)]
    assert len(adapted) == 2 * per_block
    assert all("blocks." in name and not name.startswith("decoder.") for name in adapted)


def test_only_the_adapters_train_among_those_layers():
    network = add_lora(segmenter())
    parameters = {n: p for n, p in network.named_parameters() if ".attn.proj." in n}
    assert {n.rpartition(".")[2] for n, p in parameters.items() if p.requires_grad} == {"up", "down"}
    assert {n.rpartition(".")[2] for n, p in parameters.items() if not p.requires_grad} == {"original", "bias"}
    assert network.encoder.blocks[0].norm1.weight.requires_grad
    merge_lora(network)
    assert all(p.requires_grad for p in network.parameters())


def test_gradients_reach_the_adapters():
    network = add_lora(segmenter())
    network(torch.randn(1, 1, 16, 16, 16)).square().sum().backward()
    update = network.encoder.blocks[0].mlp.linear1.parametrizations.weight[0]
    assert update.up.grad.abs().sum() > 0
    assert network.encoder.blocks[0].mlp.linear1.parametrizations.weight.original.grad is None


def test_the_update_is_scaled_by_alpha_over_rank():
    network = trained(add_lora(segmenter(), rank=4, alpha=12.0, targets=["qkv"]))
    weight = network.encoder.blocks[1].attn.qkv.parametrizations.weight
    wanted = weight.original + 3 * weight[0].up @ weight[0].down
    torch.testing.assert_close(network.encoder.blocks[1].attn.qkv.weight, wanted)
    assert weight[0].down.shape == (4, 48)
    assert not parametrize.is_parametrized(network.encoder.blocks[1].mlp.linear1)


def test_the_network_keeps_its_adapters_while_its_merged_weights_are_taken():
    network = trained(add_lora(segmenter()))
    x = torch.randn(1, 1, 16, 16, 16)
    before = network(x)
    state_dict = merged_state_dict(network)
    state_dict["encoder.blocks.0.attn.qkv.weight"].zero_()
    assert has_lora(network)
    assert torch.equal(network(x), before)
    assert not state_dict["encoder.blocks.0.attn.qkv.weight"].requires_grad


def test_adapters_and_head_are_a_file_of_their_own(tmp_path):
    encoder = segmenter()
    network = trained(add_lora(deepcopy(encoder), rank=2, alpha=6.0))
    torch.nn.init.ones_(next(p for n, p in network.named_parameters() if n.startswith("decoder.")))
    saved = lora_state_dict(network)
    assert {key.split(".")[0] for key in saved} == {"encoder", "decoder"}
    assert all(key.rpartition(".")[2] in ("up", "down", "scale") for key in saved if key.startswith("encoder."))
    torch.save({"model": saved}, tmp_path / "adapters.pt")
    other = add_lora(deepcopy(encoder), rank=2)
    load_lora(other, tmp_path / "adapters.pt")
    x = torch.randn(1, 1, 16, 16, 16)
    assert torch.equal(other(x), network(x))


def test_adapters_of_another_rank(tmp_path):
    torch.save(lora_state_dict(add_lora(segmenter(), rank=2)), tmp_path / "adapters.pt")
    with pytest.raises(
        ValueError, match=r"adapters\.pt does not fit the network's adapters and head: .*\(2, 48\)"
    ) as error:
        load_lora(add_lora(segmenter(), rank=4), tmp_path / "adapters.pt")
    assert "Call add_lora with the rank and targets that the file was trained with" in str(error.value)
    with pytest.raises(ValueError, match=r"The network has no LoRA adapters\. Call add_lora first\."):
        load_lora(segmenter(), tmp_path / "adapters.pt")


def test_a_network_without_adapters_is_merged_already():
    network = segmenter()
    state_dict = network.state_dict()
    assert all(torch.equal(value, state_dict[key]) for key, value in merged_state_dict(merge_lora(network)).items())


@pytest.mark.parametrize("rank", [0, -1, 2.5, True])
def test_ranks_that_are_none(rank):
    with pytest.raises(ValueError, match=r"`rank` must be a whole number of at least 1, got"):
        add_lora(segmenter(), rank=rank)


def test_what_cannot_be_adapted():
    with pytest.raises(ValueError, match=r"`alpha` must be positive, got 0"):
        add_lora(segmenter(), alpha=0)
    with pytest.raises(
        ValueError, match=r"No linear layer of the encoder is called query or key\. This BertsWinSegmenter has"
    ):
        add_lora(segmenter(), targets=["query", "key"])
    with pytest.raises(ValueError, match=r"This Sequential has no linear layers: choose"):
        add_lora(torch.nn.Sequential(torch.nn.Conv3d(1, 1, 1)))
    with pytest.raises(ValueError, match=r"has LoRA adapters already\. Fold them in with merge_lora"):
        add_lora(add_lora(segmenter()))
