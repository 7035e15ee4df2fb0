"""A packed bundle is complete and says what its model is."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from bertswin_ext.networks.masked_autoencoder import BertsWinMAE
from bertswin_ext.networks.record import AdaptationRecord, save_network
from bertswin_ext.networks.segmenter import BertsWinSegmenter
from bertswin_ext.runs import pack_bundle

BUNDLE = Path(__file__).parents[3] / "bundles" / "tmj_segmentation"
SIZES = {
    "img_size": 16,
    "patch_size": 8,
    "hidden_size": 24,
    "num_layers": 1,
    "num_heads": 2,
    "window_size": 2,
    "stem_channels": 4,
    "decoder_channels": 4,
}


@pytest.fixture(scope="module")
def network():
    return BertsWinSegmenter(**SIZES)


@pytest.fixture(scope="module")
def model(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "model.pt"
    record = AdaptationRecord.of(network, 0.8, ["background", "mandible", "skull"])
    save_network(network, path, record)
    return path


@pytest.fixture(scope="module")
def packed(model, tmp_path_factory):
    return pack_bundle(BUNDLE, model, tmp_path_factory.mktemp("app") / "tmj_segmentation")


def config(folder, name):
    return json.loads((folder / "configs" / f"{name}.json").read_text())


@pytest.mark.parametrize("program", ["train", "inference"])
def test_the_programs_have_the_models_sizes(packed, program):
    written = config(packed, program)
    assert {name: written[name] for name in SIZES} == SIZES
    assert written["spacing_mm"] == 0.8
    assert written["class_names"] == ["background", "mandible", "skull"]
    # nothing else has changed
    before = config(BUNDLE, program)
    assert list(written) == list(before)
    changed = {name for name in before if written[name] != before[name]}
    assert changed == {*SIZES, "spacing_mm"}


def test_the_model_comes_along(packed, model, network):
    written = packed / "models" / "model.pt"
    assert written.read_bytes() == model.read_bytes()
    weights = torch.load(written, weights_only=True)["model"]
    assert all(torch.equal(weights[name], value) for name, value in network.state_dict().items())


def test_the_description_has_the_models_window(packed):
    metadata = config(packed, "metadata")
    formats = metadata["network_data_format"]
    assert formats["inputs"]["image"]["spatial_shape"] == [16, 16, 16]
    assert formats["outputs"]["pred"]["spatial_shape"] == [16, 16, 16]
    assert "0.8 mm voxels" in metadata["image_classes"]


def test_files_that_come_along_and_files_that_do_not(model, tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLE, bundle, ignore=shutil.ignore_patterns("data", "output", "models"))
    for folder in ("data", "output", "models", "__pycache__"):
        (bundle / folder).mkdir(exist_ok=True)
        (bundle / folder / "large.bin").write_bytes(b"x")
    packed = pack_bundle(bundle, model, tmp_path / "packed")
    assert not list(packed.rglob("large.bin"))
    assert (packed / "LICENSE").is_file()
    assert (packed / "here_tmj_segmentation.py").is_file()
    assert (packed / "configs" / "logging.conf").is_file()
    assert sorted(path.name for path in (packed / "models").iterdir()) == ["model.pt"]


def test_a_folder_that_is_taken(model, tmp_path):
    (tmp_path / "mine").write_text("")
    with pytest.raises(ValueError, match=r"`output` .* is not empty. Give a new folder"):
        pack_bundle(BUNDLE, model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_model_without_a_record(tmp_path, network):
    torch.save(network.state_dict(), tmp_path / "flat.pt")
    with pytest.raises(ValueError, match=r"flat.pt has no `record`"):
        pack_bundle(BUNDLE, tmp_path / "flat.pt", tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_a_model_of_another_kind(tmp_path, network):
    save_network(network, tmp_path / "other.pt", AdaptationRecord.of(torch.nn.Linear(1, 1), 0.8))
    with pytest.raises(ValueError, match=r"other.pt holds a Linear, but .*train.json builds a BertsWinSegmenter"):
        pack_bundle(BUNDLE, tmp_path / "other.pt", tmp_path / "packed")


def test_a_bundle_that_only_trains(tmp_path):
    """Its output are features, one for each patch."""
    sizes = {name: value for name, value in SIZES.items() if name != "decoder_channels"}
    network = BertsWinMAE(**sizes, decoder_hidden_size=16)
    save_network(network, tmp_path / "model.pt", AdaptationRecord.of(network, 0.8))
    packed = pack_bundle(BUNDLE.with_name("pretrain"), tmp_path / "model.pt", tmp_path / "packed")
    train, metadata = config(packed, "train"), config(packed, "metadata")
    assert {name: train[name] for name in sizes} == sizes
    assert (train["decoder_hidden_size"], train["spacing_mm"]) == (16, 0.8)
    formats = metadata["network_data_format"]
    assert formats["inputs"]["image"]["spatial_shape"] == [16, 16, 16]
    assert formats["outputs"]["pred"]["spatial_shape"] == [2, 2, 2]
    assert formats["outputs"]["pred"]["num_channels"] == 24
    assert metadata["pred_classes"] == "24 feature channels per 8^3 voxels"
    assert not (packed / "configs" / "inference.json").exists()


def test_a_folder_that_is_no_bundle(model, tmp_path):
    with pytest.raises(ValueError, match=r"`bundle` must be the folder of a bundle .*train.json does not exist"):
        pack_bundle(tmp_path, model, tmp_path / "packed")


def test_a_model_with_other_classes(tmp_path):
    names = ["background", "mandible", "skull", "teeth"]
    network = BertsWinSegmenter(**SIZES, out_channels=4)
    save_network(network, tmp_path / "four.pt", AdaptationRecord.of(network, 0.8, names))
    with pytest.raises(ValueError, match=r"four.pt has 4 classes, but class_weights and class_ratios in .*train.json"):
        pack_bundle(BUNDLE, tmp_path / "four.pt", tmp_path / "packed")
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLE, bundle, ignore=shutil.ignore_patterns("data", "output", "models"))
    train = config(bundle, "train") | {"class_weights": [0.1, 1, 1, 1], "class_ratios": [1, 1, 1, 1]}
    (bundle / "configs" / "train.json").write_text(json.dumps(train))
    packed = pack_bundle(bundle, tmp_path / "four.pt", tmp_path / "packed")
    assert config(packed, "inference")["class_names"] == names
    metadata = config(packed, "metadata")
    output = metadata["network_data_format"]["outputs"]["pred"]
    assert (output["num_channels"], list(output["channel_def"].values())) == (4, names)
    assert metadata["pred_classes"] == "0 background, 1 mandible, 2 skull, 3 teeth"
