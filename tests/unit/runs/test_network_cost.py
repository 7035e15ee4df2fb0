"""Costs by formula, against what torch counts and keeps."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bertswin_ext.losses import SubpatchStructureLoss
from bertswin_ext.networks import BertsWinMAE, bertswin_base, bertswin_tiny
from bertswin_ext.runs.network_cost import network_cost

TINY = {"num_layers": 2}
NETWORKS = {
    "demo": lambda: bertswin_tiny(**TINY),
    "padded windows": lambda: bertswin_tiny(window_size=4, **TINY),
    "axes apart": lambda: bertswin_tiny(img_size=(48, 40, 32), window_size=(3, 2, 4), **TINY),
    "strict stem, two channels": lambda: bertswin_tiny(stem="non_overlapping", in_channels=2, **TINY),
    "little hidden": lambda: bertswin_tiny(masking_ratio=0.1, patch_size=16, window_size=3, **TINY),
    "checkpointed": lambda: bertswin_tiny(activation_checkpointing=True, **TINY),
    "two stages": lambda: bertswin_tiny(img_size=16, patch_size=4, window_size=2, **TINY),
}
# mask tokens left out; which windows are full depends on the mask, so these are computed, not only counted
SPARING = {
    "no MLP": lambda: bertswin_tiny(mask_token_updates="attention", **TINY),
    "one block out": lambda: bertswin_tiny(mask_token_updates=["none", "full"], **TINY),
    "neither whole": lambda: bertswin_tiny(mask_token_updates=["attention", "none"], **TINY),
    "few hidden": lambda: bertswin_tiny(mask_token_updates=["none", "attention"], masking_ratio=0.1, **TINY),
    "windows that stand out": lambda: bertswin_tiny(mask_token_updates=["none", "full"], window_size=4, **TINY),
    "checkpointed": lambda: bertswin_tiny(
        mask_token_updates=["attention", "none"], activation_checkpointing=True, **TINY
    ),
}


def volumes(network, batch=1):
    return torch.randn(batch, network.in_channels, *network.img_size)


def counted(network):
    """FLOPs of a forward pass, and of a backward pass, as torch counts them without computing."""
    with FlopCounterMode(display=False) as counter:
        output = network(volumes(network))
        forward = counter.get_total_flops()
        output["reconstruction"].sum().backward()
    return forward, counter.get_total_flops() - forward


def kept_bytes(network, mixed=False):
    """Bytes that the forward pass of a sample keeps for the backward pass, without parameters and their copies."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), *network.buffers())}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    loss, image = SubpatchStructureLoss(network.patch_size, 4), volumes(network)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            output = network(image)
        loss.terms(output, image)
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("name", NETWORKS)
def test_flops_are_those_that_torch_counts(name):
    with torch.device("meta"):
        network = NETWORKS[name]()
        forward, backward = counted(network)
    cost = network_cost(network)
    assert cost.forward_flops == pytest.approx(forward, rel=0.02)
    assert cost.backward_flops == pytest.approx(backward, rel=0.02)


@pytest.mark.parametrize("name", SPARING)
def test_flops_without_mask_tokens_are_those_that_torch_counts(name):
    torch.manual_seed(0)
    network = SPARING[name]()
    forward, backward = counted(network)
    cost = network_cost(network)
    assert cost.forward_flops == pytest.approx(forward, rel=0.01)
    assert cost.backward_flops == pytest.approx(backward, rel=0.01)


@pytest.mark.parametrize("name", [name for name in SPARING if name != "checkpointed"])
def test_what_is_kept_without_mask_tokens(name):
    torch.manual_seed(0)
    network = SPARING[name]()
    assert network_cost(network).kept_bytes == pytest.approx(kept_bytes(network), rel=0.06)


def test_the_papers_network_at_the_price_of_a_vit():
    """MONAI's `MaskedAutoEncoderViT` with an MLP four times as wide and its default decoder takes 228.3 GFLOP."""
    network = {"mask_token_updates": ["none"] * 10 + ["full"] * 2}
    with torch.device("meta"):
        forward, _ = counted(bertswin_base(**network))
        cost = network_cost(bertswin_base(**network))
    # without data every window has room for all its tokens
    assert forward < 1.1 * 228.3e9
    assert 0.85 * forward < cost.forward_flops < forward


def test_flops_of_the_papers_network():
    with torch.device("meta"):
        cost = network_cost(bertswin_base())
    assert cost.encoder_flops == pytest.approx(501e9, rel=0.002)
    assert cost.forward_flops == pytest.approx(538e9, rel=0.02)
    assert (cost.tokens, cost.padded_tokens, cost.parameters) == (2744, 2744, 90_782_193)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "checkpointed"])
def test_what_is_kept_in_float32(name):
    network = NETWORKS[name]()
    assert network_cost(network).kept_bytes == pytest.approx(kept_bytes(network), rel=0.06)


def test_what_is_kept_under_autocast():
    """On a CPU autocast's copies of the weights count as well, and attention keeps float32."""
    network = bertswin_tiny(**TINY)
    copies = 2 * sum(parameter.numel() for parameter in network.parameters())
    found = kept_bytes(network, mixed=True) - copies
    assert network_cost(network, mixed=True).kept_bytes == pytest.approx(found, rel=0.2)
    assert network_cost(network, mixed=True).kept_bytes < 0.62 * network_cost(network).kept_bytes


def test_windowed_attention_is_linear_in_the_tokens():
    with torch.device("meta"):
        small, large = (network_cost(BertsWinMAE(edge, window_size=2, num_layers=2)) for edge in (96, 192))
    for name in ("forward_flops", "backward_flops", "kept_bytes"):
        assert getattr(large, name) == pytest.approx(8 * getattr(small, name), rel=1e-6)


def test_padding_is_paid_for():
    with torch.device("meta"):
        plain, padded = (network_cost(BertsWinMAE(128, window_size=window, num_layers=2)) for window in (4, 7))
    assert (plain.padded_tokens, padded.padded_tokens) == (8**3, 14**3)
    assert padded.encoder_flops > 2 * plain.encoder_flops
    assert padded.decoder_flops == plain.decoder_flops


def test_checkpointing_keeps_the_inputs_of_blocks_and_one_block():
    """Autograd sees the inputs; the one block comes and goes in the backward pass."""
    with torch.device("meta"):
        short, long, plain, plain_long = (
            network_cost(bertswin_tiny(num_layers=layers, activation_checkpointing=is_on))
            for is_on in (True, False)
            for layers in (1, 4)
        )
    one_block = (plain_long.kept_bytes - plain.kept_bytes) / 3
    assert long.kept_bytes - short.kept_bytes == 3 * 4 * 216 * 96
    assert short.kept_bytes == pytest.approx(plain.kept_bytes + 4 * 216 * 96)
    assert long.kept_bytes < plain_long.kept_bytes - 2 * one_block
    assert long.forward_flops == plain_long.forward_flops
    assert long.backward_flops > plain_long.backward_flops


def test_another_network():
    with pytest.raises(TypeError, match="The costs of BertsWinMAE are known, got Linear"):
        network_cost(nn.Linear(2, 2))
