"""What the folds of a cross-validation come to, patient by patient."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bertswin_ext.errors import listed
from bertswin_ext.evaluation.markdown_table import HEADINGS, markdown_table, score_cell
from bertswin_ext.evaluation.score_table import CaseScores
from bertswin_ext.evaluation.segmentation_scores import EMPTY_RULE, SCORES
from bertswin_ext.files import written_whole

__all__ = ["MEAN_CLASS", "FoldSummary", "summarize_folds", "write_fold_summary"]

MEAN_CLASS = "all"
"""The row of the mean over the classes of a case that count."""

_RESAMPLES = 10_000
_RESAMPLES_AT_ONCE = 500
_SEED = 0
_METHOD = (
    "Means are over patients; the scans of a patient are averaged first. The interval is the percentile interval of a "
    f"bootstrap over patients, {_RESAMPLES:,} resamples. "
    f"`{MEAN_CLASS}` is the mean over the classes of a case that count."
)

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FoldSummary:
    """One score of one class over all folds; what is not counted, or cannot be told, is NaN.

    Attributes:
        class_name: the class, or ``all``.
        score: ``dice``, ``hd95_mm`` or ``assd_mm``.
        mean: over the patients of all folds; a patient's scans are averaged first.
        low: lower end of the 95 % confidence interval of the mean.
        high: upper end of it.
        patients: how many of them count.
        folds: mean over the patients of each fold, by its name.
    """

    class_name: str
    score: str
    mean: float
    low: float
    high: float
    patients: int
    folds: dict[str, float]


def summarize_folds(folds: Mapping[str, Sequence[CaseScores]]) -> list[FoldSummary]:
    """Average the scores of all folds over the patients.

    The confidence interval is that of the bootstrap: the 2.5th and 97.5th percentile of the means of 10,000 samples of
    as many patients, drawn with replacement from one seed. It tells how the mean varies with the patients, not with the
    training.

    Args:
        folds: cases by the name of their fold.

    Returns:
        Every score of every class, and of all classes together.

    Raises:
        ValueError: a patient is in several folds or has no name, a fold is empty, or it lacks a class that others have.

    Source: Efron, Tibshirani, "An introduction to the bootstrap" (1993), the percentile interval, over patients.

    Example:
        >>> from bertswin_ext.evaluation.segmentation_scores import ClassScores
        >>> def case(patient, dice):
        ...     return CaseScores(patient, "a.nii", "", (ClassScores("bone", dice, 1.0, 0.5, 1.0, 1.0),))
        >>> found = summarize_folds({"fold_0": [case("a", 0.5), case("a", 0.75)], "fold_1": [case("b", 1.0)]})
        >>> found[0].score, found[0].mean, found[0].folds
        ('dice', 0.8125, {'fold_0': 0.625, 'fold_1': 1.0})
    """
    faults = [*_empty_folds(folds), *_repeated_patients(folds), *_lacking_classes(folds)]
    if faults:
        raise ValueError(listed(faults, "the folds"))
    names = [*_class_names(folds), MEAN_CLASS]
    return [_summary(folds, name, score) for name in names for score in SCORES]


def write_fold_summary(folder: str | Path, rows: Sequence[FoldSummary]) -> None:
    """Write ``folds.csv`` and, to be read, ``folds.md``.

    Args:
        folder: where to; it is made.
        rows: of `summarize_folds`.
    """
    table = Path(folder) / "folds.csv"
    with written_whole(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["class", "score", "mean", "ci95_low", "ci95_high", "patients", *rows[0].folds])
        for row in rows:
            numbers = [_number(value) for value in (row.mean, row.low, row.high)]
            folds = [_number(value) for value in row.folds.values()]
            lines.writerow([row.class_name, row.score, *numbers, row.patients, *folds])
    with written_whole(Path(folder) / "folds.md") as temporary:
        temporary.write_text(_markdown(rows), encoding="utf-8")


def _empty_folds(folds: Mapping[str, Sequence[CaseScores]]) -> list[str]:
    """What is wrong with folds that have nothing, or nothing that has a name."""
    faults = [f"{fold} has no cases." for fold, cases in folds.items() if not cases]
    for fold, cases in folds.items():
        nameless = [case.image for case in cases if not case.patient]
        faults += [f"{fold}: {image} has no patient; the means are by patient." for image in nameless]
    return faults


def _repeated_patients(folds: Mapping[str, Sequence[CaseScores]]) -> list[str]:
    """Patients in several folds: folds of different splits, or one fold twice."""
    where: dict[str, list[str]] = {}
    for fold, cases in folds.items():
        for patient in dict.fromkeys(case.patient for case in cases if case.patient):
            where.setdefault(patient, []).append(fold)
    return [
        f"patient {patient} is in {' and '.join(found)}: the folds must come from one split by patient."
        for patient, found in where.items()
        if len(found) > 1
    ]


def _lacking_classes(folds: Mapping[str, Sequence[CaseScores]]) -> list[str]:
    """Classes that cases lack and others have."""
    faults = []
    for fold, cases in folds.items():
        lacking = [n for n in _class_names(folds) if any(n not in {row.name for row in c.classes} for c in cases)]
        faults += [
            f"{fold} has cases without a row of the class {name}: evaluate it with all classes." for name in lacking
        ]
    return faults


def _class_names(folds: Mapping[str, Sequence[CaseScores]]) -> list[str]:
    """All classes, in the order of the tables."""
    return list(dict.fromkeys(row.name for cases in folds.values() for case in cases for row in case.classes))


def _summary(folds: Mapping[str, Sequence[CaseScores]], name: str, score: str) -> FoldSummary:
    """One score of one class."""
    by_fold = {fold: _patient_means(cases, name, score) for fold, cases in folds.items()}
    values = np.array([value for means in by_fold.values() for value in means])
    means = {fold: _mean(np.array(found)) for fold, found in by_fold.items()}
    return FoldSummary(name, score, _mean(values), *_interval(values), len(values), means)


def _patient_means(cases: Sequence[CaseScores], name: str, score: str) -> list[float]:
    """The mean of every patient's scans that count."""
    scans: dict[str, list[float]] = {}
    for case in cases:
        value = case.mean[score] if name == MEAN_CLASS else _score_of(case, name, score)
        if not math.isnan(value):
            scans.setdefault(case.patient, []).append(value)
    return [math.fsum(values) / len(values) for values in scans.values()]


