"""The rules for configurations, one test each."""

import json
import re
import runpy
import sys

import pytest
from monai.bundle import ConfigParser, ConfigWorkflow, verify_metadata

from bertswin_ext.runs import config_problems, known_ids

OVERLAYS = ["demo", "adamw", "single_loss", "vit_mae", "evaluate", "export_encoder", "multi_gpu_train", "tune_stem"]
# what an overlay brings along that train.json does not have; the model card explains it
OWN_KNOBS = {
    "tune_stem": {
        "tuned_stem",
        "tuning",
        "stem_init",
        "tune_dir",
        "tune_epochs",
        "tune_steps",
        "tune_accumulation",
        "stop_at_target",
    }
}


def merged(bundle, *names):
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs" / f"{name}.json") for name in names])
    parser.read_meta(str(bundle / "configs" / "metadata.json"))
    return parser


def text(bundle, name):
    return (bundle / "configs" / f"{name}.json").read_text()


@pytest.mark.parametrize("overlays", [(), *((name,) for name in OVERLAYS), ("demo", "vit_mae", "evaluate")])
def test_every_component_exists_and_takes_its_arguments(bundle, overlays):
    assert config_problems(merged(bundle, "train", *overlays).config, known_ids(bundle)) == []


def test_every_overlay_is_tested(bundle):
    names = {path.stem for path in (bundle / "configs").glob("*.json")}
    assert names == {"train", "metadata", *OVERLAYS}


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlays_touch_only_what_exists(bundle, name):
    base = merged(bundle, "train")
    for key in json.loads(text(bundle, name)):
        parts = key.lstrip("+").split("::")
        assert key == "finalize" or parts[0] in base.config or key in OWN_KNOBS.get(name, ()), key
        assert len(parts) == 1 or base.get("::".join(parts[:-1])) is not None, key
        assert not any(part.isdigit() for part in parts), key


@pytest.mark.parametrize("name", ["train", *OVERLAYS])
def test_a_configuration_says_what_it_is_and_how_to_run_it(bundle, name):
    description = json.loads(text(bundle, name))["_desc_"]
    assert f"configs/{name}.json" in description


@pytest.mark.parametrize("name", ["train", *OVERLAYS, "metadata"])
def test_no_absolute_paths(bundle, name):
    assert not re.search(r"(\"|: )/|/(home|root|tmp|mnt|data|work)/", text(bundle, name))


def test_knobs_come_before_objects(bundle):
    config = json.loads(text(bundle, "train"))
    objects = [key for key, value in config.items() if isinstance(value, dict) and "_target_" in value]
    knobs = list(config)[: list(config).index(objects[0])]
    assert {"epochs", "batch_size", "learning_rate", "dataset_dir", "resume", "img_size", "seed"} <= set(knobs)


def test_handlers_are_a_list_of_objects(bundle):
    parser = merged(bundle, "train")
    for name in ("train::handlers", "validate::handlers"):
        assert all("_target_" in handler for handler in parser[name])


def test_training_and_validation_agree(bundle):
    parser = merged(bundle, "train")
    train, validate = dict(parser["train::preprocessing"]), dict(parser["validate::preprocessing"])
    assert validate.pop("random") is False
    for augmentation in ("core_size", "rotate_range_deg", "scale_range"):
        del train[augmentation]
    assert train == validate
    train, validate = dict(parser["train::device_transforms"]), dict(parser["validate::device_transforms"])
    assert {train.pop("warp_prob"), train.pop("noise_prob")} == {"@warp_prob", "@noise_prob"}
    assert train == validate


def test_the_papers_augmentation(bundle):
    """arXiv 2512.21769, section 4."""
    parser = merged(bundle, "train")
    names = ("img_size", "core_size", "rotate_range_deg", "scale_range", "warp_prob", "noise_prob")
    assert [parser[name] for name in names] == [224, None, 12.0, [0.9, 1.1], 0.8, 0.5]


def test_the_resume_dictionary_is_complete(bundle):
    assert set(merged(bundle, "train")["checkpoint::state"]) >= {
        "model",
        "conductor",
        "optimizer",
        "lr_scheduler",
        "curves",
    }


