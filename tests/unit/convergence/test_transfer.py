"""Fine-tuning the encoders of the convergence benchmark with few labels."""

import json
import math
from pathlib import Path

import pytest
import torch

from bertswin_ext.data import load_datalist, write_phantoms
from bertswin_ext.networks import ViTMAE, bertswin_tiny
from bertswin_ext.networks.checkpoint import read_checkpoint, tensors_of
from bertswin_ext.networks.record import AdaptationRecord, save_network

ROOT = Path(__file__).parents[2]
SIZES = {"img_size": 32, "patch_size": 8, "hidden_size": 24, "num_layers": 2, "num_heads": 2}
DECODER = {"decoder_hidden_size": 24, "decoder_mlp_dim": 24, "decoder_num_layers": 1, "decoder_num_heads": 2}


@pytest.fixture
def transfer(module):
    return module("transfer")


@pytest.fixture(scope="module")
def datalist(tmp_path_factory):
    """Two phantoms, one of them held out."""
    folder = tmp_path_factory.mktemp("data") / "phantoms"
    return write_phantoms(folder, count=2, size=32, spacing_mm=1.0, num_folds=2)


def network_of(arm):
    torch.manual_seed(99)
    if arm == "vit_l2":
        return ViTMAE(in_channels=1, mlp_dim=48, **SIZES, **DECODER)
    return bertswin_tiny(window_size=2, stem_channels=4, stem="overlapping", **SIZES)


def job_of(transfer, arm, epochs=4, seed=0, **changes):
    return transfer.Job(arm, epochs, 1e-3, seed, **changes)


def write_run(runs, job, datalist, status="completed", spacing_mm=0.7):
    """As a run leaves it behind."""
    folder = runs / job.name
    folder.mkdir(parents=True)
    config = {key: value for key, value in job.overrides.items() if "::" not in key}
    report = {"status": status, "config": config, "data": {"sha256": load_datalist(datalist).sha256}}
    (folder / "run_report.json").write_text(json.dumps(report))
    network = network_of(job.arm)
    save_network(network, folder / "model.pt", AdaptationRecord.of(network, spacing_mm))
    return job


def body_of(tensors):
    return {key: value for key, value in tensors.items() if not key.startswith(("decoder.", "mask_token"))}


def key_of(encoder):
    return encoder.arm, encoder.epochs, encoder.seed


def test_runs_that_are_complete_are_fine_tuned_and_a_network_of_each_kind_and_seed_from_scratch(
    transfer, datalist, tmp_path
):
    jobs = [
        job_of(transfer, arm, epochs, seed)
        for seed in (0, 1)
        for arm in ("vit_l2", "l2", "lion_lars")
        for epochs in (2, 4)
    ]
    missing, stopped, changed = jobs[0], jobs[3], job_of(transfer, "l2", change="layers2")
    for job in [*jobs[1:], changed]:
        write_run(tmp_path, job, datalist, "failed" if job == stopped else "completed")
    (tmp_path / jobs[5].name / "model.pt").unlink()
    found = transfer.encoders_of([*jobs, changed], tmp_path, datalist)
    scratch = [(name, 0, seed) for seed in (0, 1) for name in ("ViT, from scratch", "BertsWin, from scratch")]
    trained = [job for job in jobs if job not in (missing, stopped, jobs[5])]
    assert sorted(map(key_of, found[:4])) == sorted(scratch)
    assert [key_of(one) for one in found[4:]] == [(job.arm, job.epochs, job.seed) for job in trained]
    assert [one.file.parent.name for one in found[4:]] == [job.name for job in trained]


def test_fine_tunings_come_draw_by_draw(transfer, datalist, tmp_path):
    jobs = [write_run(tmp_path, job_of(transfer, arm), datalist) for arm in ("l2", "lion_lars")]
    trials = transfer.trials_of(transfer.encoders_of(jobs, tmp_path, datalist), (1, 4), (0, 1))
    found = [(trial.draw, trial.labelled, trial.arm) for _, trial in trials]
    arms = ("BertsWin, from scratch", "l2", "lion_lars")
    assert found == [(draw, labelled, arm) for draw in (0, 1) for labelled in (1, 4) for arm in arms]
    assert len({trial.key() for _, trial in trials}) == len(trials)


@pytest.mark.parametrize("arm", ["l2", "vit_l2"])
def test_a_segmenter_starts_from_all_of_the_pre_trained_encoder(transfer, datalist, tmp_path, arm):
    job = write_run(tmp_path, job_of(transfer, arm), datalist)
    scratch, trained = transfer.encoders_of([job], tmp_path, datalist)
    theirs = body_of(tensors_of(read_checkpoint(trained.file)))
    own, fresh = (transfer.segmenter_of(one).state_dict() for one in (trained, scratch))
    assert theirs.keys() >= body_of(own).keys() == body_of(fresh).keys()
    assert all(torch.equal(value, theirs[key]) for key, value in body_of(own).items())
    weights = [key for key, value in body_of(own).items() if key.endswith("weight") and value.ndim > 1]
    assert len(weights) > 8
    assert not any(torch.equal(fresh[key], theirs[key]) for key in weights)
    # the seed gives both the same head, and another seed other weights
    assert all(torch.equal(own[key], fresh[key]) for key in own if key.startswith("decoder."))
    other = transfer.segmenter_of(scratch._replace(seed=1)).state_dict()
    assert not any(torch.equal(fresh[key], other[key]) for key in weights)


