"""The arms of the convergence benchmark, and the benchmark as a whole on networks that train in seconds."""

import itertools
import json
import sys
from pathlib import Path

import pytest

from bertswin_ext.data import load_datalist
from bertswin_ext.runs import config_problems, known_ids

ROOT = Path(__file__).parents[3]
TINY = {"hidden_size": 24, "num_layers": 2, "num_heads": 2, "steps_per_epoch": 2, "patch_size": 16, "window_size": 2}
TINY_DECODER = {"decoder_hidden_size": 24, "decoder_mlp_dim": 24, "decoder_num_layers": 1, "decoder_num_heads": 2}


@pytest.fixture
def benchmark(imported):
    return imported("convergence")


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


def test_the_papers_size_has_the_flops_that_are_known(benchmark, arms):
    forward = {arm: benchmark.paper_cost(arm).forward for arm in ("vit_l2", "l2", "sparse_last", "sparse_every")}
    assert forward["l2"] == pytest.approx(538e9, rel=0.01)
    assert forward["vit_l2"] == pytest.approx(228e9, rel=0.01)
    # parity
    assert max(forward["sparse_last"], forward["sparse_every"]) <= 1.1 * forward["vit_l2"]


@pytest.fixture
def store(tmp_path):
    """A datalist, and the hash that runs of it report."""
    (tmp_path / "store").mkdir()
    for name in ("a", "b"):
        (tmp_path / "store" / f"{name}.nii").touch()
    items = [{"image": f"{name}.nii", "patient": name, "fold": fold} for fold, name in enumerate(("a", "b"))]
    (tmp_path / "store" / "datalist.json").write_text(json.dumps({"training": items}))
    return tmp_path / "store" / "datalist.json"


def write_run(folder, job, loss, store, status="completed", sha256=None, **changed):
    """As a run leaves it behind."""
    folder = folder / job.name
    folder.mkdir(parents=True)
    config = {**json.loads(json.dumps(parser_for(job).config)), **changed}
    data = {"sha256": sha256 or load_datalist(store).sha256}
    (folder / "run_report.json").write_text(json.dumps({"status": status, "config": config, "data": data}))
    rows = [f"{epoch},{loss}" for epoch in range(1, job.epochs + 1)]
    (folder / "metrics.csv").write_text("\n".join(["epoch,val_mean_loss", *rows]))


def test_the_best_learning_rate_is_taken_and_a_diverged_one_never(benchmark, store, tmp_path):
    for job, loss in zip(benchmark.tuning(["l2"]), ("nan", 0.4, 0.3), strict=True):
        write_run(tmp_path, job, loss, store)
    assert benchmark.chosen_rate("l2", tmp_path, store) == benchmark.ARMS["l2"].rates[2]
    jobs = benchmark.training(["l2"], [1, 0], tmp_path, store)
    assert {job.rate for job in jobs} == {benchmark.ARMS["l2"].rates[2]}
    assert [(job.seed, job.epochs) for job in jobs] == list(itertools.product((1, 0), benchmark.ARMS["l2"].horizons))
    changed = benchmark.changes(["l2", "conductor"], [0], tmp_path, store)
    assert {job.arm for job in changed} == {"l2"}
    assert changed[0].change == ""


def test_the_baselines_learning_rate_is_chosen_by_its_long_runs(benchmark, store, tmp_path):
    jobs = benchmark.tuning(["vit_l2"])
    assert [job.epochs for job in jobs] == [6, 6, 6, 64, 64, 64]
    for job, loss in zip(jobs, (0.1, 0.2, 0.3, 0.03, 0.02, 0.01), strict=True):
        write_run(tmp_path, job, loss, store)
    assert benchmark.chosen_rate("vit_l2", tmp_path, store) == benchmark.ARMS["vit_l2"].rates[2]
    chosen = [row for row in benchmark._tried("vit_l2", tmp_path, store) if row.is_chosen]
    assert [(row.learning_rate, row.epochs) for row in chosen] == [(benchmark.ARMS["vit_l2"].rates[2], 64)]


