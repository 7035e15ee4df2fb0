"""What the scores of many cases come to."""

import json

import pytest

from bertswin_ext.evaluation.score_summary import summarize_scores, worst_first, write_summary
from bertswin_ext.evaluation.score_table import CaseScores
from bertswin_ext.evaluation.segmentation_scores import EMPTY_RULE
from tests.unit.evaluation.cases import case, scores

CASES = [
    case("a", 0.5, 1.0),
    case("a", None, 0.5, joint="right"),
    case("b", 1.0, 1.0),
    CaseScores("c", "c.nii", "", (scores("mandible", 0.0, "missed"), scores("skull", None))),
    case("d", None, None),
]


def test_statistics_of_a_class():
    summary = summarize_scores(CASES)
    mandible = summary["classes"]["mandible"]
    assert mandible["dice"] == {
        "mean": 0.5,
        "std": pytest.approx(0.5),
        "median": 0.5,
        "min": 0.0,
        "max": 1.0,
        "count": 3,
    }
    assert mandible["hd95_mm"]["mean"] == pytest.approx(2.0)
    assert mandible["assd_mm"]["max"] == 1.0
    assert (mandible["absent"], mandible["missed"], mandible["invented"]) == (2, 1, 0)
    assert summary["classes"]["skull"]["dice"]["mean"] == pytest.approx(2.5 / 3)
    assert (summary["cases"], summary["patients"]) == (5, 4)
    assert summary["rule"] == EMPTY_RULE


def test_over_all_every_case_weighs_the_same():
    """The case with one class counts as much as those with two; the one without any does not."""
    overall = summarize_scores(CASES)["all"]["dice"]
    assert overall["mean"] == pytest.approx((0.75 + 0.5 + 1.0 + 0.0) / 4)
    assert overall["count"] == 4


def test_worst_cases():
    assert [(c.patient, c.joint) for c in worst_first(CASES)] == [
        ("c", ""),
        ("a", "right"),
        ("a", "left"),
        ("b", "left"),
    ]
    worst = summarize_scores(CASES, num_worst=2)["worst"]
    assert [entry["dice"] for entry in worst] == [0.0, 0.5]
    assert worst[1] == {"patient": "a", "image": "a.nii", "joint": "right", "dice": 0.5, "hd95_mm": 2.0, "assd_mm": 0.5}


def test_one_case_has_no_spread_and_none_has_no_statistics():
    classes = summarize_scores([case("a", 0.5, None)])["classes"]
    assert classes["mandible"]["dice"]["std"] is None
    assert classes["skull"]["dice"] == dict.fromkeys(("mean", "std", "median", "min", "max")) | {"count": 0}


def test_no_cases():
    with pytest.raises(ValueError, match="at least one case to summarize, got none"):
        summarize_scores([])


def test_files(tmp_path):
    summary = summarize_scores(CASES)
    write_summary(tmp_path / "new", summary, "Fold 3")
    assert json.loads((tmp_path / "new" / "summary.json").read_text()) == summary
    text = (tmp_path / "new" / "summary.md").read_text()
    assert text.startswith("# Fold 3\n\nCases: 5, patients: 4.\n")
    assert "| mandible | 0.5000 | 0.5000 | 0.5000 | 0.0000 | 1.0000 | 3 |" in text
    assert "## HD95 in mm" in text
    assert "| mandible | 2 | 1 | 0 |" in text
    assert "| a | right | 0.5000 | 2.00 | 0.50 | a.nii |" in text
    assert EMPTY_RULE in text


def test_nothing_that_json_does_not_know(tmp_path):
    write_summary(tmp_path, summarize_scores([case("a", None, None)]))
    assert "NaN" not in (tmp_path / "summary.json").read_text()
    assert "| all | – | – | – | – | – | 0 |" in (tmp_path / "summary.md").read_text()