def test_an_encoder_of_other_voxels_is_refused(transfer, datalist, tmp_path):
    job = write_run(tmp_path, job_of(transfer, "l2"), datalist, spacing_mm=0.4)
    _, trained = transfer.encoders_of([job], tmp_path, datalist)
    with pytest.raises(ValueError, match=r"spacing_mm: the encoder learnt at 0\.4 mm, the configuration has 0\.7 mm"):
        transfer.segmenter_of(trained)


def test_a_stage_is_done_once(transfer, datalist, monkeypatch, tmp_path, capsys):
    """On two phantoms, one of them labelled: trained, measured, written; and not again."""
    monkeypatch.setattr(transfer, "STEPS", 2)
    jobs = [write_run(tmp_path, job_of(transfer, arm), datalist) for arm in ("l2", "vit_l2")]
    table = tmp_path / "out" / "transfer.csv"
    transfer.fine_tune_all(jobs[:1], tmp_path, datalist, table, labelled=[1])
    first = table.read_text()
    assert len(first.splitlines()) == 1 + 2
    transfer.fine_tune_all(jobs, tmp_path, datalist, table, labelled=[1])
    assert table.read_text().startswith(first)
    rows = list(transfer.read_rows(table, transfer.Trial._fields).values())
    names = [row["arm"] for row in rows]
    assert names == ["BertsWin, from scratch", "l2", "ViT, from scratch", "vit_l2"]
    assert all(0 <= float(row["dice"]) <= 1 and float(row["hd95_mm"]) > 0 and float(row["seconds"]) > 0 for row in rows)
    # the same crops through other weights
    assert len({row["loss"] for row in rows}) == 4
    assert capsys.readouterr().err.count("Dice") == 4

    before = table.read_bytes()
    transfer.fine_tune_all(jobs, tmp_path, datalist, table, labelled=[1])
    assert table.read_bytes() == before
    found = transfer.transfer_rows(table, jobs, tmp_path, datalist, lambda job: 0.25 if job.arm == "l2" else 0.5)
    label = transfer.ARMS["l2"].label
    assert [(row.fidelity, row.dice) for row in found if row.arm == label] == [(0.25, float(rows[1]["dice"]))]


def test_more_labels_than_joints_are_refused(transfer, datalist, tmp_path):
    with pytest.raises(SystemExit, match="1 labelled joints to learn from and 1 to measure on are too few for 4"):
        transfer.fine_tune_all([], tmp_path, datalist, tmp_path / "transfer.csv")


def write_table(transfer, table, trials, dice):
    for trial, value in zip(trials, dice, strict=True):
        transfer.append_row(table, trial._asdict(), {"dice": value, "hd95_mm": 1.0})


def test_rows_are_means_over_the_draws_that_all_have(transfer, datalist, tmp_path):
    job = write_run(tmp_path, job_of(transfer, "l2"), datalist)
    table = tmp_path / "transfer.csv"
    trials = [
        trial for _, trial in transfer.trials_of(transfer.encoders_of([job], tmp_path, datalist), (1, 4), (0, 1, 2))
    ]
    # draw by draw, first from scratch; the last draw is not complete
    write_table(transfer, table, trials[:9], [0.5, 0.75, 0.625, 0.875, 0.25, 0.5, 0.5, 0.75, 0.0])
    found = transfer.transfer_rows(table, [job], tmp_path, datalist, lambda job: 0.25 * job.epochs)
    scratch, trained = "BertsWin, from scratch", transfer.ARMS["l2"].label
    assert [(row.labelled, row.arm, row.epochs, row.dice) for row in found] == [
        (1, scratch, 0, 0.375),
        (1, trained, 4, 0.625),
        (4, scratch, 0, 0.5625),
        (4, trained, 4, 0.8125),
    ]
    assert [row.fidelity for row in found if row.epochs] == [1.0, 1.0]
    assert all(math.isnan(row.fidelity) for row in found if not row.epochs)


@pytest.mark.parametrize("change", [{"weights": "0a1b2c3d"}, {"steps": 1}, {"rate": 1.0}, {"seed": 5}])
def test_rows_of_other_weights_or_another_recipe_are_not_looked_at(transfer, datalist, tmp_path, change):
    job = write_run(tmp_path, job_of(transfer, "l2"), datalist)
    _, trial = transfer.trials_of(transfer.encoders_of([job], tmp_path, datalist), [1])[1]
    stale, fresh = tmp_path / "stale.csv", tmp_path / "fresh.csv"
    write_table(transfer, stale, [trial._replace(**change)], [0.5])
    write_table(transfer, fresh, [trial], [0.5])
    assert transfer.transfer_rows(stale, [job], tmp_path, datalist, lambda job: 0.25) == []
    assert len(transfer.transfer_rows(fresh, [job], tmp_path, datalist, lambda job: 0.25)) == 1


def test_without_a_table_there_are_no_rows(transfer, datalist, tmp_path):
    assert transfer.transfer_rows(tmp_path / "transfer.csv", [], tmp_path, datalist, lambda job: 0.0) == []
