"""What MONAI Label reads of a bundle and does to a study."""

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.inferers import Inferer
from monai.transforms import Compose, LoadImaged

from bertswin_ext.networks.weights import load_weights
from bertswin_ext.runs.config_check import config_problems, known_ids
from tests.bundles.served_bundle import (
    BUNDLE,
    CONFIGS,
    MARKER,
    SERVED,
    Served,
    built,
    read,
    small_bundle,
    write_studies,
    written,
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return small_bundle(tmp_path_factory.mktemp("app") / "model" / BUNDLE.name)


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    return write_studies(tmp_path_factory.mktemp("studies") / "all")


def turned(item, folder):
    """The same volume stored with other axes: the first one backwards, the others exchanged."""
    turned_item = {}
    for key, path in item.items():
        volume = nib.load(path)
        target = folder / f"{key}.nii.gz"
        nib.save(volume.as_reoriented(np.array([[0, -1], [2, 1], [1, 1]])), target)
        turned_item[key] = str(target)
    return turned_item


def bone(x):
    """Logits of a network that takes for skull what is dense: the phantom's bones."""
    dense = (x - (400 + 21.14) / 578.02) * 5
    return torch.cat([-dense, torch.full_like(x, -20), dense], dim=1)


def test_the_files_have_the_names_that_are_looked_for():
    names = {path.name for path in CONFIGS.iterdir()}
    assert names >= {"inference.json", "train.json", "multi_gpu_train.json", "metadata.json", "logging.conf"}


@pytest.mark.parametrize("name", SERVED)
def test_a_file_needs_no_other_one(name):
    text = (CONFIGS / f"{name}.json").read_text(encoding="utf-8")
    # neither parts of other files nor the metadata
    assert not re.search(r'"%[^"]*\.json', text)
    assert "@_meta_" not in text


@pytest.mark.parametrize("name", SERVED)
def test_a_file_has_no_faults_of_its_own(name):
    assert config_problems(read(BUNDLE, name).config, known_ids(BUNDLE)) == []


def test_paths_begin_at_the_bundle_not_at_the_working_directory(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in SERVED:
        parser = read(small, name)
        for entry in ("output_dir", "model_path"):
            assert Path(built(small, parser, entry)).is_relative_to(small)
    assert Path(built(small, read(small, "train"), "published_path")) == small / "models" / "model.pt"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("inference", ["network_def", "device", "preprocessing", "postprocessing", "inferer", "displayable_configs"]),
        (
            "train",
            [
                *("network", "device", "bundle_root", "run", "train::trainer::max_epochs", "train::handlers"),
                *("train::dataset::data", "validate::dataset::data"),
            ],
        ),
    ],
)
def test_the_entries_that_are_asked_for_or_replaced_exist(name, ids):
    parser = read(BUNDLE, name)
    assert [entry for entry in ids if entry not in parser] == []


def test_a_loader_can_be_put_before_the_handlers(small):
    for name in ("train::handlers", "validate::handlers"):
        handlers = read(small, "train")[name]
        assert isinstance(handlers, list)
        assert all(isinstance(handler, dict) and handler.get("_target_") for handler in handlers)
        # with one of its own, MONAI Label would load no weights
        assert "CheckpointLoader" not in [handler["_target_"] for handler in handlers]


def test_the_schedule_and_the_stream_follow_what_is_replaced(small, studies):
    parser = read(small, "train")
    parser.update({"train#dataset#data": studies, "validate#dataset#data": [], "train#trainer#max_epochs": 7})
    assert built(small, parser, "train::sampler").num_items == len(studies)
    per_epoch = len(studies)  # two crops of each volume, two to a batch
    assert built(small, parser, "iterations_per_epoch") == per_epoch
    assert built(small, parser, "warmup_steps") + built(small, parser, "decay_steps") == 7 * per_epoch


def test_the_volume_is_loaded_by_a_loader_that_can_be_replaced(small):
    found = Served(small).entry("preprocessing")
    transforms = list(found.transforms) if isinstance(found, Compose) else found
    loaders = [transform for transform in transforms if isinstance(transform, LoadImaged)]
    assert len(loaders) == 1
    assert tuple(loaders[0].keys) == ("image",)


def test_a_request_needs_the_image_alone_and_keeps_its_geometry(small, studies):
    data = Served(small).prepared(studies[0]["image"])
    volume = nib.load(studies[0]["image"])
    # what the label is written with
    assert np.allclose(data["image"].meta["original_affine"], volume.affine)
    assert tuple(data["image"].meta["spatial_shape"]) == volume.shape
    assert data["image"].shape[0] == 1
    assert data["model"] == BUNDLE.name


