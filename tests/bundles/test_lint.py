"""The rules for configurations of all bundles, one test each."""

import json
import re
import runpy

import pytest
from monai.bundle import ConfigParser, verify_metadata

from bertswin_ext.runs import config_problems, known_ids
from tests.bundles.conftest import REPOSITORY

# complete programs, and the files that are listed after each
PROGRAMS = {
    "pretrain": {
        "train": [
            "demo",
            "adamw",
            "single_loss",
            "ema",
            "vit_mae",
            "convergence",
            "fidelity",
            "evaluate",
            "export_encoder",
            "multi_gpu_train",
            "sharded",
            "tune_stem",
        ]
    },
    "inference": {"inference": [], "features": [], "reconstruct": [], "train_locator": []},
    "tmj_segmentation": {
        "train": [
            "demo",
            "from_scratch",
            "linear_probe",
            "last_stage",
            "layer_decay",
            "lora",
            "vit_mae",
            "swin_unetr",
            "segresnet",
            "evaluate",
            "multi_gpu_train",
        ],
        "inference": ["inference_demo", "export", "tensorrt"],
    },
}
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
    },
    "ema": {"ema_decay"},
    "sharded": {"reshard_after_forward", "param_dtype"},
    "export": {"formats", "atol"},
    "tensorrt": {"precision"},
}
DERIVED = {
    "_desc_",
    "imports",
    "bundle_root",
    "has_gpu",
    "device",
    "rank",
    "num_ranks",
    "is_not_rank0",
    "cpu_hint",
    "iterations_per_epoch",
    "process_group",
}

OVERLAYS = [(b, program, o) for b, programs in PROGRAMS.items() for program, o_ in programs.items() for o in o_]
ALONE = [(b, program) for b, programs in PROGRAMS.items() for program in programs]
SEVERAL = [
    ("pretrain", "train", "demo", "vit_mae", "evaluate"),
    ("pretrain", "train", "adamw", "multi_gpu_train", "ema"),
    ("pretrain", "train", "ema", "tune_stem"),
    ("tmj_segmentation", "train", "demo", "lora", "multi_gpu_train"),
    ("tmj_segmentation", "train", "demo", "swin_unetr", "evaluate"),
]

every_bundle = pytest.mark.parametrize("bundle", PROGRAMS)
every_bundle_that_trains = pytest.mark.parametrize("bundle", [name for name in PROGRAMS if "train" in PROGRAMS[name]])


def folder(bundle):
    return REPOSITORY / "bundles" / bundle


def text(bundle, name):
    return (folder(bundle) / "configs" / f"{name}.json").read_text()


def merged(bundle, *names):
    parser = ConfigParser()
    parser.read_config([str(folder(bundle) / "configs" / f"{name}.json") for name in names])
    parser.read_meta(str(folder(bundle) / "configs" / "metadata.json"))
    return parser


def knobs(bundle, program):
    """Entries before the first object."""
    config = json.loads(text(bundle, program))
    objects = [key for key, value in config.items() if isinstance(value, dict) and "_target_" in value]
    return [key for key in list(config)[: list(config).index(objects[0])] if key not in DERIVED]


@pytest.mark.parametrize("files", [*ALONE, *OVERLAYS, *SEVERAL], ids="-".join)
def test_every_component_exists_and_takes_its_arguments(files):
    bundle, *names = files
    assert config_problems(merged(bundle, *names).config, known_ids(folder(bundle))) == []


@every_bundle
def test_every_configuration_is_tested(bundle):
    names = {path.stem for path in (folder(bundle) / "configs").glob("*.json")}
    programs = PROGRAMS[bundle]
    assert names == {"metadata", *programs, *(name for overlays in programs.values() for name in overlays)}


@pytest.mark.parametrize(("bundle", "program", "name"), OVERLAYS)
def test_overlays_touch_only_what_exists(bundle, program, name):
    base = merged(bundle, program)
    for key in json.loads(text(bundle, name)):
        parts = key.lstrip("+").split("::")
        assert key == "finalize" or parts[0] in base.config or key in OWN_KNOBS.get(name, ()), key
        assert len(parts) == 1 or base.get("::".join(parts[:-1])) is not None, key
        assert not any(part.isdigit() for part in parts), key


