from dataclasses import replace

import pytest
import torch

from bertswin_ext.networks import (
    BertsWinMAE,
    ViTMAE,
    bertswin_tiny,
    convert_upstream_state_dict,
    load_encoder,
    load_weights,
    read_checkpoint,
    save_encoder,
)
from bertswin_ext.networks.record import AdaptationRecord, save_network
from tests.golden import reference


def upstream_and_network():
    description, _ = reference.load("model_a_loose")
    config = description["config"]
    network = BertsWinMAE(
        img_size=config["img_size"],
        patch_size=config["patch_size"],
        hidden_size=config["encoder_embed_dim"],
        num_layers=2,
        num_heads=4,
        window_size=(4, 4, 4),
        decoder_hidden_size=64,
        stem_channels=16,
    )
    weights = {key: torch.from_numpy(value) for key, value in reference.upstream_state_dict(description).items()}
    return weights, network.double()


def test_reversed_axes_give_the_transposed_network():
    upstream, network = upstream_and_network()
    x = torch.randn(1, 1, 32, 32, 32, dtype=torch.float64)
    noise = torch.rand(1, 64)
    network.load_state_dict(convert_upstream_state_dict(upstream, network, axes="ijk")[0])
    plain = network(x, noise=noise)["reconstruction"]
    features = network.encode_volume(x)
    network.load_state_dict(convert_upstream_state_dict(upstream, network, axes="zyx")[0])
    transposed_noise = noise.view(1, 4, 4, 4).permute(0, 3, 2, 1).reshape(1, 64)
    transposed = network(x.permute(0, 1, 4, 3, 2), noise=transposed_noise)["reconstruction"]
    torch.testing.assert_close(transposed.permute(0, 1, 4, 3, 2), plain, rtol=1e-6, atol=1e-6)
    # hidden channels are permuted along: positions of i and k live in swapped thirds
    swapped = network.encode_volume(x.permute(0, 1, 4, 3, 2)).permute(0, 1, 4, 3, 2)
    first, second, third = swapped.chunk(3, dim=1)
    torch.testing.assert_close(torch.cat([third, second, first], dim=1), features, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(network(x, noise=noise)["reconstruction"], plain, atol=1e-2)


def test_shifted_windows_transpose_too():
    torch.manual_seed(0)
    arguments = {"patch_size": 8, "hidden_size": 48, "num_layers": 2, "num_heads": 4, "window_size": 2}
    network = BertsWinMAE(img_size=(24, 32, 40), decoder_hidden_size=64, stem_channels=16, **arguments).double()
    other = BertsWinMAE(img_size=(40, 32, 24), decoder_hidden_size=64, stem_channels=16, **arguments).double()
    upstream = to_upstream_names(network.state_dict())
    other.load_state_dict(convert_upstream_state_dict(upstream, other)[0])
    x, noise = torch.randn(1, 1, 24, 32, 40, dtype=torch.float64), torch.rand(1, 60)
    turned = noise.view(1, 3, 4, 5).permute(0, 3, 2, 1).reshape(1, 60)
    result = other(x.permute(0, 1, 4, 3, 2), noise=turned)["reconstruction"].permute(0, 1, 4, 3, 2)
    torch.testing.assert_close(result, network(x, noise=noise)["reconstruction"], rtol=1e-6, atol=1e-6)


def to_upstream_names(state_dict):
    renamed = {}
    for key, value in state_dict.items():
        key = key.replace("mask_token", "mask_token_enc").replace("encoder.blocks.", "features.0.")
        key = key.replace("mlp.linear1", "mlp.0").replace("mlp.linear2", "mlp.3")
        key = key.replace("decoder.embed", "decoder_embed").replace("decoder.head", "decoder_head")
        if key.startswith("stem.stages"):
            stage, layer, rest = key.split(".", 4)[2:]
            key = f"patch_embed.{3 * int(stage) + int(layer)}.{rest}"
        renamed[key.replace("stem.projection", "patch_embed.9")] = value
    return renamed


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("wrapper", [None, "model_state_dict"])
def test_wrappers_and_prefixes(prefix, wrapper):
    upstream, network = upstream_and_network()
    checkpoint = {prefix + key: value for key, value in upstream.items()}
    if wrapper:
        checkpoint = {wrapper: checkpoint, "epoch": 3}
    converted, report = convert_upstream_state_dict(checkpoint, network)
    assert report.match == 1.0
    assert report.missing == report.unexpected == report.mismatched == ()
    assert set(converted) == set(network.state_dict())


def test_poor_match_is_refused():
    upstream, network = upstream_and_network()
    del upstream["decoder_embed.weight"]
    upstream["decoder_embed.bias"] = torch.zeros(3)
    upstream["something"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"48 of the network's 50 tensors matched; 1 missing: decoder\.embed\.weight"):
        convert_upstream_state_dict(upstream, network, min_match=0.99)
    report = convert_upstream_state_dict(upstream, network, min_match=0.9)[1]
    assert report.unexpected == ("something",)
    assert report.mismatched == ("decoder.embed.bias (3,) instead of (64,)",)


def test_bad_axes():
    upstream, network = upstream_and_network()
    with pytest.raises(ValueError, match=r"`axes` must be 'zyx' or 'ijk', got 'xyz'\."):
        convert_upstream_state_dict(upstream, network, axes="xyz")


def test_load_weights_round_trip(tmp_path):
    network = upstream_and_network()[1]
    torch.save({"model": network.state_dict()}, tmp_path / "model.pt")
    other = upstream_and_network()[1]
    assert load_weights(other, tmp_path / "model.pt").match == 1.0
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))