def _score_of(case: CaseScores, name: str, score: str) -> float:
    """A score of one class of a case."""
    return next(float(getattr(row, score)) for row in case.classes if row.name == name)


def _mean(values: Values) -> float:
    """Their mean, NaN if there are none."""
    return float(values.mean()) if len(values) else math.nan


def _interval(values: Values) -> tuple[float, float]:
    """The 95 % confidence interval of the mean; one patient does not tell."""
    if len(values) < 2:
        return math.nan, math.nan
    generator = np.random.default_rng(_SEED)
    means = [
        values[generator.integers(len(values), size=(_RESAMPLES_AT_ONCE, len(values)))].mean(axis=1)
        for _ in range(_RESAMPLES // _RESAMPLES_AT_ONCE)
    ]
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return float(low), float(high)


def _number(value: float) -> str:
    """A number in a CSV, blank where nothing counts."""
    return "" if math.isnan(value) else f"{value:.6g}"


def _markdown(rows: Sequence[FoldSummary]) -> str:
    """The summary as text with tables."""
    folds = list(rows[0].folds)
    lines = ["# Cross-validation", "", f"Folds: {', '.join(folds)}. {_METHOD}", "", EMPTY_RULE, ""]
    for score, heading in HEADINGS.items():
        head = ("class", "mean", "95 % interval", "patients", *folds)
        lines += [f"## {heading}", "", *markdown_table(head, [_line(row) for row in rows if row.score == score]), ""]
    lines += [f"- {missing}" for missing in _uncounted(rows)]
    return "\n".join(lines).rstrip() + "\n"


def _line(row: FoldSummary) -> list[str]:
    """One line of a score's table."""
    mean, low, high = (score_cell(row.score, value) for value in (row.mean, row.low, row.high))
    folds = [score_cell(row.score, value) for value in row.folds.values()]
    return [row.class_name, mean, "–" if math.isnan(row.low) else f"{low} to {high}", str(row.patients), *folds]


def _uncounted(rows: Sequence[FoldSummary]) -> list[str]:
    """Classes that no case of a fold has."""
    dice = [row for row in rows if row.score == "dice" and row.class_name != MEAN_CLASS]
    return [
        f"{row.class_name} does not count in {fold}: neither reference nor prediction has it in any of its cases."
        for row in dice
        for fold, value in row.folds.items()
        if math.isnan(value)
    ]
