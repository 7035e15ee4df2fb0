"""Means over the patients of all folds, their intervals, and folds that do not belong together."""

import csv
import math

import numpy as np
import pytest

from bertswin_ext.evaluation.fold_summary import summarize_folds, write_fold_summary
from bertswin_ext.evaluation.score_table import CaseScores
from tests.unit.evaluation.cases import case, scores

FOLDS = {
    "fold_0": [case("a", 0.5, 1.0), case("a", 0.75, 1.0, "right"), case("b", 1.0, None)],
    "fold_1": [case("c", 0.0, 0.5), case("d", 0.5, None, "right")],
}


def found(rows, name, score="dice"):
    return next(row for row in rows if (row.class_name, row.score) == (name, score))


def test_scans_of_a_patient_are_averaged_first():
    mandible = found(summarize_folds(FOLDS), "mandible")
    assert mandible.mean == pytest.approx((0.625 + 1.0 + 0.0 + 0.5) / 4)
    assert mandible.folds == pytest.approx({"fold_0": (0.625 + 1.0) / 2, "fold_1": 0.25})
    assert mandible.patients == 4


def test_patients_without_a_class_do_not_count_for_it():
    skull = found(summarize_folds(FOLDS), "skull")
    assert (skull.mean, skull.patients, skull.folds) == (0.75, 2, {"fold_0": 1.0, "fold_1": 0.5})


def test_all_classes_together():
    rows = summarize_folds(FOLDS)
    assert found(rows, "all").mean == pytest.approx(((0.75 + 0.875) / 2 + 1.0 + 0.25 + 0.5) / 4)
    assert found(rows, "all", "hd95_mm").mean == pytest.approx(4 * (1 - found(rows, "all").mean))
    assert len(rows) == 3 * 3


def test_the_interval_is_that_of_the_mean_of_patients():
    """For many patients the bootstrap's interval is mean +- 1.96 s / sqrt(n)."""
    values = np.random.default_rng(1).normal(0.9, 0.02, 200)
    row = found(summarize_folds({"fold_0": [case(f"p{n}", float(v), 1.0) for n, v in enumerate(values)]}), "mandible")
    half = 1.96 * values.std() / math.sqrt(200)
    assert (row.low, row.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_more_scans_of_the_same_patients_do_not_narrow_the_interval():
    few = {"fold_0": [case("a", 0.5, 1.0), case("b", 1.0, 1.0), case("c", 0.75, 1.0)]}
    many = {"fold_0": 5 * few["fold_0"]}
    one, five = (found(summarize_folds(folds), "mandible") for folds in (few, many))
    assert (one.low, one.high) == (five.low, five.high) == (0.5, 1.0)


def test_the_interval_is_the_same_every_time():
    assert summarize_folds(FOLDS) == summarize_folds(FOLDS)


def test_one_patient_does_not_tell():
    row = found(summarize_folds({"fold_0": [case("a", 0.5, 1.0)]}), "mandible")
    assert row.mean == 0.5
    assert math.isnan(row.low)
    assert math.isnan(row.high)


def test_files(tmp_path):
    write_fold_summary(tmp_path / "new", summarize_folds(FOLDS))
    with (tmp_path / "new" / "folds.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["class", "score", "mean", "ci95_low", "ci95_high", "patients", "fold_0", "fold_1"]
    assert (rows[0]["class"], rows[0]["score"], rows[0]["patients"]) == ("mandible", "dice", "4")
    assert float(rows[0]["fold_1"]) == 0.25
    text = (tmp_path / "new" / "folds.md").read_text()
    assert "Folds: fold_0, fold_1. Means are over patients" in text
    assert "10,000 resamples" in text
    assert "| skull | 0.7500 | 0.5000 to 1.0000 | 2 | 1.0000 | 0.5000 |" in text


def test_a_class_that_no_case_of_a_fold_has_is_reported(tmp_path):
    folds = {**FOLDS, "fold_2": [case("e", 1.0, None)]}
    rows = summarize_folds(folds)
    assert math.isnan(found(rows, "skull").folds["fold_2"])
    write_fold_summary(tmp_path, rows)
    text = (tmp_path / "folds.md").read_text()
    assert "- skull does not count in fold_2: neither reference nor prediction has it in any of its cases." in text
    assert "mandible does not count" not in text
    assert "| 1.0000 | 0.5000 | – |" in text


def test_a_patient_in_two_folds():
    folds = {**FOLDS, "fold_2": [case("a", 1.0, 1.0)], "fold_3": [case("d", 1.0, 1.0)]}
    with pytest.raises(ValueError, match="2 faults in the folds") as error:
        summarize_folds(folds)
    assert "patient a is in fold_0 and fold_2: the folds must come from one split by patient." in str(error.value)
    assert "patient d is in fold_1 and fold_3" in str(error.value)


def test_a_class_that_a_fold_has_no_rows_of():
    folds = {**FOLDS, "fold_2": [CaseScores("e", "e.nii", "", (scores("mandible", 1.0),))]}
    with pytest.raises(ValueError, match=r"fold_2 has cases without a row of the class skull: evaluate it with all"):
        summarize_folds(folds)


def test_folds_without_cases_and_cases_without_a_patient():
    with pytest.raises(ValueError, match=r"fold_1 has no cases\.") as error:
        summarize_folds({"fold_0": [case("", 1.0, 1.0, image="x.nii")], "fold_1": []})
    assert "fold_0: x.nii has no patient; the means are by patient." in str(error.value)
