"""The arms of the convergence benchmark, and the benchmark as a whole on networks that train in seconds."""

import importlib
import itertools
import json
import sys
from pathlib import Path

import pytest

from bertswin_ext.runs import config_problems, known_ids

ROOT = Path(__file__).parents[2]
TINY = {"hidden_size": 24, "num_layers": 2, "num_heads": 2, "steps_per_epoch": 2, "patch_size": 16, "window_size": 2}
TINY_DECODER = {"decoder_hidden_size": 24, "decoder_mlp_dim": 24, "decoder_num_layers": 1, "decoder_num_heads": 2}


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    before = set(sys.modules)
    yield importlib.import_module("convergence")
    for name in set(sys.modules) - before:
        if name in ("convergence", "tables") or name.split(".")[0] == "fidelity":
            del sys.modules[name]


@pytest.fixture
def arms(benchmark):
    return sys.modules["fidelity.arms"]


def job_of(arms, arm):
    return arms.Job(arm, 8, arms.ARMS[arm].rates[0], 0)


def parser_for(job):
    return sys.modules["fidelity.configs"].parser_of(job.files, job.overrides)


def test_arms_are_faultless_configurations_of_one_comparison(benchmark, arms):
    assert len({arm.label for arm in arms.ARMS.values()}) == len(arms.ARMS)
    parsers = [parser_for(job_of(arms, arm)) for arm in arms.ARMS]
    known = known_ids(ROOT / "bundles/pretrain")
    for parser in parsers:
        assert not config_problems(parser.config, known)
    shared = ("img_size", "patch_size", "masking_ratio", "ratio_of", "batch_size", "steps_per_epoch", "spacing_mm")
    for name in (
        *shared,
        "accumulation_steps",
        "amp",
        "warp_prob",
        "noise_prob",
        "val_batch_size",
        "min_learning_rate",
    ):
        assert len({json.dumps(parser[name]) for parser in parsers}) == 1, name
    samples = parsers[0]["batch_size"] * parsers[0]["accumulation_steps"] * parsers[0]["steps_per_epoch"]
    assert samples == benchmark.SAMPLES_PER_EPOCH


def test_changes_are_faultless_configurations_of_one_change_each(benchmark, arms):
    known = known_ids(ROOT / "bundles/pretrain")
    for name, change in benchmark.CHANGES.items():
        recipe = arms.Job(change.arm, 16, 1e-3, 0)
        job = recipe._replace(change=name)
        changed, parser = (parser_for(one) for one in (recipe, job))
        assert not config_problems(parser.config, known), name
        assert job.name != recipe.name
        assert len(change.overrides) + len(change.overlays) == 1, name
        for key, value in change.overrides.items():
            assert changed[key] != value, name


def test_networks_have_two_million_parameters_within_ten_percent(benchmark, arms):
    costs = {arm: benchmark.cost_of(job_of(arms, arm).files, job_of(arms, arm).overrides) for arm in ("vit_l2", "l2")}
    assert all(cost.parameters >= 2e6 for cost in costs.values())
    assert costs["vit_l2"].parameters / costs["l2"].parameters == pytest.approx(1.0, abs=0.1)
    # a second backward pass is one more of the same
    assert costs["l2"].training(3) - costs["l2"].training(2) == costs["l2"].backward
    assert 1.9 < costs["l2"].backward / costs["l2"].forward < 2.1


def test_the_papers_size_has_the_flops_that_are_known(benchmark):
    assert benchmark.paper_cost("l2").forward == pytest.approx(538e9, rel=0.01)
    assert benchmark.paper_cost("vit_l2").forward == pytest.approx(228e9, rel=0.01)


def write_run(folder, job, loss, status="completed", **changed):
    """As a run leaves it behind."""
    folder = folder / job.name
    folder.mkdir(parents=True)
    config = {key: value for key, value in job.overrides.items() if "::" not in key} | changed
    (folder / "run_report.json").write_text(json.dumps({"status": status, "config": config}))
    rows = [f"{epoch},{loss}" for epoch in range(1, job.epochs + 1)]
    (folder / "metrics.csv").write_text("\n".join(["epoch,val_mean_loss", *rows]))


