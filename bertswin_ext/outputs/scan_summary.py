"""All reports of a run as one table: a line for every scan and joint."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bertswin_ext.files import written_whole

__all__ = ["read_reports", "write_summary"]

logger = logging.getLogger(__name__)

Row = dict[str, Any]

_OF_JOINT = ("center_origin", "confidence", "joint_space_mm")


def write_summary(path: str | Path, reports: Iterable[Mapping[str, Any]]) -> None:
    """Write the reports of a run as a CSV file, whole.

    A scan has a line for each of its joints; one without joints, or that failed, has one line. Lengths are mm,
    positions RAS world; what is not known is empty. The columns are always ``scan, status, joint, center_x_mm,
    center_y_mm, center_z_mm, center_origin, confidence, joint_space_mm, joint_space_at_mandible_x_mm, ...,
    joint_space_at_skull_z_mm``, then a volume for every class of the reports (``mandible_ml``: of the whole scan, the
    same in all its lines), then ``seconds, warnings, error, input, weights_sha256, bertswin_ext, created_utc``.

    Args:
        path: the file, by convention ``summary.csv``; its folder is made.
        reports: what `ScanReport.write` returned or `read_reports` found.

    Example:
        >>> import tempfile
        >>> from bertswin_ext.outputs.scan_report import ScanReport
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_summary(Path(folder) / "summary.csv", [ScanReport("P1", [], error="no such file").to_json()])
        ...     (Path(folder) / "summary.csv").read_text().splitlines()[1][:10]
        'P1,failed,'
    """
    known = list(reports)
    classes = list(dict.fromkeys(name for report in known for name in report["volumes_ml"]))
    rows = [row for report in known for row in _rows(report, classes)]
    columns = list(_row({}, {}, classes))
    with written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(rows)


def read_reports(folder: str | Path, name: str = "report.json") -> list[dict[str, Any]]:
    """The reports of all scans in an output folder, by the names of their folders; unreadable ones are left out.

    Args:
        folder: holds one folder for each scan.
        name: of the report in it.
    """
    found = []
    for path in sorted(Path(folder).glob(f"*/{name}")):
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            found.append({**report, "volumes_ml": dict(report["volumes_ml"]), "joints": list(report["joints"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning(f"{path} is no report of a scan and is left out of the table ({error!r}).")
    return found


def _rows(report: Mapping[str, Any], classes: Sequence[str]) -> list[Row]:
    """The lines of a scan."""
    return [_row(report, joint, classes) for joint in report["joints"] or [{}]]


def _row(report: Mapping[str, Any], joint: Mapping[str, Any], classes: Sequence[str]) -> Row:
    """One line, with all columns in their order."""
    return {
        "scan": report.get("scan"),
        "status": report.get("status"),
        "joint": joint.get("joint"),
        **_coordinates(joint, "center"),
        **{name: joint.get(name) for name in _OF_JOINT},
        **_coordinates(joint, "joint_space_at_mandible"),
        **_coordinates(joint, "joint_space_at_skull"),
        **{f"{name}_ml": report.get("volumes_ml", {}).get(name) for name in classes},
        "seconds": report.get("seconds", {}).get("total"),
        "warnings": " | ".join(report.get("warnings", ())),
        "error": report.get("error"),
        "input": " | ".join(report.get("inputs", ())),
        "weights_sha256": report.get("weights", {}).get("sha256"),
        "bertswin_ext": report.get("versions", {}).get("bertswin_ext"),
        "created_utc": report.get("created_utc"),
    }


def _coordinates(joint: Mapping[str, Any], name: str) -> Row:
    """A point as three columns."""
    point = joint.get(f"{name}_mm") or (None, None, None)
    return {f"{name}_{axis}_mm": value for axis, value in zip("xyz", point, strict=True)}