@pytest.mark.parametrize(
    ("name", "learning_rate", "min_learning_rate", "weight_decay", "max_norm"),
    [("single_loss", 1.5e-5, 1.5e-6, 0.0, None), ("adamw", 1.5e-4, 1e-6, 0.05, 1.0)],
)
def test_the_overlays_of_the_papers_runs(bundle, name, learning_rate, min_learning_rate, weight_decay, max_norm):
    parser = merged(bundle, "train", name)
    assert parser["learning_rate"] == learning_rate
    assert parser["min_learning_rate"] == min_learning_rate
    assert parser["weight_decay"] == weight_decay
    assert parser["max_norm"] == max_norm
    assert parser["accumulation_steps"] == "$5 if @has_gpu else 50"
    assert parser["conductor::loss_weights"] == {"loss": 1.0}
    assert parser["loss_function"] == "@loss"
    # the rest of the recipe is train.json's
    assert {key: parser[key] for key in ("epochs", "steps_per_epoch", "warmup_epochs", "patience", "loss_weights")} == {
        "epochs": 1000,
        "steps_per_epoch": 300,
        "warmup_epochs": 20,
        "patience": 50,
        "loss_weights": [0.3, 0.2, 0.5],
    }


def test_metadata(bundle, tmp_path):
    metadata = json.loads(text(bundle, "metadata"))
    assert metadata["version"] in metadata["changelog"]
    schema = json.loads((bundle.parents[1] / "tests/bundles/meta_schema.json").read_text())
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(schema))
    verify_metadata(meta_file=str(bundle / "configs/metadata.json"), filepath=str(path))


def test_metadata_knows_the_network(bundle):
    parser = merged(bundle, "train")
    shape = json.loads(text(bundle, "metadata"))["network_data_format"]
    assert shape["inputs"]["image"]["spatial_shape"] == [parser["img_size"]] * 3
    assert shape["outputs"]["pred"]["num_channels"] == parser["hidden_size"]
    assert shape["outputs"]["pred"]["spatial_shape"] == [parser["img_size"] // parser["patch_size"]] * 3


def test_versions_agree(bundle):
    import bertswin_ext

    metadata = json.loads(text(bundle, "metadata"))
    pins = dict(
        line.split("==") for line in (bundle.parents[1] / "constraints.txt").read_text().split() if "==" in line
    )
    assert metadata["version"] == metadata["required_packages_version"]["bertswin-ext"] == bertswin_ext.__version__
    for package in ("monai", "torch", "numpy"):
        key = "pytorch_version" if package == "torch" else f"{package}_version"
        assert metadata[key] == pins[package]
    for package, version in metadata["required_packages_version"].items():
        assert package == "bertswin-ext" or pins[package] == version


def test_monai_finds_its_properties(bundle, monkeypatch, phantom_dir):
    monkeypatch.syspath_prepend(str(bundle))
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs/train.json"),
        meta_file=str(bundle / "configs/metadata.json"),
        logging_file=False,
        workflow_type="train",
        dataset_dir=str(phantom_dir),
        spacing_mm=1.6,
        img_size=16,
        patch_size=8,
        hidden_size=12,
        num_heads=2,
        window_size=1,
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    sys.modules.pop("here_pretrain", None)


def test_the_marker_module_names_its_folder(bundle):
    assert runpy.run_path(str(bundle / "here_pretrain.py"))["ROOT"] == str(bundle)


def test_the_licence_comes_along(bundle):
    assert (bundle / "LICENSE").read_text() == (bundle.parents[1] / "LICENSE").read_text()


def test_every_knob_is_in_the_model_card(bundle):
    config = json.loads(text(bundle, "train"))
    derived = {"imports", "bundle_root", "has_gpu", "device", "rank", "num_ranks", "is_not_rank0", "cpu_hint"}
    derived |= {"iterations_per_epoch", "_desc_"}
    knobs = [key for key in list(config)[: list(config).index("datalist")] if key not in derived]
    knobs += [knob for own in OWN_KNOBS.values() for knob in own]
    card = (bundle / "docs/README.md").read_text()
    assert [knob for knob in knobs if f"`{knob}`" not in card] == []


def test_links_and_pictures_of_the_documents_exist(bundle):
    repository = bundle.parents[1]
    documents = [repository / "README.md", *(repository / "docs").rglob("*.md"), bundle / "docs/README.md"]
    broken = []
    for document in documents:
        targets = re.findall(r"\]\(([^)#]+)\)", document.read_text())
        broken += [
            f"{document.name}: {target}"
            for target in targets
            if not target.startswith("http") and not (document.parent / target).exists()
        ]
    assert broken == []
    assert not re.search(r"\]\(\.\./", (bundle / "docs/README.md").read_text()), "the card is published alone"