def test_an_exported_encoder_comes_back(tmp_path):
    network = bertswin_tiny(img_size=32, window_size=(2, 2, 4))
    save_encoder(network, tmp_path / "encoder.pt", spacing_mm=0.4)
    record = read_checkpoint(tmp_path / "encoder.pt")["record"]
    assert record["spacing_mm"] == [0.4, 0.4, 0.4]
    assert record["mean_hu"] == -21.14
    assert record["method"] == "BertsWinMAE"
    loaded = load_encoder(tmp_path / "encoder.pt")
    x = torch.randn(1, 1, 32, 32, 32)
    assert torch.equal(loaded.encode_patches(x), network.encode_patches(x))
    assert not torch.equal(loaded.decoder.embed.weight, network.decoder.embed.weight)


def test_what_is_no_encoder(tmp_path):
    with pytest.raises(ValueError, match=r"Only a BertsWinMAE or a ViTMAE has an encoder to export, got Linear\."):
        save_encoder(torch.nn.Linear(2, 2), tmp_path / "encoder.pt", 0.2)
    torch.save({"model": {}}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"model\.pt is no exported encoder: it has no `record`\."):
        load_encoder(tmp_path / "model.pt")
    network = bertswin_tiny()
    save_encoder(network, tmp_path / "encoder.pt", 0.2)
    content = read_checkpoint(tmp_path / "encoder.pt")
    del content["model"]["encoder.blocks.0.norm1.bias"]
    torch.save(content, tmp_path / "encoder.pt")
    with pytest.raises(ValueError, match=r"encoder\.pt does not fit the network of its own record: .*Export it again"):
        load_encoder(tmp_path / "encoder.pt")


def test_the_encoder_of_the_baseline_is_everything_but_its_decoder(tmp_path):
    small = {"hidden_size": 24, "mlp_dim": 48, "num_layers": 1, "num_heads": 2}
    network = ViTMAE(1, (16, 16, 8), 8, **small)
    save_encoder(network, tmp_path / "encoder.pt", spacing_mm=0.4)
    content = read_checkpoint(tmp_path / "encoder.pt")
    left_out = set(network.state_dict()) - set(content["model"])
    assert {key.split(".")[0] for key in left_out} == {
        "decoder_embed",
        "decoder_blocks",
        "decoder_pred",
        "decoder_pos_embedding",
        "mask_tokens",
    }
    assert content["record"]["method"] == "ViTMAE"
    again = ViTMAE(**content["record"]["arguments"])
    assert again.load_state_dict(content["model"], strict=False).unexpected_keys == []
    assert again.arguments == network.arguments
    with pytest.raises(
        ValueError, match=r"encoder\.pt holds the weights of a ViTMAE, not the encoder of a BertsWinMAE"
    ):
        load_encoder(tmp_path / "encoder.pt")


def test_weights_are_not_loaded_into_another_configuration(tmp_path):
    network, path = bertswin_tiny(), tmp_path / "model.pt"
    learnt = AdaptationRecord.of(network, 0.4, labels=["background", "mandible", "skull"])
    save_network(network, path, learnt)
    assert load_weights(network, path, record=learnt).match == 1.0
    assert load_weights(network, path, record=replace(learnt, labels=None)).match == 1.0
    other = replace(learnt, spacing_mm=(0.2, 0.2, 0.2), labels=("background", "bone"))
    with pytest.raises(ValueError, match=r"model\.pt do not fit the configuration.*\n.*0\.4 mm.* 0\.2 mm\n") as error:
        load_weights(network, path, record=other)
    assert "labels: the network learnt background, mandible, skull, the configuration has background, bone" in str(
        error.value
    )
    torch.save(network.state_dict(), path)
    assert load_weights(network, path, record=other).match == 1.0
