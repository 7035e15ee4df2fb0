"""Training as MONAI Label asks for it, without the server."""

import json
import os
import subprocess
import sys

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import partition_dataset

from tests.bundles.conftest import environment
from tests.bundles.served_bundle import BUNDLE, Served, read, small_bundle, write_studies

pytestmark = pytest.mark.bundle

# 3D Slicer sends an empty name of the run, and MONAI resolves all entries in their order instead of the list `run`
SLICERS_RUN_ID = ""

TRAINER = """
import json, sys, monai.bundle
from pathlib import Path
folder, overrides, run_id = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
sys.path.insert(0, str(folder))
configs = folder / "configs"
monai.bundle.run(run_id=run_id, init_id=None, final_id=None, meta_file=str(configs / "metadata.json"),
                 config_file=str(configs / "train.json"), **overrides)
"""


def overrides(folder, items):
    """What a request to train replaces: 20 % of the items validate, in their order."""
    training, validation = partition_dataset(items, ratios=[0.8, 0.2], shuffle=False)
    loader = {
        "_target_": "CheckpointLoader",
        "load_path": str(folder / "models" / "model.pt"),
        "load_dict": {"model": "$@network"},
        "strict": False,
    }
    return {
        "bundle_root": str(folder),
        "train#trainer#max_epochs": 1,
        "train#dataset#data": training,
        "device": "cpu",
        "train#handlers": [loader, *read(folder, "train")["train::handlers"]],
        "validate#dataset#data": validation,
    }


def train(folder, items, cwd):
    arguments = [str(folder), json.dumps(overrides(folder, items)), SLICERS_RUN_ID]
    return subprocess.run(
        [sys.executable, "-c", TRAINER, *arguments],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def weights(folder, name="model.pt"):
    return torch.load(folder / "models" / name, weights_only=True)["model"]


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    return write_studies(tmp_path_factory.mktemp("studies") / "all")


@pytest.fixture(scope="module")
def trained(studies, tmp_path_factory):
    """Trained as 3D Slicer asks for it."""
    folder = small_bundle(tmp_path_factory.mktemp("trained") / "model" / BUNDLE.name)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    done = train(folder, studies[:3], elsewhere)
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(elsewhere.iterdir()) == []
    return folder


def test_weights_are_read_without_running_code_and_on_any_machine(trained):
    content = torch.load(trained / "models" / "model.pt", weights_only=True)
    assert set(content) >= {"model"}
    assert {tensor.device.type for tensor in content["model"].values()} == {"cpu"}


def test_the_default_weights_are_offered_first(trained):
    # MONAI Label sorts by the length of the name
    names = sorted((path.name for path in (trained / "models").glob("*.pt")), key=len)
    assert names[0] == "model.pt"
    assert len(names) == 2


def test_a_training_continues_from_the_weights_and_replaces_them(trained, tmp_path):
    before = weights(trained, "model_before_1.pt")
    assert same(before, weights(small_bundle(tmp_path / BUNDLE.name)))
    after = weights(trained)
    assert after.keys() == before.keys()
    assert not same(after, before)
    # one epoch: near what it started from
    assert all((after[name] - before[name]).abs().max() < 0.5 for name in after)
    served = Served(trained)
    served.network_def.load_state_dict(after, strict=True)


def test_a_training_leaves_the_bundles_own_data_alone(trained):
    assert not (trained / "data").exists()
    report = json.loads((trained / "output" / "train" / "run_report.json").read_text(encoding="utf-8"))
    assert report["data"]["counts"] == {"training": 2, "validation": 1}


def test_a_second_training_keeps_the_files_of_the_first(trained, studies, tmp_path):
    first = (trained / "output" / "train" / "metrics.csv").read_bytes()
    done = train(trained, studies, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (trained / "output" / "train" / "previous" / "1" / "metrics.csv").read_bytes() == first
    for folder in (trained / "output" / "train", trained / "output" / "train" / "previous" / "1"):
        assert list((folder / "tensorboard").iterdir()), folder


def test_one_label_is_enough_to_train(studies, tmp_path):
    folder = small_bundle(tmp_path / "model" / BUNDLE.name)
    before = weights(folder)
    done = train(folder, studies[:1], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not same(weights(folder), before)


@pytest.mark.dist
def test_several_processes(studies, tmp_path):
    folder = small_bundle(tmp_path / "model" / BUNDLE.name)
    parser = read(folder, "train")
    for name, value in overrides(folder, studies).items():
        parser.set(value, name)
    configs = folder / "configs"
    ConfigParser.export_config_file(parser.config, str(configs / "monailabel_train.json"), indent=2)
    before = weights(folder)
    files = [str(configs / "monailabel_train.json"), str(configs / "multi_gpu_train.json")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes=1", "--nproc_per_node=2"]
    command += ["-m", "monai.bundle", "run", SLICERS_RUN_ID, "--meta_file", str(configs / "metadata.json")]
    command += ["--config_file", str(files), "--logging_file", str(configs / "logging.conf")]
    # MONAI Label hands on its own environment
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment(PYTHONPATH=f"{os.environ.get('PYTHONPATH', '')}{os.pathsep}{folder}"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert not same(weights(folder), before)