@pytest.mark.parametrize(("bundle", "name"), [*ALONE, *((b, o) for b, _, o in OVERLAYS)])
def test_a_configuration_says_what_it_is_and_how_to_run_it(bundle, name):
    description = json.loads(text(bundle, name))["_desc_"]
    assert f"configs/{name}.json" in description


@pytest.mark.parametrize(
    ("bundle", "name"), [*ALONE, *((b, o) for b, _, o in OVERLAYS), *((b, "metadata") for b in PROGRAMS)]
)
def test_no_absolute_paths(bundle, name):
    assert not re.search(r"(\"|: )/|/(home|root|tmp|mnt|data|work)/", text(bundle, name))


@pytest.mark.parametrize(("bundle", "program"), ALONE)
def test_knobs_come_before_objects(bundle, program):
    # what deploys takes scans, and the sizes of the network that it is given
    wanted = {"output_dir", "seed"} if bundle == "inference" else {"dataset_dir", "img_size", "seed"}
    assert wanted <= set(knobs(bundle, program))
    if program == "train":
        assert {"epochs", "batch_size", "learning_rate", "resume"} <= set(knobs(bundle, program))


@every_bundle_that_trains
def test_handlers_are_a_list_of_objects(bundle):
    parser = merged(bundle, "train")
    for name in ("train::handlers", "validate::handlers"):
        assert all("_target_" in handler for handler in parser[name])


@every_bundle_that_trains
def test_the_resume_dictionary_is_complete(bundle):
    assert set(merged(bundle, "train")["checkpoint::state"]) >= {"model", "optimizer", "lr_scheduler", "curves"}


@every_bundle
def test_metadata(bundle):
    metadata = json.loads(text(bundle, "metadata"))
    assert metadata["version"] in metadata["changelog"]
    verify_metadata(
        meta_file=str(folder(bundle) / "configs/metadata.json"),
        filepath=str(REPOSITORY / "tests/bundles/meta_schema.json"),
    )


@every_bundle
def test_versions_agree(bundle):
    import bertswin_ext

    metadata = json.loads(text(bundle, "metadata"))
    pins = dict(line.split("==") for line in (REPOSITORY / "constraints.txt").read_text().split() if "==" in line)
    assert metadata["version"] == metadata["required_packages_version"]["bertswin-ext"] == bertswin_ext.__version__
    for package in ("monai", "torch", "numpy"):
        key = "pytorch_version" if package == "torch" else f"{package}_version"
        assert metadata[key] == pins[package]
    for package, version in metadata["required_packages_version"].items():
        assert package == "bertswin-ext" or pins[package] == version


@every_bundle
def test_the_marker_module_names_its_folder(bundle):
    assert runpy.run_path(str(folder(bundle) / f"here_{bundle}.py"))["ROOT"] == str(folder(bundle))


@every_bundle
def test_the_licence_comes_along(bundle):
    assert (folder(bundle) / "LICENSE").read_text() == (REPOSITORY / "LICENSE").read_text()


@pytest.mark.parametrize(("bundle", "program"), ALONE)
def test_every_knob_is_in_the_model_card(bundle, program):
    overlays = [name for owner, overlay_of, name in OVERLAYS if (owner, overlay_of) == (bundle, program)]
    card = (folder(bundle) / "docs/README.md").read_text()
    wanted = knobs(bundle, program) + [knob for name in overlays for knob in OWN_KNOBS.get(name, ())]
    assert [knob for knob in wanted if f"`{knob}`" not in card] == []


def test_links_and_pictures_of_the_documents_exist():
    cards = [folder(bundle) / "docs/README.md" for bundle in PROGRAMS]
    broken = []
    for document in [REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md"), *cards]:
        targets = re.findall(r"\]\(([^)#]+)\)", document.read_text())
        broken += [
            f"{document.name}: {target}"
            for target in targets
            if not target.startswith("http") and not (document.parent / target).exists()
        ]
    assert broken == []
    assert not [card for card in cards if re.search(r"\]\(\.\./", card.read_text())], "a card is published alone"
