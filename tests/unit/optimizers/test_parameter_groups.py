import logging

import pytest
import torch
from torch import nn

from bertswin_ext.networks.lora import add_lora
from bertswin_ext.networks.segmenter import BertsWinSegmenter
from bertswin_ext.networks.vit_segmenter import ViTSegmenter
from bertswin_ext.optimizers.parameter_groups import STRATEGIES, parameter_groups

SIZES = {"img_size": 16, "patch_size": 8, "hidden_size": 48, "num_layers": 3, "num_heads": 4, "stem_channels": 8}


def segmenter():
    return BertsWinSegmenter(**SIZES, window_size=2)


def vit():
    return ViTSegmenter(**SIZES)


def prepared(build, strategy):
    return add_lora(build()) if strategy == "lora" else build()


def rates(network, groups):
    """Learning rate of every parameter that trains, by name."""
    lr = {id(p): group["lr"] for group in groups for p in group["params"]}
    return {name: lr[id(p)] for name, p in network.named_parameters() if id(p) in lr}


def stripped(groups):
    """Names of the groups without the remark on decay, in order, each once."""
    return list(dict.fromkeys(group["name"].removesuffix(", no decay") for group in groups))


@pytest.mark.parametrize("build", [segmenter, vit])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_parameter_is_in_one_group_or_frozen(build, strategy):
    network = prepared(build, strategy)
    groups = parameter_groups(network, strategy, num_last=2)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert {id(p) for p in network.parameters() if p.requires_grad} == set(grouped)
    assert all(id(p) in grouped for n, p in network.named_parameters() if n.startswith("decoder."))
    assert all(group["params"] for group in groups)
    assert len({group["name"] for group in groups}) == len(groups)
    assert stripped(groups)[0] == "head"


@pytest.mark.parametrize("build", [segmenter, vit])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_only_matrices_and_kernels_decay(build, strategy):
    network = prepared(build, strategy)
    groups = parameter_groups(network, strategy, weight_decay=0.3, num_last=2)
    names = {id(p): name for name, p in network.named_parameters()}
    assert {group["weight_decay"] for group in groups} == {0.0, 0.3}
    for group in groups:
        decays = [
            p.ndim > 1 and "bias_table" not in names[id(p)] and "token" not in names[id(p)] for p in group["params"]
        ]
        assert set(decays) == {group["weight_decay"] > 0}


