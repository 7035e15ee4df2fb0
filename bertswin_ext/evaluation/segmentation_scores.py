"""Scores of one segmentation, class by class."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from monai.metrics import compute_dice

from bertswin_ext.errors import times
from bertswin_ext.evaluation.surface_distances import surface_distances_mm

__all__ = ["EMPTY_RULE", "SCORES", "ClassScores", "mean_scores", "segmentation_scores"]

SCORES = ("dice", "hd95_mm", "assd_mm")
"""What is averaged over cases; the names are those of the columns."""

EMPTY_RULE = (
    "A class that is in neither the reference nor the prediction is not counted (note: absent). A class that is in one "
    "of them only counts with Dice 0 and with the diagonal of the volume as HD95 and ASSD (note: missed where the "
    "reference alone has it, invented where the prediction alone has it)."
)
"""How empty classes count, in words, for reports."""

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ClassScores:
    """How well one class of one case was segmented; what is not counted is NaN.

    Attributes:
        name: of the class.
        dice: 2 |A and B| / (|A| + |B|), from 0 to 1.
        hd95_mm: 95th percentile of the distances from surface to surface, the larger one of the two directions.
        assd_mm: mean of all these distances, both directions together.
        volume_ml: of the prediction.
        reference_ml: volume of the reference.
        note: ``"absent"``, ``"missed"``, ``"invented"``, or nothing.
    """

    name: str
    dice: float
    hd95_mm: float
    assd_mm: float
    volume_ml: float
    reference_ml: float
    note: str = ""


def segmentation_scores(
    prediction: torch.Tensor | npt.NDArray[np.generic],
    reference: torch.Tensor | npt.NDArray[np.generic],
    spacing_mm: Sequence[float],
    class_names: Sequence[str],
) -> list[ClassScores]:
    """Score a segmentation against its reference, every class but the background.

    A class that is in neither of them is not counted: its scores are NaN. A class that is in one of them only has Dice
    0, and the diagonal of the volume as both distances, so that a failure never improves a mean.

    Args:
        prediction: label map; the value ``v`` stands for ``class_names[v]``.
        reference: label map on the same grid.
        spacing_mm: edges of a voxel along i, j, k.
        class_names: names of the classes, the background first.

    Shape:
        Both label maps are (i, j, k), or (1, i, j, k).

    Returns:
        The scores of ``class_names[1:]``.

    Raises:
        ValueError: the label maps differ in shape or have values without a name, the spacing is not three positive
            numbers, or there is no class beside the background.

    Example:
        >>> label = torch.zeros(8, 8, 8, dtype=torch.uint8)
        >>> label[2:6, 2:6, 2:6] = 1
        >>> score, = segmentation_scores(label.roll(1, 0), label, (0.5, 1.0, 1.0), ["background", "bone"])
        >>> score.name, score.dice, score.hd95_mm, score.volume_ml
        ('bone', 0.75, 0.5, 0.032)
    """
    if len(class_names) < 2:
        raise ValueError(f"`class_names` must name the background and at least one class, got {list(class_names)}.")
    if len(spacing_mm) != 3 or not all(mm > 0 for mm in spacing_mm):
        raise ValueError(f"`spacing_mm` must be three positive numbers, got {tuple(spacing_mm)}.")
    labels = [
        _label_map(name, values, len(class_names))
        for name, values in (("prediction", prediction), ("reference", reference))
    ]
    if labels[0].shape != labels[1].shape:
        raise ValueError(
            f"`prediction` and `reference` must lie on one grid, got {times(labels[0].shape)} and "
            f"{times(labels[1].shape)} voxels. Invert the transforms of the prediction, or apply them to both."
        )
    spacing = [float(mm) for mm in spacing_mm]
    dice = _dice(labels[0], labels[1], len(class_names))
    return [_scored(name, dice[v], labels[0] == v, labels[1] == v, spacing) for v, name in enumerate(class_names) if v]


def mean_scores(rows: Iterable[ClassScores]) -> dict[str, float]:
    """Mean of every score over the classes that count; NaN where none does.

    Example:
        >>> rows = [ClassScores("a", 0.5, 1.0, 1.0, 1.0, 1.0), ClassScores("b", *3 * [math.nan], 0.0, 0.0, "absent")]
        >>> mean_scores(rows)["dice"]
        0.5
    """
    counted = [row for row in rows if not math.isnan(row.dice)]
    if not counted:
        return dict.fromkeys(SCORES, math.nan)
    return {score: math.fsum(getattr(row, score) for row in counted) / len(counted) for score in SCORES}


def _label_map(name: str, values: torch.Tensor | npt.NDArray[np.generic], num_classes: int) -> Labels:
    """Whole numbers of known classes, (i, j, k)."""
    array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    array = array[0] if array.ndim == 4 and array.shape[0] == 1 else array
    if array.ndim != 3:
        raise ValueError(
            f"`{name}` must be a label map (i, j, k) or (1, i, j, k), got shape {array.shape}. "
            "Take the argmax over the classes first."
        )
    with np.errstate(invalid="ignore"):  # NaN is found below
        label = array.astype(np.uint8)
    unknown = (label != array) | (label >= num_classes)
    if unknown.any():
        found = ", ".join(f"{value:g}" for value in np.unique(array[unknown].astype(np.float64))[:5])
        raise ValueError(f"`{name}` must hold the whole numbers from 0 to {num_classes - 1}, found {found}.")
    return label


def _dice(prediction: Labels, reference: Labels, num_classes: int) -> list[float]:
    """Dice by value; NaN where the reference has none of it."""
    batches = [torch.from_numpy(np.ascontiguousarray(label))[None, None] for label in (prediction, reference)]
    return compute_dice(*batches, include_background=True, num_classes=num_classes)[0].tolist()


def _scored(
    name: str,
    dice: float,
    prediction: npt.NDArray[np.bool_],
    reference: npt.NDArray[np.bool_],
    spacing_mm: Sequence[float],
) -> ClassScores:
    """Scores of one class."""
    voxel_ml = math.prod(spacing_mm) / 1000
    predicted, present = int(prediction.sum()), int(reference.sum())
    volumes = predicted * voxel_ml, present * voxel_ml
    if not predicted and not present:
        return ClassScores(name, math.nan, math.nan, math.nan, *volumes, "absent")
    if not predicted or not present:
        diagonal = math.dist([0.0] * 3, np.multiply(prediction.shape, spacing_mm).tolist())
        return ClassScores(name, 0.0, diagonal, diagonal, *volumes, "missed" if present else "invented")
    distances = surface_distances_mm(prediction, reference, spacing_mm)
    hd95 = max(float(np.quantile(mm, 0.95)) for mm in distances)
    return ClassScores(name, dice, hd95, float(np.concatenate(distances).mean(dtype=np.float64)), *volumes)
