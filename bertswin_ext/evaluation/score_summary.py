"""What the scores of many cases come to."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bertswin_ext.evaluation.markdown_table import HEADINGS, markdown_table, score_cell
from bertswin_ext.evaluation.score_table import CaseScores
from bertswin_ext.evaluation.segmentation_scores import EMPTY_RULE, SCORES, ClassScores
from bertswin_ext.files import written_whole

__all__ = ["summarize_scores", "worst_first", "write_summary"]

_STATISTICS = ("mean", "std", "median", "min", "max", "count")
_NOTES = ("absent", "missed", "invented")
_ALL_RULE = "The row `all` is the mean over the classes of a case that count, then over the cases."


def worst_first(cases: Sequence[CaseScores]) -> list[CaseScores]:
    """The cases by their mean Dice, the lowest first; without those in which no class counts."""
    counted = [case for case in cases if not math.isnan(case.mean["dice"])]
    return sorted(counted, key=lambda case: case.mean["dice"])


def summarize_scores(cases: Sequence[CaseScores], num_worst: int = 4) -> dict[str, Any]:
    """What the scores come to, class by class and over all.

    Over all are the means over the classes of a case that count, so that a case weighs the same whatever it shows.

    Args:
        cases: at least one.
        num_worst: how many of the worst cases are listed.

    Returns:
        ``{"rule", "cases", "patients", "classes", "all", "worst"}``. Each class and ``all`` has ``mean``, ``std`` (of
        the sample, None below two cases), ``median``, ``min``, ``max`` and ``count`` of every score; each class also
        tells how often it was ``absent``, ``missed`` and ``invented``. ``worst`` are the cases with the lowest mean
        Dice.

    Raises:
        ValueError: there is no case.
    """
    if not cases:
        raise ValueError("There must be at least one case to summarize, got none.")
    names = list(dict.fromkeys(row.name for case in cases for row in case.classes))
    return {
        "rule": EMPTY_RULE,
        "cases": len(cases),
        "patients": len({case.patient or case.image for case in cases}),
        "classes": {
            name: _class_summary([r for case in cases for r in case.classes if r.name == name]) for name in names
        },
        "all": {score: _statistics([case.mean[score] for case in cases]) for score in SCORES},
        "worst": [
            {"patient": case.patient, "image": case.image, "joint": case.joint, **case.mean}
            for case in worst_first(cases)[:num_worst]
        ],
    }


def _class_summary(rows: Sequence[ClassScores]) -> dict[str, Any]:
    """Statistics of one class, and its empties."""
    statistics = {score: _statistics([getattr(row, score) for row in rows]) for score in SCORES}
    return {**statistics, **{note: sum(row.note == note for row in rows) for note in _NOTES}}


def _statistics(values: Sequence[float]) -> dict[str, float | int | None]:
    """Statistics of what counts."""
    counted = np.array([value for value in values if not math.isnan(value)])
    if not len(counted):
        return {**dict.fromkeys(_STATISTICS), "count": 0}
    spread = float(counted.std(ddof=1)) if len(counted) > 1 else None
    low, high = float(counted.min()), float(counted.max())
    return dict(
        zip(
            _STATISTICS,
            (float(counted.mean()), spread, float(np.median(counted)), low, high, len(counted)),
            strict=True,
        )
    )


def write_summary(folder: str | Path, summary: dict[str, Any], title: str = "Segmentation") -> None:
    """Write a summary as ``summary.json`` and, to be read, as ``summary.md``.

    Args:
        folder: where to; it is made.
        summary: of `summarize_scores`.
        title: heading of ``summary.md``.
    """
    with written_whole(Path(folder) / "summary.json") as temporary:
        temporary.write_text(
            json.dumps(summary, indent=2, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    with written_whole(Path(folder) / "summary.md") as temporary:
        temporary.write_text(_markdown(summary, title), encoding="utf-8")


def _markdown(summary: dict[str, Any], title: str) -> str:
    """The summary as text with tables."""
    lines = [f"# {title}", "", f"Cases: {summary['cases']}, patients: {summary['patients']}.", ""]
    for score in SCORES:
        rows = [_statistics_row(score, name, found[score]) for name, found in _classes_and_all(summary).items()]
        lines += [f"## {HEADINGS[score]}", "", *markdown_table(("class", *_STATISTICS), rows), ""]
    empties = [(name, *(str(found[note]) for note in _NOTES)) for name, found in summary["classes"].items()]
    lines += [
        "## How it is counted",
        "",
        _ALL_RULE,
        summary["rule"],
        "",
        *markdown_table(("class", *_NOTES), empties),
        "",
    ]
    worst = [
        (case["patient"], case["joint"], *(score_cell(score, case[score]) for score in SCORES), case["image"])
        for case in summary["worst"]
    ]
    lines += ["## Worst cases", "", *markdown_table(("patient", "joint", *HEADINGS.values(), "image"), worst)]
    return "\n".join(lines) + "\n"


def _classes_and_all(summary: dict[str, Any]) -> dict[str, Any]:
    """The classes, and what they come to together."""
    return {**summary["classes"], "all": summary["all"]}


def _statistics_row(score: str, name: str, found: dict[str, Any]) -> tuple[str, ...]:
    """A line of a score's table."""
    return (name, *(score_cell(score, found[s]) for s in _STATISTICS[:-1]), str(found["count"]))
