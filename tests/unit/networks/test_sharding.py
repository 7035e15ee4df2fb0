import pytest
import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from bertswin_ext.networks.masked_autoencoder import BertsWinMAE
from bertswin_ext.networks.sharding import copy_weights, free_parameters, gather_parameters, shard_network
from tests.ranks import alone, found_by
from tests.unit.networks.small_blocks import assert_close, losses_of, make_batch, make_blocks, shard_blocks, whole

pytestmark = pytest.mark.dist

SIZES = {"hidden_size": 24, "num_heads": 2, "num_layers": 2, "window_size": 2, "stem_channels": 4}


def make_autoencoder():
    torch.manual_seed(0)
    return BertsWinMAE(img_size=24, patch_size=8, decoder_hidden_size=16, **SIZES)


def reconstruct(network, **kwargs):
    generator = torch.Generator().manual_seed(1)
    volume, noise = torch.randn(2, 1, 24, 24, 24, generator=generator), torch.rand(2, 27, generator=generator)
    return network(volume, noise=noise, **kwargs)["reconstruction"]


def local_sizes(network):
    return {name: p.to_local().numel() for name, p in network.named_parameters()}


def gradients_of(network, rank):
    """Of three losses of one forward pass, one after the other."""
    losses, found = losses_of(network, make_batch(0, rank)), {}
    for task, loss in losses.items():
        network.zero_grad()
        loss.backward(retain_graph=task != "near")
        found[task] = {name: p.grad for name, p in network.named_parameters()}
    return found


def work(rank):
    network = make_blocks(seed=rank)
    before = whole(network)
    sharded = shard_blocks(network)
    found = {"start": whole(sharded), "untouched": all(map(torch.equal, before.values(), whole(network).values()))}
    found["sizes"] = local_sizes(sharded)
    found["gradients"] = {
        task: {name: gradient.full_tensor() for name, gradient in gradients.items()}
        for task, gradients in gradients_of(sharded, rank).items()
    }
    kept = shard_blocks(network, reshard_after_forward=False)
    found["kept"] = {name: g.full_tensor() for name, g in gradients_of(kept, rank)["near"].items()}
    # the first process has one batch to validate on, the others two
    gather_parameters(sharded)
    with torch.no_grad():
        found["validated"] = [sharded(make_batch(9, place)) for place in range(1 + (rank > 0))]
    found["gathered"] = [bool(isinstance(p, DTensor)) for p in sharded.parameters()]
    free_parameters(sharded)
    found["freed"] = [bool(isinstance(p, DTensor)) for p in sharded.parameters()]
    sharded(make_batch(0, rank))
    found["after forward"] = [bool(isinstance(p, DTensor)) for p in sharded.blocks.parameters()]
    copy_weights(sharded, network)
    found["copied"] = whole(network)
    autoencoder = shard_network(make_autoencoder(), "cpu")
    found["autoencoder"] = reconstruct(autoencoder).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found["autocast"] = reconstruct(autoencoder).detach()
        half = shard_blocks(make_blocks(), param_dtype=torch.bfloat16)
        found["half"] = gradients_of(half, 0)["near"]["blocks.0.0.weight"].full_tensor()
    gather_parameters(half)
    found["types"] = [str(layer.weight.dtype) for layer in (half.blocks[0][0], half.last)]
    return found


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request, tmp_path_factory):
    return found_by(request.param, work, tmp_path_factory.mktemp("ranks"))


def test_all_start_from_the_first_process(ranks):
    for found in ranks:
        assert_close(found["start"], whole(make_blocks(seed=0)), rtol=0, atol=0)
        assert found["untouched"]


def test_every_process_has_its_share_of_every_parameter(ranks):
    for name, parameter in make_blocks().named_parameters():
        shares = [found["sizes"][name] for found in ranks]
        assert sum(shares) == parameter.numel()
        if 12 in (parameter.shape[0], parameter.shape[-1]) and name != "last.weight":
            assert set(shares) == {parameter.numel() // len(ranks)}, name


def test_gradients_are_means_of_several_losses_of_one_graph(ranks):
    networks = [make_blocks() for _ in ranks]
    alone = [gradients_of(network, rank) for rank, network in enumerate(networks)]
    for found in ranks:
        for task, gradients in found["gradients"].items():
            mean = {name: torch.stack([other[task][name] for other in alone]).mean(0) for name in gradients}
            assert_close(gradients, mean, rtol=1e-5, atol=1e-6)
        assert_close(found["kept"], found["gradients"]["near"], rtol=0, atol=0)


def test_processes_validate_on_different_numbers_of_batches(ranks):
    assert [len(found["validated"]) for found in ranks] == [1] + [2] * (len(ranks) - 1)
    for found in ranks:
        for place, output in enumerate(found["validated"]):
            torch.testing.assert_close(output, make_blocks()(make_batch(9, place)).detach())
        assert not any(found["gathered"])
        assert all(found["freed"])
        assert all(found["after forward"])


def test_weights_are_copied_to_the_first_process_alone(ranks):
    assert_close(ranks[0]["copied"], whole(make_blocks(seed=0)), rtol=0, atol=0)
    assert_close(ranks[1]["copied"], whole(make_blocks(seed=1)), rtol=0, atol=0)


def test_the_autoencoder_gives_the_same(ranks):
    expected = reconstruct(make_autoencoder()).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = reconstruct(make_autoencoder()).detach()
    for found in ranks:
        torch.testing.assert_close(found["autoencoder"], expected)
        torch.testing.assert_close(found["autocast"], half, rtol=0, atol=0)


def test_blocks_gathered_in_half_precision_have_full_gradients(ranks):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = gradients_of(make_blocks(), 0)["near"]["blocks.0.0.weight"]
    for found in ranks:
        assert found["types"] == ["torch.bfloat16", "torch.float32"]
        torch.testing.assert_close(found["half"], expected, rtol=0, atol=0)


def test_blocks_are_gathered_one_at_a_time(tmp_path):
    with alone(tmp_path):
        sharded = shard_blocks(make_blocks(num_blocks=3))
    units = [name for name, module in sharded.named_modules() if isinstance(module, FSDPModule)]
    assert units == ["", "blocks.0", "blocks.1", "blocks.2"]


def test_there_must_be_processes():
    with pytest.raises(ValueError, match=r"there must be a process group. Start the run with torchrun"):
        shard_network(make_blocks(), "cpu")


def test_there_must_be_blocks(tmp_path):
    with alone(tmp_path), pytest.raises(ValueError, match=r"classes SwinBlock, TransformerBlock, Blocks has none"):
        shard_network(make_blocks(), "cpu")
