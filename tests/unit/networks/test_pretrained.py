import logging

import pytest
import torch

from bertswin_ext.networks import ViTMAE, bertswin_tiny, read_checkpoint, save_encoder
from bertswin_ext.networks.lora import add_lora, lora_state_dict
from bertswin_ext.networks.pretrained import load_pretrained
from bertswin_ext.networks.record import AdaptationRecord, save_network
from bertswin_ext.networks.segmenter import BertsWinSegmenter
from bertswin_ext.networks.vit_segmenter import ViTSegmenter

SIZES = {"img_size": 32, "patch_size": 8, "hidden_size": 48, "num_layers": 2, "num_heads": 4}
SWIN = {**SIZES, "window_size": 2, "stem_channels": 8}
STRICT = {"stem": "non_overlapping"}


def pretrained(**changes):
    return bertswin_tiny(**SWIN | STRICT | changes)


def segmenter(**changes):
    return BertsWinSegmenter(**SWIN | changes)


def vit_mae(**changes):
    return ViTMAE(**{"in_channels": 1, "mlp_dim": 192} | SIZES | changes)


def encoder_of(network):
    return {key: value.clone() for key, value in network.state_dict().items() if not key.startswith("decoder.")}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "encoder.pt"


def refusal(network, path, spacing_mm=0.4, **options):
    """The message of a refusal, which leaves the network as it was."""
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=path.name) as error:
        load_pretrained(network, path, spacing_mm, **options)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    return str(error.value)


def test_the_encoder_comes_over_and_the_head_stays(path, caplog):
    source, network = pretrained(), segmenter()
    save_encoder(source, path, 0.4)
    head = {key: value.clone() for key, value in network.state_dict().items() if key.startswith("decoder.")}
    with caplog.at_level(logging.INFO):
        report = load_pretrained(network, path, 0.4)
    own = network.state_dict()
    assert all(torch.equal(own[key], value) for key, value in head.items())
    assert set(report.matched) == set(own) - set(head)
    assert all(torch.equal(own[key], source.state_dict()[key]) for key in report.matched)
    assert report.match == 1.0
    assert report.missing == report.unexpected == report.mismatched == report.resized == report.fresh == ()
    assert f"encoder taken from {path}:\n  - {len(report.matched)} of the network's" in caplog.text
    assert "WARNING" not in caplog.text
    x = torch.randn(1, 1, 32, 32, 32)
    torch.testing.assert_close(network.forward_features(x), source.forward_features(x))


def test_another_image_size_is_fine_for_computed_positions(path):
    save_encoder(pretrained(), path, 0.4)
    assert load_pretrained(segmenter(img_size=48), path, 0.4).match == 1.0


def test_a_plain_state_dict_is_taken_with_a_warning(path, caplog):
    source, network = pretrained(), segmenter()
    torch.save(source.state_dict(), path)
    report = load_pretrained(network, path, 0.123)
    assert (report.match, report.unexpected) == (1.0, ())
    assert "has no record" in caplog.text
    assert "spacing and the HU statistics" in caplog.text
    assert torch.equal(network.stem.projection.weight, source.stem.projection.weight)


def test_a_fine_tuned_network_gives_its_encoder(path):
    source, network = segmenter(), segmenter(decoder="linear", dropout=0.5)
    save_network(source, path, AdaptationRecord.of(source, 0.4))
    assert load_pretrained(network, path, 0.4).match == 1.0
    assert torch.equal(network.encoder.blocks[1].mlp.linear1.weight, source.encoder.blocks[1].mlp.linear1.weight)


def test_pre_training_can_go_on_from_an_encoder(path):
    source, network = pretrained(), pretrained()
    save_encoder(source, path, 0.4)
    report = load_pretrained(network, path, 0.4)
    assert "mask_token" in report.matched
    assert torch.equal(network.mask_token, source.mask_token)


@pytest.mark.parametrize("decoder", ["linear", "unetr"])
def test_the_baseline_takes_its_encoder(path, decoder):
    source, network = vit_mae(), ViTSegmenter(**SIZES, decoder=decoder, stem_channels=8)
    save_encoder(source, path, 0.4)
    report = load_pretrained(network, path, 0.4)
    assert (report.match, report.unexpected) == (1.0, ())
    assert torch.equal(network.cls_token, source.cls_token)
    assert torch.equal(network.blocks[2].weight, source.blocks[2].weight)


def test_another_method(path):
    save_encoder(vit_mae(), path, 0.4)
    message = refusal(segmenter(), path)
    assert (
        "holds the encoder of a ViTMAE, the network is a BertsWinSegmenter. Fine-tune it with a ViTSegmenter" in message
    )
    save_encoder(pretrained(), path, 0.4)
    message = refusal(ViTSegmenter(**SIZES, stem_channels=8), path)
    assert "of a BertsWinMAE, the network is a ViTSegmenter. Fine-tune it with a BertsWinSegmenter" in message
    torch.save(pretrained().state_dict(), path)
    assert "of a BertsWin network" in refusal(ViTSegmenter(**SIZES, stem_channels=8), path)


