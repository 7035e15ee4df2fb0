"""What holds for the configurations of the segmentation alone."""

import json
import sys

import pytest
from monai.bundle import ConfigWorkflow

from tests.bundles.conftest import SMALL
from tests.bundles.test_lint import folder, merged, text

TMJ = "tmj_segmentation"


def test_training_and_inference_agree():
    """The same network, the same voxels, and the same way to them."""
    train, inference = merged(TMJ, "train"), merged(TMJ, "inference")
    assert train["network_def"] == inference["network_def"]
    assert train["record"] == inference["record"]
    shared = set(train["network_def"].values()) | {"@spacing_mm", "@region_mm", "@class_names"}
    names = [value[1:] for value in shared if isinstance(value, str) and value.startswith("@")]
    assert {name: train[name] for name in names} == {name: inference[name] for name in names}
    validated, inferred = dict(train["validate::preprocessing"]), dict(inference["preprocessing"])
    assert (validated.pop("with_label"), inferred.pop("with_label")) == (True, "@with_label")
    assert inferred.pop("label_on_own_grid") is True
    assert validated == inferred


def test_the_demos_agree():
    train, inference = json.loads(text(TMJ, "demo")), json.loads(text(TMJ, "inference_demo"))
    assert inference["model_path"] == "$@bundle_root + '/output/demo/model.pt'"
    shared = (set(train) & set(inference)) - {"_desc_", "output_dir", "phantoms"}
    assert {"spacing_mm", "img_size", "hidden_size", "decoder_channels"} <= shared
    assert {name: train[name] for name in shared} == {name: inference[name] for name in shared}


def test_the_demo_takes_what_the_pre_training_demo_leaves():
    assert json.loads(text(TMJ, "demo"))["encoder_path"].endswith("+ '/pretrain/output/demo/stem/encoder.pt'")
    tuned, demo = merged("pretrain", "train", "demo", "tune_stem"), merged(TMJ, "train", "demo")
    assert tuned["tune_dir"] == "$@output_dir + '/stem'"
    names = ("spacing_mm", "patch_size", "hidden_size", "num_layers", "num_heads", "window_size", "stem_channels")
    assert {name: tuned[name] for name in names} == {name: demo[name] for name in names}


def test_the_papers_recipe():
    """arXiv 2512.21769, section 5."""
    parser = merged(TMJ, "train")
    names = ("learning_rate", "encoder_learning_rate", "weight_decay", "epochs", "patience", "class_weights")
    assert [parser[name] for name in names] == [1e-4, 5e-6, 0.05, 100, 20, [0.1, 1.0, 1.0]]
    assert parser["batch_size"] == "$6 if @has_gpu else 1"
    assert (parser["lora_rank"], parser["lora_alpha"]) == (8, 16.0)
    assert parser["loss::include_background"] is False


def test_metadata_knows_the_network():
    parser = merged(TMJ, "train")
    shape = json.loads(text(TMJ, "metadata"))["network_data_format"]
    output = shape["outputs"]["pred"]
    assert shape["inputs"]["image"]["spatial_shape"] == output["spatial_shape"] == [parser["img_size"]] * 3
    assert list(output["channel_def"].values()) == parser["class_names"]
    assert output["num_channels"] == len(parser["class_names"])


@pytest.mark.parametrize(("program", "kind"), [("train", "train"), ("inference", "inference")])
def test_monai_finds_its_properties(program, kind, monkeypatch, phantom_dir, tmp_path):
    monkeypatch.syspath_prepend(str(folder(TMJ)))
    known = json.loads(text(TMJ, program))
    small = {name: value for name, value in SMALL[TMJ].items() if name in known and name != "phantoms"}
    workflow = ConfigWorkflow(
        config_file=str(folder(TMJ) / "configs" / f"{program}.json"),
        meta_file=str(folder(TMJ) / "configs/metadata.json"),
        logging_file=False,
        workflow_type=kind,
        dataset_dir=str(phantom_dir),
        output_dir=str(tmp_path),
        patch_size=8,
        **small,
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    sys.modules.pop("here_tmj_segmentation", None)