def test_nothing_is_trained_on_a_guess(benchmark, store, tmp_path):
    first, second, third = benchmark.tuning(["l2"])
    write_run(tmp_path, first, 0.3, store)
    write_run(tmp_path, second, 0.4, store)
    write_run(tmp_path, third, 0.2, store, status="failed")
    with pytest.raises(SystemExit, match=r"The learning rates of l2 are not tuned yet: run the stage `tune` first\."):
        benchmark.training(["l2"], [0], tmp_path, store)


@pytest.mark.parametrize(
    ("arm", "changed", "complete"),
    [
        ("l2", {}, True),
        ("l2", {"output_dir": "elsewhere", "_desc_": "another text"}, True),
        ("l2", {"warmup_epochs": 3.0}, False),
        ("l2", {"hidden_size": 999}, False),
        ("l2", {"optimizer": {"_target_": "torch.optim.AdamW", "betas": [0.9, 0.999]}}, False),
        ("vit_l2", {"network_def": {"decoder_hidden_size": 48}}, False),
        ("l2", {"sha256": "another"}, False),
    ],
)
def test_a_run_of_another_recipe_or_of_other_volumes_is_not_taken_for_this_one(
    benchmark, store, tmp_path, arm, changed, complete
):
    job = benchmark.Job(arm, 8, 1e-3, 0)
    assert not benchmark.is_complete(tmp_path / job.name, job, store)
    write_run(tmp_path, job, 0.3, store, **changed)
    assert benchmark.is_complete(tmp_path / job.name, job, store) is complete


@pytest.mark.parametrize("option", ["only", "arms"])
def test_unknown_stages_and_arms_are_refused(benchmark, tmp_path, option):
    with pytest.raises(SystemExit, match=rf"--{option} takes .*, got nonsense\."):
        benchmark.run(output=str(tmp_path), **{option: "nonsense"})


@pytest.mark.bundle
def test_the_whole_benchmark(benchmark, arms, monkeypatch, tmp_path):
    """Trained, measured, written; and not trained again."""
    for module in (benchmark, sys.modules["fidelity.volumes"]):
        monkeypatch.setattr(module, "NUM_PHANTOMS", 5)
    vit, l2 = arms.ARMS["vit_l2"], arms.ARMS["l2"]
    decoder = {f"network_def::{key}": value for key, value in TINY_DECODER.items()}
    monkeypatch.setitem(
        arms.ARMS,
        "vit_l2",
        vit._replace(overrides=vit.overrides | TINY | decoder, rates=(1e-3,), horizons=(1,), tuning=(1,)),
    )
    monkeypatch.setitem(
        arms.ARMS, "l2", l2._replace(overrides=l2.overrides | TINY, rates=(1e-3,), horizons=(1,), tuning=(1,))
    )
    for name in set(arms.ARMS) - {"vit_l2", "l2"}:
        monkeypatch.delitem(arms.ARMS, name)
    monkeypatch.setattr(benchmark, "GOALS", benchmark.GOALS[:1])

    options = {"output": str(tmp_path / "runs"), "out": str(tmp_path / "page"), "seeds": 1, "arms": ["vit_l2", "l2"]}
    benchmark.run(**options, only=[])
    store = tmp_path / "runs" / "data" / "store_phantoms" / "datalist.json"
    for job in benchmark.tuning(arms.ARMS):
        write_run(tmp_path / "runs" / "runs", job, 0.5, store)
    benchmark.run(**options, only=["tune", "train", "page"])
    page = (tmp_path / "page" / "convergence.md").read_text()
    assert "BertsWin, AdamW, L2" in page
    assert "asked of BertsWin, AdamW, L2: 5.8 times fewer epochs" in page
    assert "data: 5 phantoms of 0.7 mm, 4 to train on" in page
    assert "python -m monai.bundle run --config_file" in page
    names = {"convergence", "convergence_costs", "convergence_ratios", "convergence_reconstructions"}
    assert {path.stem for path in (tmp_path / "page").glob("*.png")} == names

    reports = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/runs/*/run_report.json")}
    assert len(reports) == 2 * len(arms.ARMS)
    benchmark.run(**options, only=["tune", "train"])
    assert reports == {path: path.stat().st_mtime_ns for path in reports}