@pytest.mark.parametrize("storage", ["as written", "other axes"])
def test_labels_come_back_where_the_bones_are(small, studies, tmp_path, storage):
    item = studies[0] if storage == "as written" else turned(studies[0], tmp_path)
    data = Served(small)(item["image"], bone)
    found = np.asarray(data["pred"])
    volume, label = nib.load(item["image"]), np.asarray(nib.load(item["label"]).dataobj)
    # nothing is left to be resized
    assert found.shape == (1, *volume.shape)
    bones = label > 0
    overlap = 2 * np.count_nonzero((found[0] == 2) & bones) / (np.count_nonzero(found == 2) + bones.sum())
    assert overlap > 0.8
    wrong = found[0][::-1, ::-1, ::-1]
    assert 2 * np.count_nonzero((wrong == 2) & bones) / (np.count_nonzero(found == 2) + bones.sum()) < overlap - 0.2


def test_labels_are_whole_numbers(small, studies):
    data = Served(small)(studies[0]["image"])
    assert data["pred"].dtype == torch.uint8
    assert set(np.unique(np.asarray(data["pred"]))) <= {0, 1, 2}


def test_the_segments_have_the_networks_names():
    metadata = written("metadata")["network_data_format"]
    assert next(iter(metadata["inputs"])) == "image"
    assert next(iter(metadata["outputs"])) == "pred"
    assert len(metadata["inputs"]["image"]["spatial_shape"]) == 3
    channels = metadata["outputs"]["pred"]["channel_def"]
    labels = {name.lower(): int(index) for index, name in channels.items() if name.lower() != "background"}
    assert labels == {"mandible": 1, "skull": 2}
    for name in SERVED:
        assert written(name)["class_names"] == list(channels.values())
    assert written("metadata")["version"]
    assert written("metadata")["description"]


def test_published_weights_fit_strictly():
    path = BUNDLE / "models" / "model.pt"
    if not path.is_file():
        pytest.skip("the bundle has no weights: they come with a release or a training")
    parser = read(BUNDLE, "inference")
    load_weights(built(BUNDLE, parser, "network_def"), path, record=built(BUNDLE, parser, "record"))


def test_dropout_is_a_literal_argument_and_acts(small, studies):
    assert isinstance(written("inference")["network_def"], dict)
    torch.manual_seed(0)
    x = torch.randn(1, 1, 24, 24, 24)
    for rate, is_random in ((0.0, False), (0.2, True)):
        # scoring leaves the network in training mode
        network = Served(small, dropout=rate).network_def.train()
        with torch.no_grad():
            assert torch.equal(network(x), network(x)) is not is_random
    with torch.no_grad():
        assert torch.equal(network.eval()(x), network.eval()(x))


def test_dropout_adds_no_weights(small):
    plain, scoring = Served(small).network_def, Served(small, dropout=0.2).network_def
    assert plain.state_dict().keys() == scoring.state_dict().keys()


def test_the_folders_name_says_what_the_model_does():
    assert "segmentation" in BUNDLE.name
    # these come first and mean something else
    assert not any(word in BUNDLE.name for word in ("deepedit", "deepgrow", "detection"))
    # what follows `_v` is taken for a version
    assert "_v" not in BUNDLE.name


def test_the_bundle_has_no_module_that_others_have_too():
    modules = {path.stem for path in BUNDLE.glob("*.py")} | {path.parent.name for path in BUNDLE.glob("*/__init__.py")}
    assert modules == {MARKER}


def test_annotators_are_offered_three_options():
    options = written("inference")["displayable_configs"]
    assert {name: type(value) for name, value in options.items()} == {
        "sw_overlap": float,
        "sw_batch_size": int,
        "keep_largest_component": bool,
    }
    # training would ask every client for them
    assert "displayable_configs" not in written("train")


def test_the_options_act(small, studies):
    served = Served(small)
    served.prepared(studies[0]["image"], sw_overlap=0.75, sw_batch_size=3)
    inferer = served.entry("inferer")
    inferer = getattr(inferer, "inferer", inferer)
    assert isinstance(inferer, Inferer)
    assert inferer.overlap in (0.75, (0.75,) * 3)
    assert inferer.sw_batch_size == 3


def test_the_largest_part_of_the_mandible_can_be_kept(small, studies):
    def mandible_and_a_speck(x):
        logits = bone(x)[:, [0, 2, 1]]
        logits[..., :2, :2, :2] = torch.tensor([-9.0, 9.0, -9.0]).view(1, 3, 1, 1, 1)
        return logits

    def voxels(**options):
        data = Served(small)(studies[0]["image"], mandible_and_a_speck, **options)
        return np.count_nonzero(np.asarray(data["pred"]) == 1)

    assert 0 < voxels(keep_largest_component=True) < voxels(keep_largest_component=False)


def test_scoring_can_stack_what_it_gets(small, studies):
    served = Served(small, dropout=0.2)
    labels = [served(studies[0]["image"], served.network_def.train())["pred"] for _ in range(2)]
    assert torch.stack(labels).shape == (2, 1, *nib.load(studies[0]["image"]).shape)