def test_the_best_learning_rate_is_taken_and_a_diverged_one_never(benchmark, tmp_path):
    for job, loss in zip(benchmark.tuning(["l2"]), ("nan", 0.4, 0.3), strict=True):
        write_run(tmp_path, job, loss)
    assert benchmark.chosen_rate("l2", tmp_path) == benchmark.ARMS["l2"].rates[2]
    jobs = benchmark.training(["l2"], [1, 0], tmp_path)
    assert {job.rate for job in jobs} == {benchmark.ARMS["l2"].rates[2]}
    assert [(job.seed, job.epochs) for job in jobs] == list(itertools.product((1, 0), benchmark.ARMS["l2"].horizons))


def test_nothing_is_trained_on_a_guess(benchmark, tmp_path):
    first, second, third = benchmark.tuning(["l2"])
    write_run(tmp_path, first, 0.3)
    write_run(tmp_path, second, 0.4)
    write_run(tmp_path, third, 0.2, status="failed")
    with pytest.raises(SystemExit, match=r"The learning rates of l2 are not tuned yet: run the stage `tune` first\."):
        benchmark.training(["l2"], [0], tmp_path)


def test_a_run_of_another_recipe_is_not_taken_for_this_one(benchmark, tmp_path):
    job = benchmark.Job("l2", 8, 1e-3, 0)
    assert not benchmark.is_complete(tmp_path / job.name, job)
    write_run(tmp_path, job, 0.3)
    assert benchmark.is_complete(tmp_path / job.name, job)
    other = tmp_path / "other"
    write_run(other, job, 0.3, warmup_epochs=3.0)
    assert not benchmark.is_complete(other / job.name, job)


@pytest.mark.parametrize("option", ["only", "arms"])
def test_unknown_stages_and_arms_are_refused(benchmark, tmp_path, option):
    with pytest.raises(SystemExit, match=rf"--{option} takes .*, got nonsense\."):
        benchmark.run(output=str(tmp_path), **{option: "nonsense"})


@pytest.mark.bundle
def test_the_whole_benchmark(benchmark, arms, monkeypatch, tmp_path):
    """Trained, measured, written; and not trained again."""
    monkeypatch.setattr(sys.modules["fidelity.volumes"], "NUM_PHANTOMS", 5)
    vit, l2 = arms.ARMS["vit_l2"], arms.ARMS["l2"]
    decoder = {f"network_def::{key}": value for key, value in TINY_DECODER.items()}
    monkeypatch.setitem(
        arms.ARMS, "vit_l2", vit._replace(overrides=vit.overrides | TINY | decoder, rates=(1e-3,), horizons=(1,))
    )
    monkeypatch.setitem(arms.ARMS, "l2", l2._replace(overrides=l2.overrides | TINY, rates=(1e-3,), horizons=(1,)))
    for name in set(arms.ARMS) - {"vit_l2", "l2"}:
        monkeypatch.delitem(arms.ARMS, name)
    monkeypatch.setattr(benchmark, "TUNING_EPOCHS", 1)
    monkeypatch.setattr(benchmark, "GOALS", benchmark.GOALS[:1])

    options = {"output": str(tmp_path / "runs"), "out": str(tmp_path / "page"), "seeds": 1, "arms": ["vit_l2", "l2"]}
    benchmark.run(**options, only=["tune", "train", "page"])
    page = (tmp_path / "page" / "convergence.md").read_text()
    assert "BertsWin, AdamW, L2" in page
    assert "asked of BertsWin, AdamW, L2: 5.8 times fewer epochs" in page
    names = {"convergence", "convergence_costs", "convergence_ratios", "convergence_reconstructions"}
    assert {path.stem for path in (tmp_path / "page").glob("*.png")} == names

    reports = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/runs/*/run_report.json")}
    assert len(reports) == 2 + 2
    benchmark.run(**options, only=["tune", "train"])
    assert reports == {path: path.stat().st_mtime_ns for path in reports}
