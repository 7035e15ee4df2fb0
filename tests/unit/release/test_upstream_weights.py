"""The authors' weights become ours, and nothing else does."""

import numpy as np
import pytest
import torch

from bertswin_ext.networks.masked_autoencoder import BertsWinMAE
from bertswin_ext.networks.record import read_record
from bertswin_ext.networks.weights import load_weights
from bertswin_ext.release.upstream_weights import import_upstream_weights, network_of_upstream, place_of_weights
from tests.golden import reference
from tests.unit.release.archives_to_refuse import canary_pickle

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def golden():
    return reference.load("model_a_loose")


@pytest.fixture(scope="module")
def upstream(golden):
    return {name: torch.from_numpy(value) for name, value in reference.upstream_state_dict(golden[0]).items()}


@pytest.fixture(scope="module")
def checkpoint(upstream, tmp_path_factory):
    """As the authors' training writes it."""
    path = tmp_path_factory.mktemp("upstream") / "bertswin.pth"
    weights = {f"module.{name}": value for name, value in upstream.items()}
    torch.save({"model_state_dict": weights, "epoch": 3, "optimizer_state_dict": {"state": {}}}, path)
    return path


def test_the_imported_network_gives_the_authors_numbers(checkpoint, golden, tmp_path):
    """The reference's output, with the axes the other way round."""
    description, arrays = golden
    config = description["config"]
    target = tmp_path / "models" / "model.pt"
    report = import_upstream_weights(checkpoint, target, spacing_mm=0.2)
    assert (report.match, report.unexpected) == (1.0, ())
    network = BertsWinMAE(**read_record(target).arguments)
    load_weights(network, target)
    volume = torch.from_numpy(reference.volume(config["batch"], config["in_chans"], config["img_size"]))
    noise = torch.from_numpy(arrays["noise"]).unflatten(1, config["grid_size"]).permute(0, 3, 2, 1).flatten(1)
    with torch.no_grad():
        output = network(volume.permute(0, 1, 4, 3, 2), noise=noise)["reconstruction"].permute(0, 1, 4, 3, 2)
    np.testing.assert_allclose(output.numpy(), arrays["fwd.cube"], atol=1e-3 * arrays["fwd.cube"].std())


def test_the_sizes_are_read_off_the_tensors(checkpoint, golden, tmp_path):
    config = golden[0]["config"]
    import_upstream_weights(checkpoint, tmp_path / "model.pt", spacing_mm=0.3)
    record = read_record(tmp_path / "model.pt")
    assert (record.method, record.axes, record.spacing_mm) == ("BertsWinMAE", "RAS", (0.3, 0.3, 0.3))
    assert record.arguments == {
        "img_size": config["img_size"],
        "patch_size": config["patch_size"],
        "in_channels": 1,
        "hidden_size": config["encoder_embed_dim"],
        "num_layers": 2,
        "num_heads": 4,
        "window_size": config["swin_window_size"],
        "stem_channels": config["stem_base_dim"],
        "stem": "overlapping",
        "decoder_hidden_size": config["decoder_embed_dim"],
        "masking_ratio": 0.75,
        "ratio_of": "valid",
    }


def test_arrays_can_be_kept_as_they_are(checkpoint, upstream):
    network, _ = network_of_upstream(checkpoint, axes="ijk")
    assert torch.equal(network.stem.stages[0][0].weight, upstream["patch_embed.0.weight"])
    with pytest.raises(ValueError, match=r"`axes` must be 'zyx' or 'ijk', got 'xyz'"):
        network_of_upstream(checkpoint, axes="xyz")


def test_the_strict_stem(tmp_path):
    description, _ = reference.load("model_d_loose")
    weights = {name: torch.from_numpy(value) for name, value in reference.upstream_state_dict(description).items()}
    torch.save(weights, tmp_path / "d.pth")
    network, report = network_of_upstream(tmp_path / "d.pth")
    assert report.match == 1.0
    assert list(network.img_size) == description["config"]["img_size"]
    assert network.in_channels == description["config"]["in_chans"]


