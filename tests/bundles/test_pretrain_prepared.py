"""Training on what `prepare` wrote: the same commands, another data set."""

import csv
import json
import signal
import sys

import pytest

from bertswin_ext.data import PreparationSettings, load_datalist
from bertswin_ext.data.preparation.prepare import prepare
from tests.bundles.conftest import command, run
from tests.bundles.test_pretrain_runs import assert_same, last_checkpoint
from tests.moments import AtLogLine, Send

pytestmark = pytest.mark.bundle


@pytest.fixture(scope="module")
def store(phantom_dir, tmp_path_factory):
    """The phantoms of the other tests, prepared; one of them without its label."""
    raw = phantom_dir.parent
    content = json.loads(phantom_dir.read_text())
    del content["training"][1]["label"]
    (raw / "one_without_label.json").write_text(json.dumps(content))
    folder = tmp_path_factory.mktemp("prepared") / "store"
    settings = PreparationSettings(spacing_mm=1.6, roi_size=28)
    assert prepare(raw / "one_without_label.json", folder, settings, num_workers=1, progress=False).refused == []
    return folder


@pytest.fixture(scope="module")
def finished(bundle, store, tmp_path_factory):
    """A whole small run with the tissue-weighted loss and loader processes."""
    folder = tmp_path_factory.mktemp("finished_prepared")
    arguments = {"dataset_dir": store, "output_dir": folder, "loss": "@tissue", "num_workers": 2}
    return folder, run(command(bundle, **arguments)).stderr


def test_it_trains_and_says_that_a_label_is_missing(finished):
    folder, log = finished
    with (folder / "metrics.csv").open() as file:
        losses = [float(row["train_loss"]) for row in csv.DictReader(file)]
    assert losses[1] < losses[0]
    assert "samples of this batch have no label: they are scored by the structural loss" in log
    assert json.loads((folder / "run_report.json").read_text())["data"]["prepared"]["roi_size"] == 28


def test_killed_and_resumed_equals_uninterrupted(bundle, store, finished, tmp_path):
    arguments = {"dataset_dir": store, "loss": "@tissue", "num_workers": 2, "checkpoint_interval": 2}
    moment = AtLogLine("epoch 2/2 iteration 4/", Send(signal.SIGKILL))
    killed = run(command(bundle, output_dir=tmp_path, **arguments), check=False, moment=moment)
    assert killed.returncode == -signal.SIGKILL
    resumed = run(command(bundle, output_dir=tmp_path, resume=True, **arguments))
    assert "resumed from" in resumed.stderr
    assert_same(last_checkpoint(tmp_path), last_checkpoint(finished[0]))


def test_validation_does_not_depend_on_whether_volumes_were_prepared(bundle, phantom_dir, store, finished, tmp_path):
    """Phantoms have the spacing already, so prepared ones are the raw ones, and validation has no chance in it."""
    weights = finished[0] / "model.pt"
    tables = []
    for name, dataset in (("raw", phantom_dir), ("prepared", store)):
        arguments = {"dataset_dir": dataset, "output_dir": tmp_path / name, "model_path": weights, "val_batch_size": 1}
        run(command(bundle, "evaluate", **arguments))
        with (tmp_path / name / "evaluation" / "cases.csv").open() as file:
            tables.append({row["patient"]: float(row["l2"]) for row in csv.DictReader(file)})
    assert tables[0] == pytest.approx(tables[1], abs=1e-5)
    assert len(tables[0]) == 2


def test_a_run_with_another_spacing_is_refused(bundle, store, tmp_path):
    result = run(command(bundle, dataset_dir=store, output_dir=tmp_path, spacing_mm=0.8), check=False)
    assert result.returncode != 0
    message = "was prepared with voxels of 1.6 x 1.6 x 1.6 mm, the run expects `spacing_mm` = 0.8 x 0.8 x 0.8"
    assert message in result.stderr


def test_the_printed_commands_work(bundle, phantom_dir, tmp_path):
    """prepare, then check, as the how-to has it."""
    store = tmp_path / "store"
    prepared = [sys.executable, "-m", "bertswin_ext", "prepare", "--input", str(phantom_dir), "--output", str(store)]
    result = run([*prepared, "--spacing_mm", "1.6", "--roi_size", "28", "--workers", "1"])
    train = "python -m monai.bundle run --config_file bundles/pretrain/configs/train.json"
    assert f"To train on it: {train} --dataset_dir {store} --spacing_mm 1.6" in result.stdout
    assert len(load_datalist(store).training) == 4
    check = [sys.executable, "-m", "bertswin_ext", "check", "--dataset", str(store)]
    result = run([*check, "--spacing_mm", "1.6", "--img_size", "24"])
    assert "FAULT" not in result.stdout
    assert "4 training and 2 validation items" in result.stdout
