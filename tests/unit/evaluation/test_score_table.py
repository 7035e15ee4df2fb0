"""The table of scores, written and read."""

import csv
import math

import pytest

from bertswin_ext.evaluation.score_table import COLUMNS, CaseScores, read_scores, write_scores
from tests.unit.evaluation.cases import case, scores

CASES = [case("a", 0.5, 0.75), case("a", None, 1.0, joint="right"), case("b, c", 0.25, None, image="x/Ü.nii")]


def test_one_row_for_each_class_of_each_case(tmp_path):
    write_scores(tmp_path / "new" / "scores.csv", CASES)
    with (tmp_path / "new" / "scores.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["patient"], row["joint"], row["class"]) for row in rows[:3]] == [
        ("a", "left", "mandible"),
        ("a", "left", "skull"),
        ("a", "right", "mandible"),
    ]
    assert (rows[0]["dice"], rows[0]["hd95_mm"], rows[0]["assd_mm"]) == ("0.5", "2", "0.5")
    assert (rows[0]["volume_ml"], rows[0]["reference_ml"]) == ("2", "2.5")
    assert (rows[2]["dice"], rows[2]["hd95_mm"], rows[2]["note"]) == ("", "", "absent")


def test_what_was_written_is_read(tmp_path):
    write_scores(tmp_path / "scores.csv", CASES)
    read = read_scores(tmp_path / "scores.csv")
    assert [(c.patient, c.image, c.joint) for c in read] == [(c.patient, c.image, c.joint) for c in CASES]
    assert [c.mean for c in read] == [c.mean for c in CASES]
    assert math.isnan(read[1].classes[0].dice)
    assert read[1].classes[0].note == "absent"


def test_two_unnamed_joints_of_a_volume_stay_two_cases(tmp_path):
    write_scores(tmp_path / "scores.csv", [case("a", 0.5, 0.5, ""), case("a", 1.0, 1.0, "")])
    assert [c.mean["dice"] for c in read_scores(tmp_path / "scores.csv")] == [0.5, 1.0]


def test_names_of_cases():
    assert case("P1", 1, 1).name == "P1  ·  left joint"
    assert CaseScores("", "scans/p1.nii", "", (scores("skull", 1.0),)).name == "p1.nii"


def test_no_table(tmp_path):
    with pytest.raises(ValueError, match=r"scores\.csv does not exist\. Evaluate the network first"):
        read_scores(tmp_path / "scores.csv")


def test_lacking_columns(tmp_path):
    (tmp_path / "scores.csv").write_text("patient,image,joint,class,dice,assd_mm,reference_ml,note\n")
    with pytest.raises(ValueError, match=r"scores\.csv must have the columns patient, .*; hd95_mm, volume_ml missing"):
        read_scores(tmp_path / "scores.csv")
    (tmp_path / "scores.csv").write_text("")
    with pytest.raises(ValueError, match=r"patient, image, joint, class, dice, .* missing"):
        read_scores(tmp_path / "scores.csv")


def test_scores_that_are_no_numbers(tmp_path):
    write_scores(tmp_path / "scores.csv", CASES)
    text = (tmp_path / "scores.csv").read_text().replace("0.75", "good")
    (tmp_path / "scores.csv").write_text(text)
    with pytest.raises(ValueError, match=r"scores\.csv, line 3: the scores must be numbers or blank, got .*'good'"):
        read_scores(tmp_path / "scores.csv")
