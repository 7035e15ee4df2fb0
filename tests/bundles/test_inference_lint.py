"""The rules for the configurations of the deployment bundle."""

import json
import sys

import pytest
from monai.bundle import ConfigWorkflow

from tests.bundles.conftest import REPOSITORY

BUNDLE = REPOSITORY / "bundles" / "inference"
PROGRAMS = ["inference", "features", "reconstruct"]


def program(name):
    return json.loads((BUNDLE / "configs" / f"{name}.json").read_text())


@pytest.mark.parametrize("name", PROGRAMS)
def test_monai_finds_all_that_it_asks_of_a_program(name, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [*sys.path, str(BUNDLE)])
    workflow = ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / f"{name}.json"),
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="infer",
        output_dir=str(tmp_path),
        phantoms={"count": 1, "size": 24, "spacing_mm": 2.0, "seed": 0},
    )
    workflow.initialize()
    assert workflow.check_properties() == []


def test_the_programs_share_their_knobs_and_how_scans_are_read():
    inference, *others = map(program, PROGRAMS)
    for other in others:
        for name in ("input", "joints", "landmarks", "find_joints", "min_confidence", "locator_path", "phantoms"):
            assert other[name] == inference[name], name
        for name in ("dataset_dir", "reader", "preprocessing"):
            assert other[name] == inference[name], name


def test_the_class_names_are_those_of_the_program_that_ships():
    from bertswin_ext.programs import load_program

    record = load_program(BUNDLE / "models" / "model.ts").record
    metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text())["network_data_format"]
    assert list(metadata["outputs"]["pred"]["channel_def"].values()) == list(record.labels)
    assert metadata["inputs"]["image"]["spatial_shape"] == list(record.arguments["img_size"])
