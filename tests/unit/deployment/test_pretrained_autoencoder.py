import hashlib

import pytest
import torch

from bertswin_ext.deployment.pretrained_autoencoder import load_autoencoder
from bertswin_ext.networks.masked_autoencoder import BertsWinMAE
from bertswin_ext.networks.presets import bertswin_segmenter_tiny
from bertswin_ext.networks.record import AdaptationRecord, save_network
from bertswin_ext.networks.weights import save_encoder

SMALL = {
    "img_size": 16,
    "patch_size": 8,
    "hidden_size": 24,
    "num_layers": 2,
    "num_heads": 2,
    "window_size": 2,
    "stem_channels": 4,
}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return BertsWinMAE(**SMALL, decoder_hidden_size=16)


@pytest.fixture
def path(network, tmp_path):
    """The whole network with its record."""
    save_network(network, tmp_path / "model.pt", AdaptationRecord.of(network, 0.8))
    return tmp_path / "model.pt"


def test_the_network_of_a_file_is_the_one_that_was_saved(network, path):
    model = load_autoencoder(path, decoder=True)
    volume, noise = torch.randn(1, 1, 16, 16, 16), torch.rand(1, 8)
    expected = network.eval()(volume, noise=noise)["reconstruction"]
    assert torch.equal(model.network(volume, noise=noise)["reconstruction"], expected)
    assert not model.network.training
    assert model.record == AdaptationRecord.of(network, 0.8)
    assert model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_another_share_can_be_hidden(network, path):
    model = load_autoencoder(path, decoder=True, masking_ratio=0.5)
    assert model.network(torch.zeros(1, 1, 16, 16, 16))["masked"].sum() == 4
    assert torch.equal(model.network.stem.projection.weight, network.stem.projection.weight)
    assert torch.equal(model.network.decoder.embed.weight, network.decoder.embed.weight)
    assert model.network.arguments == network.arguments | {"masking_ratio": 0.5}


@pytest.mark.parametrize("masking_ratio", [1.0, 0.99, -0.1])
def test_a_share_that_leaves_nothing_visible(path, masking_ratio):
    with pytest.raises(ValueError, match=r"`masking_ratio` must be in \[0, 1\) and leave at least one of the 8 tokens"):
        load_autoencoder(path, masking_ratio=masking_ratio)


def test_an_encoder_alone_gives_features_but_no_reconstruction(network, tmp_path):
    save_encoder(network, tmp_path / "encoder.pt", spacing_mm=0.8)
    volume = torch.randn(1, 1, 16, 16, 16)
    features = load_autoencoder(tmp_path / "encoder.pt").network.encode_patches(volume)
    assert torch.equal(features, network.eval().encode_patches(volume))
    message = r"encoder\.pt has an encoder but no decoder \(decoder\..* others are missing\).* good for features\.json"
    with pytest.raises(ValueError, match=message):
        load_autoencoder(tmp_path / "encoder.pt", decoder=True)


def test_no_file_says_where_weights_come_from(tmp_path):
    message = (
        r"There are no weights at .*none\.pt\. The demo's weights come with .* models/pretrained/model\.pt, the "
        r"authors' with `python -m bertswin_ext import_weights FILE --bundle inference`; .* with --model_path"
    )
    with pytest.raises(ValueError, match=message):
        load_autoencoder(tmp_path / "none.pt")


def test_the_plain_weights_of_a_run_have_no_record(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "model.pt")
    with pytest.raises(
        ValueError, match=r"model\.pt has no `record`, and nothing else tells the network's sizes.*save_"
    ):
        load_autoencoder(tmp_path / "model.pt")


def test_weights_of_another_network(tmp_path):
    segmenter = bertswin_segmenter_tiny(num_layers=1)
    save_network(segmenter, tmp_path / "model.pt", AdaptationRecord.of(segmenter, 0.8))
    with pytest.raises(
        ValueError, match=r"holds the weights of a BertsWinSegmenter; .* need the BertsWinMAE of a pre-"
    ):
        load_autoencoder(tmp_path / "model.pt")


def test_other_axes(network, path):
    content = torch.load(path, weights_only=True)
    content["record"]["axes"] = "LPS"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"learnt on LPS axes; scans are brought to RAS only"):
        load_autoencoder(path)


def test_tensors_that_do_not_fit_the_record(path):
    content = torch.load(path, weights_only=True)
    del content["model"]["stem.projection.weight"]
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"does not fit the network of its own record"):
        load_autoencoder(path)
