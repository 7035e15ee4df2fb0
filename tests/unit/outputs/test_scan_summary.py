"""One line for every scan and joint."""

import csv
import logging

import pytest

from bertswin_ext.outputs.joint_report import JointReport
from bertswin_ext.outputs.joint_space import JointSpace
from bertswin_ext.outputs.scan_report import ScanReport
from bertswin_ext.outputs.scan_summary import read_reports, write_summary

FIRST = ["scan", "status", "joint", "center_x_mm", "center_y_mm", "center_z_mm", "center_origin", "confidence"]
LAST = ["seconds", "warnings", "error", "input", "weights_sha256", "bertswin_ext", "created_utc"]


def reports():
    space = JointSpace(2.5, (1.0, 2.0, 3.0), (1.0, 2.0, 5.5))
    joints = [JointReport("left", (-50.0, 1.0, 2.0), space=space), JointReport("right", (50.0, 1.0, 2.0), 0.8)]
    volumes = {"mandible": 12.0, "skull": 30.5}
    return [
        ScanReport(
            "P1", ["a.nii", "b.nii"], volumes_ml=volumes, joints=joints, warnings=["One.", 'Two, "quoted"\nand.']
        ),
        ScanReport("P2", ["c.nii"], error="c.nii: no volume."),
    ]


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_lines_and_columns(tmp_path):
    write_summary(tmp_path / "out" / "summary.csv", [report.to_json() for report in reports()])
    left, right, failed = table(tmp_path / "out" / "summary.csv")
    columns = list(left)
    assert columns[:8] == FIRST
    assert columns[8:15] == [
        "joint_space_mm",
        *(f"joint_space_at_{bone}_{axis}_mm" for bone in ("mandible", "skull") for axis in "xyz"),
    ]
    assert columns[15:17] == ["mandible_ml", "skull_ml"]
    assert columns[17:] == LAST
    assert [left[name] for name in ("scan", "joint", "center_x_mm", "center_origin", "confidence")] == [
        "P1", "left", "-50.0", "given", ""
    ]  # fmt: skip
    assert [left[name] for name in ("joint_space_mm", "joint_space_at_skull_z_mm", "skull_ml")] == [
        "2.5",
        "5.5",
        "30.5",
    ]
    assert (right["confidence"], right["joint_space_mm"], right["mandible_ml"]) == ("0.8", "", "12.0")
    assert left["input"] == "a.nii | b.nii"
    assert left["warnings"] == 'One. | Two, "quoted"\nand.'
    assert (failed["scan"], failed["status"], failed["joint"], failed["error"]) == (
        "P2",
        "failed",
        "",
        "c.nii: no volume.",
    )
    assert failed["mandible_ml"] == ""


def test_columns_are_there_without_any_scan(tmp_path):
    write_summary(tmp_path / "summary.csv", [])
    columns = (tmp_path / "summary.csv").read_text().strip().split(",")
    assert (columns[:8], columns[15:]) == (FIRST, LAST)


def test_the_table_of_a_folder_is_the_same_as_that_of_its_run(tmp_path):
    written = [report.write(tmp_path / report.name / "report.json") for report in reports()]
    write_summary(tmp_path / "summary.csv", read_reports(tmp_path))
    first = (tmp_path / "summary.csv").read_bytes()
    write_summary(tmp_path / "summary.csv", written)
    assert (tmp_path / "summary.csv").read_bytes() == first


@pytest.mark.parametrize("text", ["{", "[]", '{"scan": "P3"}', '{"volumes_ml": 3, "joints": []}'])
def test_files_that_are_no_reports_are_left_out_and_named(tmp_path, caplog, text):
    reports()[0].write(tmp_path / "P1" / "report.json")
    (tmp_path / "P3").mkdir()
    (tmp_path / "P3" / "report.json").write_text(text)
    with caplog.at_level(logging.WARNING):
        assert [report["scan"] for report in read_reports(tmp_path)] == ["P1"]
    assert "report.json is no report of a scan and is left out" in caplog.text