@pytest.mark.parametrize("with_record", [True, False])
def test_another_size_is_refused_with_all_knobs(path, with_record):
    save_encoder(pretrained(), path, 0.4)
    if not with_record:
        torch.save(read_checkpoint(path)["model"], path)
    message = refusal(segmenter(hidden_size=96, num_layers=1, num_heads=8, patch_size=16, stem_channels=4), path)
    for name, theirs, ours in (
        ("hidden_size", 48, 96),
        ("num_layers", 2, 1),
        ("num_heads", 4, 8),
        ("patch_size", 8, 16),
        ("stem_channels", 8, 4),
    ):
        assert f"{name}: the encoder has {theirs}, the network {ours}. Set `--{name} {theirs}`." in message


def test_heads_of_a_vit_are_known_from_the_record_alone(path):
    """Their number shapes no tensor of a ViT, and means everything."""
    save_encoder(vit_mae(), path, 0.4)
    message = refusal(ViTSegmenter(**SIZES | {"num_heads": 2, "img_size": 40}, stem_channels=8), path)
    assert "num_heads: the encoder has 4, the network 2. Set `--num_heads 4`." in message
    assert "img_size: the encoder has 32, the network 40. Set `--img_size 32`." in message


def test_another_input(path):
    save_encoder(pretrained(), path, 0.2)
    content = read_checkpoint(path)
    content["record"] |= {"mean_hu": 0.0, "axes": "LPS"}
    torch.save(content, path)
    message = refusal(segmenter(), path, spacing_mm=0.8)
    assert "spacing_mm: the encoder learnt at 0.2 mm, the configuration has 0.8 mm. Set `--spacing_mm 0.2`" in message
    assert "mean_hu: the encoder learnt with 0 HU, the configuration has -21.14 HU." in message
    assert "axes: the encoder learnt on LPS, the configuration has RAS." in message


def test_another_window_is_refused_or_resized(path):
    source, network = pretrained(), segmenter(window_size=(2, 3, 4))
    save_encoder(source, path, 0.4)
    assert "window_size: the encoder has 2, the network (2, 3, 4). Set `--window_size 2`" in refusal(network, path)
    with torch.no_grad():
        source.encoder.blocks[1].attn.relative_position_bias_table.fill_(7.0)
    save_encoder(source, path, 0.4)
    report = load_pretrained(network, path, 0.4, resize_window=True)
    assert report.resized == tuple(f"encoder.blocks.{n}.attn.relative_position_bias_table" for n in (0, 1))
    assert report.match == 1.0
    table = network.encoder.blocks[1].attn.relative_position_bias_table
    torch.testing.assert_close(table, torch.full((3 * 5 * 7, 4), 7.0))


def test_a_stem_of_another_kind_is_refused_or_left_fresh(path, caplog):
    save_encoder(pretrained(stem="overlapping"), path, 0.4)
    network = segmenter()
    message = refusal(network, path)
    assert "stem: the encoder has overlapping, the network non_overlapping; it would stay random" in message
    assert "bundles/pretrain/configs/tune_stem.json" in message
    before = encoder_of(network)
    report = load_pretrained(network, path, 0.4, allow_fresh_stem=True)
    assert set(report.fresh) == {key for key in before if key.startswith("stem.")}
    assert all(torch.equal(network.state_dict()[key], before[key]) for key in report.fresh)
    assert not any(torch.equal(network.state_dict()[key], before[key]) for key in report.matched if "qkv.weight" in key)
    assert (report.match, report.unexpected) == (1.0, ())
    assert "the stem starts from random weights" in caplog.text


def test_a_poor_match(path):
    save_encoder(pretrained(), path, 0.4)
    content = read_checkpoint(path)
    lacking = [key for key in content["model"] if key.startswith("encoder.blocks.0.attn")]
    for key in lacking:
        del content["model"][key]
    torch.save(content, path)
    assert f"{len(lacking)} missing: encoder.blocks.0.attn" in refusal(segmenter(), path)
    report = load_pretrained(segmenter(), path, 0.4, min_match=0.5)
    assert report.missing == tuple(lacking)


def test_files_that_hold_no_encoder(path):
    assert "does not exist. Check the path." in refusal(segmenter(), path)
    path.write_bytes(b"PK\x03\x04 torn")
    assert "cannot be read" in refusal(segmenter(), path)
    torch.save({"model": {"conv.weight": torch.zeros(1)}}, path)
    assert "holds no encoder of a BertsWinMAE or a ViTMAE, found conv.weight. Write one with" in refusal(
        segmenter(), path
    )
    torch.save({"epoch": 3}, path)
    assert "found no tensors" in refusal(segmenter(), path)


def test_networks_that_have_no_encoder(path):
    save_encoder(pretrained(), path, 0.4)
    assert "A Linear has no encoder that" in refusal(torch.nn.Linear(2, 2), path)


def test_adapters_come_after_the_encoder(path):
    network = add_lora(segmenter())
    torch.save(lora_state_dict(network), path)
    assert "holds LoRA adapters. Fold them in with merge_lora" in refusal(segmenter(), path)
    save_encoder(pretrained(), path, 0.4)
    with pytest.raises(
        ValueError, match=r"The network has LoRA adapters already\. Call load_pretrained before add_lora"
    ):
        load_pretrained(network, path, 0.4)
