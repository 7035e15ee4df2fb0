"""The documented commands, run as users run them, on phantoms of a second."""

import csv
import json
import shutil
import signal
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bertswin_ext.networks.record import read_record
from tests.bundles.conftest import command, run
from tests.moments import AtLogLine, Send

pytestmark = pytest.mark.bundle


@pytest.fixture(scope="module")
def finished(bundle, phantom_dir, tmp_path_factory):
    """A whole small run."""
    folder = tmp_path_factory.mktemp("finished")
    result = run(command(bundle, dataset_dir=phantom_dir, output_dir=folder))
    return folder, result.stderr


def last_checkpoint(folder):
    path = sorted((folder / "checkpoints").glob("*.pt"))[-1]
    return torch.load(path, weights_only=True)


def assert_same(left, right, where=""):
    """Bit for bit, however nested; only measured seconds may differ."""
    assert type(left) is type(right), where
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left.keys() - {"seconds"}:
            assert_same(left[key], right[key], f"{where}/{key}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), where
        for index, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_same(a, b, f"{where}/{index}")
    else:
        assert left == right, where


def test_a_run_leaves_what_people_look_at(finished):
    folder, log = finished
    for name in ("progress.png", "reconstructions/latest.png", "reconstructions/epoch_0002.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG"), name
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    steps = [event.step for event in events.Scalars("conductor/weight/contrast")]
    assert steps == list(range(1, 13))
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["train_loss"]) < float(rows[0]["train_loss"])
    assert {"train_brightness", "train_structure", "val_mean_loss", "val_mean_l2", "learning_rate"} <= set(rows[0])
    assert {"conductor/cosine/brightness-contrast", "conductor/wins/structure", "conductor/conflicts"} <= set(rows[0])
    assert [row["conductor/skipped_steps"] for row in rows] == ["0", "0"]
    report = json.loads((folder / "run_report.json").read_text())
    assert report["status"] == "completed"
    assert report["data"]["counts"] == {"training": 4, "validation": 2}
    assert report["config"]["epochs"] == 2
    assert read_record(folder / "model.pt").spacing_mm == (1.6, 1.6, 1.6)
    assert "epoch 1/2 iteration 2/6 loss" in log
    assert "first estimate:" in log
    assert "epoch 2/2 completed" in (folder / "run.log").read_text()


def test_two_runs_are_equal(bundle, phantom_dir, finished, tmp_path):
    """The other one in an interpreter of its own."""
    run(command(bundle, dataset_dir=phantom_dir, output_dir=tmp_path), fresh=True)
    assert_same(last_checkpoint(tmp_path), last_checkpoint(finished[0]))


def test_workers_change_nothing(bundle, phantom_dir, finished, tmp_path):
    run(command(bundle, dataset_dir=phantom_dir, output_dir=tmp_path, num_workers=2))
    assert_same(last_checkpoint(tmp_path)["model"], last_checkpoint(finished[0])["model"])


@pytest.mark.parametrize(("accumulation", "accumulation_steps"), [("classic", 1), ("classic", 2), ("stochastic", 3)])
def test_killed_in_mid_epoch_and_resumed_equals_uninterrupted(
    bundle, phantom_dir, tmp_path, accumulation, accumulation_steps
):
    options = {
        "dataset_dir": phantom_dir,
        "checkpoint_interval": 2,
        "accumulation": accumulation,
        "accumulation_steps": accumulation_steps,
    }
    run(command(bundle, output_dir=tmp_path / "whole", **options))
    # in the second epoch, after a checkpoint in mid-epoch and before the next one; with accumulation in mid-step
    moment = AtLogLine(f"epoch 2/2 iteration {4 + 2 * (accumulation_steps - 1)}/", Send(signal.SIGKILL))
    killed = run(command(bundle, output_dir=tmp_path / "killed", **options), check=False, moment=moment)
    assert killed.returncode == -signal.SIGKILL
    left = sorted((tmp_path / "killed" / "checkpoints").glob("*.pt"))[-1]
    iteration = torch.load(left, weights_only=True)["trainer"]["iteration"]
    per_epoch = 6 * accumulation_steps
    assert iteration < 2 * per_epoch
    resumed = run(command(bundle, output_dir=tmp_path / "killed", resume=True, **options))
    assert f"resumed from {left} at iteration {iteration}" in resumed.stderr
    assert_same(last_checkpoint(tmp_path / "killed"), last_checkpoint(tmp_path / "whole"))
    model = [torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("killed", "whole")]
    assert_same(*model)


