"""The scores of many cases as a table."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bertswin_ext.evaluation.segmentation_scores import SCORES, ClassScores, mean_scores
from bertswin_ext.files import written_whole

__all__ = ["COLUMNS", "CaseScores", "read_scores", "write_scores"]

_NUMBERS = (*SCORES, "volume_ml", "reference_ml")
COLUMNS = ("patient", "image", "joint", "class", *_NUMBERS, "note")
"""Columns of ``scores.csv``."""


@dataclass(frozen=True)
class CaseScores:
    """The scores of one case.

    Attributes:
        patient: whose it is.
        image: its file.
        joint: ``"left"``, ``"right"``, or nothing.
        classes: one entry for each class.

    Example:
        >>> bone = ClassScores("bone", 0.9, 0.4, 0.1, 2.0, 2.1)
        >>> case = CaseScores("P01", "scans/p01.nii.gz", "left", (bone,))
        >>> case.name, case.mean["dice"]
        ('P01  ·  left joint', 0.9)
    """

    patient: str
    image: str
    joint: str
    classes: tuple[ClassScores, ...]

    @property
    def mean(self) -> dict[str, float]:
        """Means over the classes that count."""
        return mean_scores(self.classes)

    @property
    def name(self) -> str:
        """The case in a title: patient, or else file, and joint."""
        return "  ·  ".join([self.patient or Path(self.image).name, *([f"{self.joint} joint"] if self.joint else [])])


def write_scores(path: str | Path, cases: Sequence[CaseScores]) -> None:
    """Write ``scores.csv``: one row for each class of each case; what is not counted is blank.

    Args:
        path: the file; its folder is made.
        cases: in the order of the rows.
    """
    with written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for case in cases:
            for row in case.classes:
                numbers = (getattr(row, name) for name in _NUMBERS)
                cells = ("" if math.isnan(number) else f"{number:.6g}" for number in numbers)
                table.writerow([case.patient, case.image, case.joint, row.name, *cells, row.note])


def read_scores(path: str | Path) -> list[CaseScores]:
    """Read what `write_scores` has written; further columns are ignored.

    Args:
        path: the file.

    Raises:
        ValueError: there is no such file, or it lacks a column, or has scores that are no numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist. Evaluate the network first, or correct the path.")
    with path.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        lacking = [column for column in COLUMNS if column not in (table.fieldnames or ())]
        if lacking:
            raise ValueError(f"{path} must have the columns {', '.join(COLUMNS)}; {', '.join(lacking)} missing.")
        rows = [(table.line_num, row) for row in table]
    return _cases(path, rows)


def _cases(path: Path, rows: Sequence[tuple[int, dict[str, str]]]) -> list[CaseScores]:
    """Put together the rows of a case, which follow each other."""
    cases: list[CaseScores] = []
    for line, row in rows:
        scores = _row_scores(path, line, row)
        case = CaseScores(row["patient"], row["image"], row["joint"], (scores,))
        if cases and _continues(cases[-1], case):
            case = replace(case, classes=cases.pop().classes + case.classes)
        cases.append(case)
    return cases


def _continues(case: CaseScores, row: CaseScores) -> bool:
    """Whether a row is of this case, and not of another joint of one volume whose side is not known."""
    same = (case.patient, case.image, case.joint) == (row.patient, row.image, row.joint)
    return same and row.classes[0].name not in {known.name for known in case.classes}


def _row_scores(path: Path, line: int, row: dict[str, str]) -> ClassScores:
    """The scores in a row; a blank is NaN."""
    try:
        dice, hd95_mm, assd_mm, volume_ml, reference_ml = (float(row[name] or "nan") for name in _NUMBERS)
    except (TypeError, ValueError):
        found = {name: row[name] for name in _NUMBERS}
        raise ValueError(f"{path}, line {line}: the scores must be numbers or blank, got {found}.") from None
    return ClassScores(row["class"], dice, hd95_mm, assd_mm, volume_ml, reference_ml, row["note"])