def test_full():
    network = segmenter()
    groups = parameter_groups(network, "full", head_lr=1e-4, encoder_lr=5e-6)
    assert stripped(groups) == ["head", "encoder"]
    assert all(lr == (1e-4 if name.startswith("decoder.") else 5e-6) for name, lr in rates(network, groups).items())
    assert all(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("build", [segmenter, vit])
def test_linear_probe(build):
    network = build()
    found = rates(network, parameter_groups(network, "linear_probe"))
    assert all(name.startswith("decoder.") for name in found)
    assert not any(p.requires_grad for n, p in network.named_parameters() if not n.startswith("decoder."))


@pytest.mark.parametrize(
    ("build", "wanted"),
    [(segmenter, {"encoder.blocks.1", "encoder.blocks.2"}), (vit, {"blocks.1", "blocks.2", "blocks.3"})],
)
def test_last_stage_takes_the_norm_behind_the_blocks_along(build, wanted):
    network = build()
    groups = parameter_groups(network, "last_stage", num_last=2)
    found = {name: lr for name, lr in rates(network, groups).items() if not name.startswith("decoder.")}
    assert set(found.values()) == {5e-6}
    assert {name[: name.index(".", name.index("blocks.") + 7)] for name in found} == wanted
    assert "encoder.blocks.2" in stripped(groups)


def test_layer_decay_in_three_speeds():
    network = vit()
    found = rates(network, parameter_groups(network, "layer_decay"))
    assert found["patch_embedding.patch_embeddings.weight"] == found["cls_token"] == 5e-6
    body = {lr for name, lr in found.items() if name.startswith("blocks.")}
    assert sorted(body) == pytest.approx([1.05e-5])
    assert {lr for name, lr in found.items() if name.startswith("decoder.")} == {1e-4}


@pytest.mark.parametrize(("build", "blocks"), [(segmenter, "encoder.blocks"), (vit, "blocks")])
def test_layer_decay_from_block_to_block(build, blocks):
    network = build()
    groups = parameter_groups(network, "layer_decay", layer_decay=0.5, head_lr=1e-4)
    found = rates(network, groups)
    for block, lr in enumerate((1.25e-5, 2.5e-5, 5e-5)):
        assert found[f"{blocks}.{block}.norm1.weight"] == pytest.approx(lr)
    stem = {lr for name, lr in found.items() if name.startswith(("stem.", "patch_embedding.", "cls_token"))}
    assert sorted(stem) == pytest.approx([6.25e-6])
    assert {f"encoder.blocks.{n}" for n in range(3)} < set(stripped(groups))
    if build is vit:
        assert found["blocks.3.weight"] == pytest.approx(5e-5)


def test_lora_trains_adapters_and_head():
    network = add_lora(segmenter())
    groups = parameter_groups(network, "lora", head_lr=2e-4)
    assert stripped(groups) == ["head", "lora"]
    found = rates(network, groups)
    assert set(found.values()) == {2e-4}
    encoder = {name.rpartition(".")[2] for name in found if not name.startswith("decoder.")}
    assert encoder == {"up", "down"}


def test_an_optimizer_takes_the_groups():
    network = nn.ModuleDict({"stem": nn.Linear(4, 4), "decoder": nn.Linear(4, 2)})
    optimizer = torch.optim.AdamW(parameter_groups(network, "full", head_lr=0.1, encoder_lr=0.0))
    before = network["stem"].weight.clone(), network["decoder"].weight.clone()
    network["decoder"](network["stem"](torch.ones(1, 4))).sum().backward()
    optimizer.step()
    assert torch.equal(network["stem"].weight, before[0])
    assert not torch.equal(network["decoder"].weight, before[1])
    assert [group["name"] for group in optimizer.state_dict()["param_groups"]][:2] == ["head", "head, no decay"]


def test_what_is_frozen_stays_frozen():
    network = vit()
    parameter_groups(network, "full")
    assert not network.patch_embedding.position_embeddings.requires_grad
    assert not network.blocks[0].norm_cross_attn.weight.requires_grad


def test_modes_are_left_alone():
    network = segmenter().train()
    parameter_groups(network, "linear_probe")
    assert all(module.training for module in network.modules())


def test_shared_parameters_come_once():
    network = nn.ModuleDict({"decoder": nn.Linear(2, 2), "stem": nn.Linear(2, 2)})
    network["stem"].weight = network["decoder"].weight
    groups = parameter_groups(network, "full")
    assert sum(len(group["params"]) for group in groups) == 3


def test_the_log_tells_how_much_trains(caplog):
    network = nn.ModuleDict({"stem": nn.Linear(100, 10), "decoder": nn.Linear(10, 2)})
    with caplog.at_level(logging.INFO):
        parameter_groups(network, "linear_probe")
    assert caplog.messages == ["strategy linear_probe: 22 of 1,032 parameters train; frozen: stem 1,010"]


def test_a_network_without_a_head_trains_at_one_speed_only():
    network = nn.Sequential(nn.Conv3d(1, 1, 1))
    groups = parameter_groups(network, "full", head_lr=1e-3, encoder_lr=1e-3)
    assert stripped(groups) == ["encoder"]
    assert {group["lr"] for group in groups} == {1e-3}
    with pytest.raises(
        ValueError, match=r"tells the head by the name `decoder\.`, which no parameter of the network has"
    ):
        parameter_groups(network, "full")
    with pytest.raises(ValueError, match=r"Give the network itself, not a wrapped one"):
        parameter_groups(nn.ModuleDict({"module": segmenter()}), "linear_probe")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"strategy": "lrd"},
            r"`strategy` must be one of full, linear_probe, last_stage, layer_decay, lora, got 'lrd'",
        ),
        ({"strategy": "full", "head_lr": -1.0}, r"`head_lr` must be finite and not negative, got -1\.0"),
        ({"strategy": "full", "encoder_lr": float("nan")}, r"`encoder_lr` must be finite and not negative, got nan"),
        ({"strategy": "full", "weight_decay": -0.1}, r"`weight_decay` must be finite and not negative, got -0\.1"),
        ({"strategy": "last_stage", "num_last": 0}, r"`num_last` must be from 1 to the encoder's 3 blocks, got 0"),
        ({"strategy": "last_stage", "num_last": 4}, r"`num_last` must be from 1 to the encoder's 3 blocks, got 4"),
        ({"strategy": "layer_decay", "layer_decay": 0.0}, r"`layer_decay` must be above 0 and at most 1, got 0\.0"),
        ({"strategy": "layer_decay", "layer_decay": 1.5}, r"`layer_decay` must be above 0 and at most 1, got 1\.5"),
        (
            {"strategy": "full", "layer_decay": 0.5},
            r"`layer_decay` belongs to strategy='layer_decay', got it with 'full'",
        ),
        ({"strategy": "lora"}, r"strategy='lora' needs adapters, the network has none\. Call add_lora on it first"),
    ],
)
def test_wrong_arguments_change_nothing(arguments, message):
    network = segmenter()
    with pytest.raises(ValueError, match=message):
        parameter_groups(network, **arguments)
    assert all(p.requires_grad for p in network.parameters())


def test_adapters_have_their_own_strategy():
    with pytest.raises(
        ValueError, match=r"The network has LoRA adapters, strategy='full' has no place for them\. Use 'lora'"
    ):
        parameter_groups(add_lora(segmenter()), "full")