def test_a_new_run_moves_the_old_one_aside(bundle, phantom_dir, finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    options = {"dataset_dir": phantom_dir, "output_dir": tmp_path / "run", "epochs": 1}
    run(command(bundle, **options))
    assert (tmp_path / "run/previous/1/model.pt").read_bytes() == (finished[0] / "model.pt").read_bytes()
    assert len(list((tmp_path / "run/checkpoints").glob("*.pt"))) == 1


@pytest.mark.parametrize("place", ["repository", "bundle", "anywhere"])
def test_train_json_starts_from_anywhere_and_writes_under_its_bundle(bundle, phantom_dir, tmp_path, place):
    copy = tmp_path / "repository" / "bundles" / "pretrain"
    shutil.copytree(bundle, copy, ignore=shutil.ignore_patterns("output", "data", "models", "__pycache__"))
    folder = {"repository": copy.parents[1], "bundle": copy, "anywhere": tmp_path}[place]
    config = {"repository": "bundles/pretrain/configs/train.json", "bundle": "configs/train.json"}
    arguments = command(bundle, dataset_dir=phantom_dir, accumulation_steps=1, num_workers=0, patch_size=8)
    arguments[arguments.index("--config_file") + 1] = config.get(place, str(copy / "configs/train.json"))
    result = run(arguments, cwd=folder)
    assert (copy / "output/train/run_report.json").exists()
    assert "no GPU found" in result.stderr
    assert "configs/demo.json" in result.stderr


@pytest.mark.parametrize("overlay", ["adamw", "single_loss"])
def test_the_papers_other_runs(bundle, phantom_dir, tmp_path, overlay):
    options = {"accumulation_steps": 1, "learning_rate": 0.001, "epochs": 1}
    run(command(bundle, overlay, dataset_dir=phantom_dir, output_dir=tmp_path, **options))
    with (tmp_path / "metrics.csv").open() as file:
        row = next(csv.DictReader(file))
    # one task: nothing to decide, the terms are still drawn
    assert row["conductor/weight/loss"] == "1"
    assert row["conductor/conflicts"] == "0"
    assert {"train_brightness", "train_contrast", "train_structure"} <= set(row)


def test_baseline_evaluation_and_export(bundle, phantom_dir, finished, tmp_path):
    run(command(bundle, "vit_mae", dataset_dir=phantom_dir, output_dir=tmp_path / "vit", epochs=1))
    assert (tmp_path / "vit/model.pt").exists()
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    before = (folder / "model.pt").read_bytes()
    run(command(bundle, "evaluate", dataset_dir=phantom_dir, output_dir=folder))
    with (folder / "evaluation/cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["patient"] for row in rows] == ["phantom-0000", "phantom-0005"]
    report = json.loads((folder / "run_report.json").read_text())
    mean = sum(float(row["l2"]) for row in rows) / len(rows)
    figures = json.loads((folder / "evaluation/run_report.json").read_text())["metrics"]
    assert figures["val_mean_l2"] == pytest.approx(mean, rel=1e-5)
    if report["best_metric"]["epoch"] == 2:
        assert report["validation_metrics"]["val_mean_l2"] == pytest.approx(mean, rel=1e-5)
    assert (folder / "model.pt").read_bytes() == before
    # also after the overlay of a run on several processes
    run(command(bundle, "multi_gpu_train", "evaluate", dataset_dir=phantom_dir, output_dir=folder))
    run(command(bundle, "multi_gpu_train", "export_encoder", dataset_dir=phantom_dir, output_dir=folder))
    encoder = torch.load(folder / "encoder.pt", weights_only=True)
    assert encoder["record"]["arguments"]["hidden_size"] == 24
    assert encoder["record"]["spacing_mm"] == [1.6, 1.6, 1.6]
    weights = torch.load(folder / "model.pt", weights_only=True)["model"]
    assert_same(encoder["model"], {key: value for key, value in weights.items() if not key.startswith("decoder.")})


FAULTS = [
    ({"epoch": 3}, "the entry 'epoch' does not exist. Did you mean 'epochs'?"),
    ({"train::trainer::max_epoch": 3}, "got an unexpected keyword argument 'max_epoch'"),
    ({"patch_size": 12}, "`patch_size` must be one power of two from 2 to 64, got 12. Use 8, 16 or 32."),
    ({"window_size": 9}, "`window_size` must lie between 1 and the token grid img_size / patch_size = (3, 3, 3)"),
    ({"img_size": 20}, "`img_size` must be divisible by patch_size 8 on every axis, got (20, 20, 20)."),
    ({"dataset_dir": "nowhere.json"}, "nowhere.json"),
    ({"img_size": 64}, "cannot be used:"),
    ({"steps_per_epoch": 2.5}, "`steps_per_epoch` must be a whole number from 1 on, got 2.5"),
    (
        {"accumulation": "stochastic", "accumulation_steps": 4},
        "`accumulation_steps` must be a multiple of the 3 losses, got 4.",
    ),
    ({"resolver": "smoth"}, "`resolver` must be one of smooth, zoned or a function, got 'smoth'."),
    ({"train::sampller": 3}, "the entry 'train::sampller' does not exist. Did you mean 'train::sampler'?"),
]


@pytest.mark.parametrize(("overrides", "message"), FAULTS, ids=lambda value: str(value)[:30])
def test_faults_end_with_a_clear_message(bundle, phantom_dir, tmp_path, overrides, message):
    options = {"dataset_dir": phantom_dir, "output_dir": tmp_path, **overrides}
    result = run(command(bundle, **options), check=False)
    assert result.returncode != 0
    assert message in result.stderr[result.stderr.rindex("The cause: ") :]


def bad_volumes(folder):
    """A data set with one good volume and four that cannot be used."""
    good = np.random.default_rng(0).integers(-900, 900, (28, 28, 28)).astype(np.int16)
    broken = good.astype(np.float32)
    broken[3, 4, 5] = np.nan
    volumes = {"good": good, "flat": good[:, :, 0], "constant": np.full_like(good, 7), "nan": broken}
    for name, volume in volumes.items():
        nib.save(nib.Nifti1Image(volume, np.diag([1.6, 1.6, 1.6, 1])), folder / f"{name}.nii.gz")
    whole = (folder / "good.nii.gz").read_bytes()
    (folder / "torn.nii.gz").write_bytes(whole[: len(whole) // 2])
    names = [*volumes, "torn"]
    items = [{"image": f"{name}.nii.gz", "patient": name} for name in names]
    shutil.copy(folder / "good.nii.gz", folder / "other.nii.gz")
    validation = [{"image": "other.nii.gz", "patient": "other"}]
    (folder / "datalist.json").write_text(json.dumps({"training": items, "validation": validation}))


def test_bad_volumes_are_listed_with_their_faults(bundle, tmp_path):
    bad_volumes(tmp_path)
    options = {"dataset_dir": tmp_path / "datalist.json", "output_dir": tmp_path / "run"}
    result = run(command(bundle, **options), check=False)
    assert result.returncode != 0
    message = result.stderr[result.stderr.rindex("The cause: ") :]
    assert "4 of 5 volumes cannot be used:" in message
    for name, reason in {
        "flat": "2D",
        "constant": "constant",
        "nan": "1 voxels are NaN or infinite",
        "torn": "damaged, cut off",
    }.items():
        line = next(line for line in message.splitlines() if f"{name}.nii.gz" in line)
        assert reason.lower() in line.lower(), line


def test_resuming_another_run_is_refused_and_every_difference_named(bundle, phantom_dir, finished, tmp_path):
    shutil.copytree(finished[0] / "checkpoints", tmp_path / "checkpoints")
    options = {"output_dir": tmp_path, "resume": True, "dataset_dir": phantom_dir, "fold": 1, "learning_rate": 0.5}
    options |= {"window_size": 1, "mask_block_size": 2}
    result = run(command(bundle, **options), check=False)
    assert result.returncode != 0
    assert "The run differs from the checkpoint's: datalist " in result.stderr
    assert "learning_rate 0.0003 -> 0.5; mask_block_size 1 -> 2; record::arguments::window_size [" in result.stderr


def test_the_network_has_the_shape_that_the_metadata_say(bundle):
    arguments = ["--net_id", "features_def", "--meta_file", str(bundle / "configs/metadata.json")]
    # no numbers are computed on this device, only shapes and types
    arguments += ["--config_file", str(bundle / "configs/train.json"), "--device", "meta"]
    result = run([sys.executable, "-m", "monai.bundle", "verify_net_in_out", *arguments])
    assert "data shape of network is verified with no error" in result.stdout


def test_an_unreadable_checkpoint_names_itself_and_the_way_out(bundle, phantom_dir, finished, tmp_path):
    shutil.copytree(finished[0] / "checkpoints", tmp_path / "checkpoints")
    newest = sorted((tmp_path / "checkpoints").glob("*.pt"))[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    result = run(command(bundle, dataset_dir=phantom_dir, output_dir=tmp_path, resume=True, epochs=3), check=False)
    assert result.returncode != 0
    assert f"Checkpoint {newest} cannot be read" in result.stderr
    assert "Delete it to continue from checkpoint_" in result.stderr


def test_mlflow_tracking(bundle, phantom_dir, tmp_path):
    pytest.importorskip("mlflow", reason="MLflow is not installed: pip install bertswin-ext[mlflow]")
    copy = tmp_path / "pretrain"
    shutil.copytree(bundle, copy, ignore=shutil.ignore_patterns("output", "data", "models", "__pycache__"))
    arguments = command(copy, dataset_dir=phantom_dir, output_dir=tmp_path / "run", epochs=1)
    run([*arguments, "--tracking", "mlflow"])
    assert (tmp_path / "run/mlruns.db").exists()
