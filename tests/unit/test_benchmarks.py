"""What can be said of the benchmarks without running them for minutes."""

import json
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from bertswin_ext.runs import config_problems, known_ids

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "bundles" / "pretrain"


@pytest.fixture
def quality(imported):
    return imported("quality")


def test_every_method_of_the_quality_benchmark_is_a_valid_configuration(quality):
    for method in quality.METHODS.values():
        parser = ConfigParser()
        parser.read_config([str(BUNDLE / "configs" / f"{name}.json") for name in ("train", "demo", *method.overlays)])
        for key, value in (quality.RECIPE | method.overrides).items():
            parser[key] = value
        assert config_problems(parser.config, known_ids(BUNDLE)) == []
        assert parser["accumulation_steps"] % 3 == 0


def test_differences_are_taken_seed_by_seed(quality, tmp_path):
    for name in quality.METHODS:
        for seed, loss in enumerate((0.5, 0.75, 1.0)):
            folder = tmp_path / f"{name}_{seed}"
            folder.mkdir()
            offset = 0.0 if name == "adamw" else 0.25
            rows = f"epoch,val_mean_loss,val_mean_l2\n1,9,9\n2,{loss + offset},{loss}\n"
            (folder / "metrics.csv").write_text(rows)
    adamw, *others = quality.rows(tmp_path, seeds=3)
    assert adamw[2] == "0.750 (0.500 to 1.000)"
    assert {row[4] for row in others} == {"+0.250 (+0.250 to +0.250)"}


def test_a_run_of_another_recipe_does_not_count(quality, tmp_path):
    report = tmp_path / "run_report.json"
    assert not quality.is_complete(report, {})
    report.write_text(json.dumps({"status": "completed", "config": {"epochs": 10}}))
    assert quality.is_complete(report, {"epochs": 10})
    assert not quality.is_complete(report, {"epochs": 11})
    report.write_text(json.dumps({"status": "failed", "config": {"epochs": 10}}))
    assert not quality.is_complete(report, {"epochs": 10})


def test_the_step_benchmark_can_be_imported(imported):
    pytest.importorskip("torchjd", reason="torchjd is not installed: pip install bertswin-ext[mtl]")
    methods = imported("methods")
    assert issubclass(methods.Conducted, methods.Method)
