"""Stem tuning after a pre-training, by the documented command."""

import json
import signal

import pytest
import torch

from bertswin_ext.networks import load_encoder
from tests.bundles.conftest import command, run
from tests.moments import AtLogLine, Send

pytestmark = pytest.mark.bundle


@pytest.fixture(scope="module")
def pretrained(bundle, phantom_dir, tmp_path_factory):
    """The folder of a small pre-training."""
    folder = tmp_path_factory.mktemp("pretrained")
    run(command(bundle, dataset_dir=phantom_dir, output_dir=folder))
    return folder


@pytest.fixture
def tune(bundle, phantom_dir, pretrained, tmp_path):
    """Tune into a folder of its own."""

    def start(name="stem", check=True, moment=None, **options):
        places = {"dataset_dir": phantom_dir, "output_dir": pretrained, "tune_dir": tmp_path / name}
        arguments = command(bundle, "tune_stem", **{"tune_epochs": 3, "tune_steps": 6, **places, **options})
        return run(arguments, check=check, moment=moment)

    return start


def table(folder):
    return json.loads((folder / "stem.json").read_text())


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_fresh_stem_comes_nearer_and_is_ready_for_segmentation(bundle, phantom_dir, pretrained):
    before = files(pretrained)
    result = run(command(bundle, "tune_stem", dataset_dir=phantom_dir, output_dir=pretrained))
    assert {path: path.read_bytes() for path in before} == before
    found = table(pretrained / "stem")
    assert set(found["values"]) == {"per_patch", "untuned", "before", "tuned"}
    assert found["values"]["per_patch"]["token_error"] == 0
    assert found["values"]["tuned"]["token_error"] < found["values"]["before"]["token_error"]
    assert found["epochs"] == 5
    report = json.loads((pretrained / "stem/run_report.json").read_text())
    assert report["metrics"]["tuned_loss"] == found["values"]["tuned"]["loss"]
    assert report["metrics"]["per_patch_loss"] == found["target"]
    assert f"target {found['target']:.4f}" in result.stderr
    encoder, weights = load_encoder(pretrained / "stem/encoder.pt"), torch.load(pretrained / "stem/model.pt")["model"]
    assert encoder.stem.kind == "non_overlapping"
    assert all(torch.equal(value, weights[f"stem.{name}"]) for name, value in encoder.stem.state_dict().items())
    learnt = torch.load(pretrained / "model.pt")["model"]
    frozen = [name for name in learnt if not name.startswith("stem.")]
    assert frozen
    assert all(torch.equal(weights[name], learnt[name]) for name in frozen)


def test_the_papers_own_way_ends_at_the_target(tune, tmp_path):
    options = {"tuning": "reconstruction", "stem_init": "random", "learning_rate": 0.02, "tune_epochs": 10}
    result = tune(**options)
    found = table(tmp_path / "stem")
    assert found["objective"] == "reconstruction"
    assert found["reached"] is True
    assert found["epochs"] < 10
    assert "has reached the target" in result.stderr
    # to continue a run that has ended changes nothing
    again = tune(resume=True, **options)
    assert table(tmp_path / "stem") == found
    assert "resumed from" in again.stderr


def test_the_standard_stem_over_the_volume(tune, tmp_path):
    tune(tuned_stem="overlapping")
    found = table(tmp_path / "stem")
    assert found["values"]["before"] == found["values"]["untuned"]
    assert found["values"]["tuned"]["token_error"] < found["values"]["before"]["token_error"]
    assert load_encoder(tmp_path / "stem/encoder.pt").arguments["stem"] == "overlapping"


def test_killed_and_resumed_equals_uninterrupted(tune, tmp_path):
    tune("whole", checkpoint_interval=2)
    kill = AtLogLine("epoch 2/3 iteration 5/", Send(signal.SIGKILL))
    assert tune("killed", check=False, moment=kill, checkpoint_interval=2).returncode == -signal.SIGKILL
    resumed = tune("killed", checkpoint_interval=2, resume=True)
    assert "at iteration 10" in resumed.stderr
    whole, killed = (torch.load(tmp_path / name / "encoder.pt")["model"] for name in ("whole", "killed"))
    assert all(torch.equal(value, killed[name]) for name, value in whole.items())
    assert table(tmp_path / "killed") == table(tmp_path / "whole")
    refused = tune("killed", check=False, resume=True, stem_init="random")
    assert 'stem_init "kernels" -> "random"' in refused.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_path": "nowhere.pt"}, "nowhere.pt"),
        ({"tuned_stem": "strict"}, "`stem` must be one of overlapping, non_overlapping, got 'strict'"),
        ({"tuning": "loss"}, "`objective` must be one of tokens, reconstruction, got 'loss'"),
        ({"tuned_stm": "overlapping"}, "the entry 'tuned_stm' does not exist. Did you mean 'tuned_stem'?"),
        ({"num_layers": 3}, "does not fit the network"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_faults_end_with_a_clear_message(tune, options, message):
    result = tune(check=False, **options)
    assert result.returncode != 0
    assert message in result.stderr[result.stderr.rindex("The cause: ") :]
