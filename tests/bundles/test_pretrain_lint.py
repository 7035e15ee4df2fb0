"""What holds for the configurations of the pre-training alone."""

import json
import sys

import pytest
from monai.bundle import ConfigWorkflow

from tests.bundles.test_lint import merged, text


def test_training_and_validation_agree():
    parser = merged("pretrain", "train")
    train, validate = dict(parser["train::preprocessing"]), dict(parser["validate::preprocessing"])
    assert validate.pop("random") is False
    for augmentation in ("mask_block_size", "core_size", "rotate_range_deg", "scale_range"):
        del train[augmentation]
    assert train == validate
    train, validate = dict(parser["train::device_transforms"]), dict(parser["validate::device_transforms"])
    assert {train.pop("warp_prob"), train.pop("noise_prob")} == {"@warp_prob", "@noise_prob"}
    assert train == validate


def test_the_papers_augmentation():
    """arXiv 2512.21769, section 4."""
    parser = merged("pretrain", "train")
    names = ("img_size", "core_size", "rotate_range_deg", "scale_range", "warp_prob", "noise_prob")
    assert [parser[name] for name in names] == [224, None, 12.0, [0.9, 1.1], 0.8, 0.5]


@pytest.mark.parametrize(
    ("name", "learning_rate", "min_learning_rate", "weight_decay", "max_norm"),
    [("single_loss", 1.5e-5, 1.5e-6, 0.0, None), ("adamw", 1.5e-4, 1e-6, 0.05, 1.0)],
)
def test_the_overlays_of_the_papers_runs(name, learning_rate, min_learning_rate, weight_decay, max_norm):
    parser = merged("pretrain", "train", name)
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


def test_metadata_knows_the_network():
    parser = merged("pretrain", "train")
    shape = json.loads(text("pretrain", "metadata"))["network_data_format"]
    assert shape["inputs"]["image"]["spatial_shape"] == [parser["img_size"]] * 3
    assert shape["outputs"]["pred"]["num_channels"] == parser["hidden_size"]
    assert shape["outputs"]["pred"]["spatial_shape"] == [parser["img_size"] // parser["patch_size"]] * 3


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
