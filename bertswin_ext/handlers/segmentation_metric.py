"""Scores of segmentations as a metric of an evaluator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ignite.engine import Engine
from ignite.metrics import Metric

from bertswin_ext.evaluation.segmentation_scores import SCORES, ClassScores, mean_scores, segmentation_scores
from bertswin_ext.handlers.gather import gathered
from bertswin_ext.handlers.segmentation_output import segmented_volumes

__all__ = ["SegmentationMetric"]


class SegmentationMetric(Metric):  # type: ignore[misc]
    """Mean scores over the cases of a validation, in mm where they are distances.

    Attached as ``"val"`` it gives ``val_hd95_mm`` and ``val_assd_mm``: means over the classes of a case that count,
    then over the cases; with ``per_class`` also ``val_hd95_mm_mandible`` and so on. Attached as ``"val_mean_dice"``,
    with ``dice`` as its one score, it gives ``val_mean_dice``, and can be an evaluator's key metric. Empty classes
    count as in `segmentation_scores`. Where nothing counts the metric is NaN.

    MONAI's `HausdorffDistance` and `SurfaceDistance` handlers know of no spacing, and need scipy.

    Args:
        class_names: names of the classes, the background first.
        scores: some of ``dice``, ``hd95_mm``, ``assd_mm``.
        per_class: whether the classes are told apart as well.
        spacing_mm: edges of a voxel along the axes of the tensors; None takes them from the labels' affine.

    Raises:
        ValueError: there is no such score.

    Example:
        >>> engine = Engine(lambda engine, batch: [{"pred": batch, "label": batch}])
        >>> metric = SegmentationMetric(["background", "bone"], scores=["dice"], spacing_mm=(1.0, 1.0, 1.0))
        >>> metric.attach(engine, "val")
        >>> import torch
        >>> engine.run([torch.ones(1, 4, 4, 4)]).metrics
        {'val_dice': 1.0}
    """

    def __init__(
        self,
        class_names: Sequence[str],
        scores: Sequence[str] = ("hd95_mm", "assd_mm"),
        per_class: bool = False,
        spacing_mm: Sequence[float] | None = None,
    ) -> None:
        unknown = [score for score in scores if score not in SCORES]
        if unknown or not scores:
            raise ValueError(f"`scores` must be some of {', '.join(SCORES)}, got {list(scores)}.")
        self.class_names = list(class_names)
        self.scores = list(scores)
        self.per_class = per_class
        self.spacing_mm = spacing_mm
        self._cases: list[list[ClassScores]] = []
        super().__init__()

    def reset(self) -> None:
        """Begin a new validation."""
        self._cases = []

    def update(self, output: Any) -> None:
        """Score the volumes of an output."""
        for volume in segmented_volumes(output, self.spacing_mm):
            if volume.reference is None:
                raise ValueError("Every sample must have a `label` to be scored. Leave items without one out.")
            self._cases.append(
                segmentation_scores(volume.prediction, volume.reference, volume.spacing_mm, self.class_names)
            )

    def iteration_completed(self, engine: Engine) -> None:
        """Score the volumes of an iteration."""
        self.update(engine.state.output)

    def compute(self) -> dict[str, float]:
        """Means over the cases of all processes."""
        cases = gathered(self._cases)
        means = {score: _mean([mean_scores(case)[score] for case in cases]) for score in self.scores}
        if self.per_class:
            for index, name in enumerate(self.class_names[1:]):
                for score in self.scores:
                    means[f"{score}_{name}"] = _mean([getattr(case[index], score) for case in cases])
        return means

    def completed(self, engine: Engine, name: str) -> None:
        """Hand the means to the engine, each under the metric's name and its own."""
        stem = name.removesuffix(f"_{self.scores[0]}") if len(self.scores) == 1 else name
        for score, value in self.compute().items():
            engine.state.metrics[f"{stem}_{score}"] = value


def _mean(values: Sequence[float]) -> float:
    """The mean of what counts."""
    counted = [value for value in values if not math.isnan(value)]
    return math.fsum(counted) / len(counted) if counted else math.nan