def test_weights_that_were_there_are_kept(checkpoint, tmp_path):
    target = tmp_path / "model.pt"
    target.write_bytes(b"mine")
    import_upstream_weights(checkpoint, target)
    assert (tmp_path / "model_before_1.pt").read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt", "model_before_1.pt"]


def without(upstream, *starts):
    return {name: value for name, value in upstream.items() if not name.startswith(starts)}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda u: {"conv1.weight": torch.zeros(8, 1, 3, 3, 3)}, r"no BertsWin network of the authors, found conv1"),
        (lambda u: {}, r"holds no BertsWin network of the authors, found no tensors"),
        (lambda u: without(u, "pos_embed"), r"holds no BertsWin network of the authors"),
        (lambda u: without(u, "patch_embed"), r"does not tell the network's in_channels, patch_size.*Zenodo"),
        (lambda u: without(u, "decoder_embed"), r"does not tell the network's decoder_hidden_size"),
        (lambda u: without(u, "decoder_head.3"), r"does not fit the network: .*2 missing: decoder.head.3"),
        (lambda u: without(u, "mask_token"), r"does not fit the network: .*1 missing: mask_token"),
        (lambda u: u | {"classifier.weight": torch.zeros(2, 48)}, r"more than a BertsWinMAE: .*classifier.weight"),
        (lambda u: u | {"decoder_embed.bias": torch.zeros(63)}, r"1 mismatched: decoder.embed.bias \(63,\) instead"),
        (lambda u: u | {"pos_embed": torch.zeros(1, 65, 48)}, r"does not tell the network's img_size"),
    ],
)
def test_other_networks_are_refused(upstream, tmp_path, spoil, message):
    torch.save(spoil(upstream), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=message):
        import_upstream_weights(tmp_path / "other.pth", tmp_path / "models" / "model.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["other.pth"]


def test_files_of_this_package_are_refused(checkpoint, tmp_path):
    import_upstream_weights(checkpoint, tmp_path / "ours.pt")
    with pytest.raises(ValueError, match=r"ours.pt is no file of the authors: .*Use it as it is"):
        import_upstream_weights(tmp_path / "ours.pt", tmp_path / "model.pt")


@pytest.mark.parametrize("kind", ["torn", "pickle", "torch", "text"])
def test_files_that_cannot_be_read_safely(checkpoint, tmp_path, kind):
    content = checkpoint.read_bytes()
    spoilt = {"torn": content[: len(content) // 2], "text": b"hello"}
    path = tmp_path / "bad.pth"
    path.write_bytes(spoilt[kind] if kind in spoilt else canary_pickle(tmp_path / "canary", kind))
    with pytest.raises(ValueError, match=r"Checkpoint .*bad.pth cannot be read"):
        import_upstream_weights(path, tmp_path / "model.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.pth"]


def bundle_of(folder):
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "metadata.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("pretrain", "models/model.pt"),
        ("bertswin_pretrain", "models/model.pt"),
        ("inference", "models/pretrained/model.pt"),
    ],
)
def test_where_a_bundle_reads_them(tmp_path, monkeypatch, name, place):
    folder = bundle_of(tmp_path / "bundles" / name)
    assert place_of_weights(folder) == folder / place
    monkeypatch.chdir(tmp_path)
    assert str(place_of_weights(name)) == f"bundles/{name}/{place}"
    monkeypatch.chdir(folder)
    assert str(place_of_weights(".")) == place


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone", r"`bundle` must be pretrain, inference or the folder of either, found no .*gone"),
        ("tmj_segmentation", r"`bundle` must be pretrain or inference, got tmj_segmentation.*`--encoder_path`"),
    ],
)
def test_bundles_that_read_none(tmp_path, name, message):
    bundle_of(tmp_path / "tmj_segmentation")
    with pytest.raises(ValueError, match=message):
        place_of_weights(tmp_path / name)
