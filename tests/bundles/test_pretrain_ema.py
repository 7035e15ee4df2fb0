"""The overlay `ema.json`: a moving average of the weights is validated, saved and resumed, and changes no training."""

import csv
import json
import shutil
import signal

import pytest
import torch

from tests.bundles.conftest import command, run
from tests.bundles.test_pretrain_runs import assert_same, last_checkpoint
from tests.moments import AtLogLine, Send

pytestmark = pytest.mark.bundle

OPTIONS = {"accumulation_steps": 2, "checkpoint_interval": 2}


@pytest.fixture(scope="module")
def finished(bundle, phantom_dir, tmp_path_factory):
    """A whole small run with the average."""
    folder = tmp_path_factory.mktemp("finished")
    run(command(bundle, "ema", dataset_dir=phantom_dir, output_dir=folder, **OPTIONS))
    return folder


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def validated(row):
    return {name: row.pop(name) for name in list(row) if name.startswith("val_")}


def test_training_is_that_of_a_run_without(bundle, phantom_dir, finished, tmp_path):
    run(command(bundle, dataset_dir=phantom_dir, output_dir=tmp_path, **OPTIONS))
    plain, averaged = last_checkpoint(tmp_path), last_checkpoint(finished)
    for part in ("model", "optimizer", "conductor", "lr_scheduler", "trainer", "random"):
        assert_same(averaged[part], plain[part], part)
    assert set(averaged) - set(plain) == {"average"}
    for one, other in zip(rows(finished), rows(tmp_path), strict=True):
        assert validated(one) != validated(other)
        assert one == other


def test_model_pt_holds_the_average_of_the_best_epoch(finished):
    content = last_checkpoint(finished)
    assert content["average"]["num_steps"] == 12
    assert content["best"]["epoch"] == 2
    weights = torch.load(finished / "model.pt", weights_only=True)["model"]
    assert_same(dict(weights), {**content["model"], **content["average"]["average"]})
    assert all(not torch.equal(value, content["model"][name]) for name, value in content["average"]["average"].items())


def test_killed_in_mid_epoch_and_resumed_equals_uninterrupted(bundle, phantom_dir, finished, tmp_path):
    options = {"dataset_dir": phantom_dir, "output_dir": tmp_path, **OPTIONS}
    moment = AtLogLine("epoch 2/2 iteration 6/", Send(signal.SIGKILL))
    assert run(command(bundle, "ema", **options), check=False, moment=moment).returncode == -signal.SIGKILL
    assert last_checkpoint(tmp_path)["average"]["num_steps"] < 12
    resumed = run(command(bundle, "ema", resume=True, **options))
    assert "resumed from" in resumed.stderr
    assert_same(last_checkpoint(tmp_path), last_checkpoint(finished))
    assert (tmp_path / "model.pt").read_bytes() == (finished / "model.pt").read_bytes()


def test_another_decay_is_another_run(bundle, phantom_dir, finished, tmp_path):
    shutil.copytree(finished / "checkpoints", tmp_path / "checkpoints")
    options = {"dataset_dir": phantom_dir, "output_dir": tmp_path, "resume": True, "epochs": 3, **OPTIONS}
    result = run(command(bundle, "ema", ema_decay=0.5, **options), check=False)
    assert result.returncode != 0
    assert "The run differs from the checkpoint's: ema_decay 0.999 -> 0.5" in result.stderr


def test_evaluation_measures_what_validation_did(bundle, phantom_dir, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    run(command(bundle, "ema", "evaluate", dataset_dir=phantom_dir, output_dir=tmp_path / "run"))
    figures = json.loads((tmp_path / "run/evaluation/run_report.json").read_text())["metrics"]
    assert figures == pytest.approx({name: float(value) for name, value in validated(rows(finished)[1]).items()})
