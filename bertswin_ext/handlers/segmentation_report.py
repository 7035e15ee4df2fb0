"""The report of an evaluation: scores of every case, what they come to, and a picture of the worst."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ignite.distributed as idist
from ignite.engine import Engine, Events

from bertswin_ext.evaluation.case_gallery import write_gallery
from bertswin_ext.evaluation.case_planes import MARGIN_MM, CasePlanes, cut_planes, largest_error
from bertswin_ext.evaluation.score_summary import summarize_scores, write_summary
from bertswin_ext.evaluation.score_table import CaseScores, write_scores
from bertswin_ext.evaluation.segmentation_scores import segmentation_scores
from bertswin_ext.handlers.gather import gathered
from bertswin_ext.handlers.segmentation_output import SegmentedVolume, segmented_volumes
from bertswin_ext.voxels import VOXELS

__all__ = ["SegmentationReportHandler"]

logger = logging.getLogger(__name__)


class _Picture(NamedTuple):
    """What is kept of a case that may be one of the worst."""

    key: str
    dice: float
    planes: CasePlanes


class SegmentationReportHandler:
    """Score every case of an evaluation, and write what was found into a folder when it ends.

    ``scores.csv`` has a row for each class of each case, ``summary.json`` and ``summary.md`` what they come to, and
    ``worst.png`` the cases with the lowest mean Dice in three planes through their largest error. Of these cases alone
    planes are kept, so that memory does not grow with the number of cases. With several processes the first one writes
    what all have found; a case that two of them had is counted once.

    Args:
        output_dir: folder of the files.
        class_names: names of the classes, the background first.
        cases: items of the evaluator's dataset, in its order; those of this process' share.
        num_worst: cases in the picture and in the list of the worst.
        spacing_mm: edges of a voxel along the axes of the tensors; None takes them from the labels' affine.
        mean_hu: what the images' 0 stands for in HU.
        std_hu: what the images' 1 is above that; ``mean_hu`` 0 and ``std_hu`` 1 are for images in HU.
        title: heading of the summary.

    Raises:
        ValueError: ``num_worst`` is negative; later, the evaluator sees another number of volumes than there are cases,
            or volumes without a label.

    Example:
        >>> report = SegmentationReportHandler("out/evaluation", ["background", "mandible", "skull"], cases=[])
        >>> report.attach(Engine(lambda engine, batch: []))
    """

    def __init__(
        self,
        output_dir: str | Path,
        class_names: Sequence[str],
        cases: Sequence[Mapping[str, Any]],
        num_worst: int = 4,
        spacing_mm: Sequence[float] | None = None,
        mean_hu: float = VOXELS.mean_hu,
        std_hu: float = VOXELS.std_hu,
        title: str = "Segmentation",
    ) -> None:
        if num_worst < 0:
            raise ValueError(f"`num_worst` must not be negative, got {num_worst}. Use 0 for no picture.")
        self.output_dir = Path(output_dir)
        self.class_names = list(class_names)
        self.cases = cases
        self.num_worst = num_worst
        self.spacing_mm = spacing_mm
        self.mean_hu, self.std_hu = mean_hu, std_hu
        self.title = title
        self._scores: list[CaseScores] = []
        self._worst: list[_Picture] = []

    def attach(self, engine: Engine) -> None:
        """Collect during an evaluation, write at its end."""
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)
        engine.add_event_handler(Events.COMPLETED, self._completed)

    def _started(self, _engine: Engine) -> None:
        """Begin a new report."""
        self._scores, self._worst = [], []

    def _iteration_completed(self, engine: Engine) -> None:
        """Score the volumes of an iteration."""
        for volume in segmented_volumes(engine.state.output, self.spacing_mm):
            if len(self._scores) == len(self.cases):
                raise ValueError(_OTHER_CASES.format(cases=len(self.cases), seen="more"))
            case = self.cases[len(self._scores)]
            scores = self._scored(case, volume)
            self._keep_if_bad(_key(case), scores, volume)
            self._scores.append(scores)

    def _scored(self, case: Mapping[str, Any], volume: SegmentedVolume) -> CaseScores:
        """The scores of a case."""
        if volume.reference is None:
            raise ValueError(f"{case.get('image')}: the sample has no `label` to be scored. Leave such items out.")
        rows = segmentation_scores(volume.prediction, volume.reference, volume.spacing_mm, self.class_names)
        patient, image, joint = (str(case.get(key) or "") for key in ("patient", "image", "joint"))
        return CaseScores(patient, image, joint, tuple(rows))

    def _keep_if_bad(self, key: str, scores: CaseScores, volume: SegmentedVolume) -> None:
        """Keep three planes of a case that is one of the worst so far."""
        dice = scores.mean["dice"]
        if math.isnan(dice) or volume.image is None or volume.reference is None:
            return
        if len(self._worst) < self.num_worst or (self._worst and dice < self._worst[-1].dice):
            image_hu = volume.image * self.std_hu + self.mean_hu
            prediction, reference = volume.prediction.astype("uint8"), volume.reference.astype("uint8")
            focus = largest_error(prediction, reference, volume.spacing_mm)
            planes = cut_planes(image_hu, prediction, reference, volume.spacing_mm, focus, _title(scores), MARGIN_MM)
            self._worst = _sorted([*self._worst, _Picture(key, dice, planes)])[: self.num_worst]

    def _completed(self, _engine: Engine) -> None:
        """Put the processes' findings together and write the files."""
        if len(self._scores) != len(self.cases):
            raise ValueError(_OTHER_CASES.format(cases=len(self.cases), seen=len(self._scores)))
        keys = [_key(case) for case in self.cases]
        scores = list(dict(gathered(list(zip(keys, self._scores, strict=True)))).values())
        pictures = {picture.key: picture for picture in gathered(self._worst)}
        if idist.get_rank() != 0:
            return
        write_scores(self.output_dir / "scores.csv", scores)
        summary = summarize_scores(scores, self.num_worst)
        write_summary(self.output_dir, summary, self.title)
        logger.info("%s; scores, summary and pictures are in %s", _in_words(summary), self.output_dir)
        worst = _sorted(list(pictures.values()))[: self.num_worst]
        if worst:
            title = f"{self.title}: the worst {len(worst)} of {len(scores)} cases"
            write_gallery(self.output_dir / "worst.png", [p.planes for p in worst], self.class_names, title)


_OTHER_CASES = (
    "{cases} cases, but {seen} volumes were evaluated. Give the evaluator's own dataset to `cases`, unshuffled."
)


def _in_words(summary: Mapping[str, Any]) -> str:
    """Mean Dice and HD95 of every class in a line."""
    counted = {name: scores for name, scores in summary["classes"].items() if scores["dice"]["count"]}
    parts = [
        f"{name} Dice {scores['dice']['mean']:.3f}, HD95 {scores['hd95_mm']['mean']:.2f} mm"
        for name, scores in counted.items()
    ]
    return f"{summary['cases']} cases: {'; '.join(parts) or 'no class counts'}"


def _key(case: Mapping[str, Any]) -> str:
    """What tells items apart, also two joints of one volume."""
    return repr(sorted(case.items()))


def _sorted(pictures: list[_Picture]) -> list[_Picture]:
    """The worst first."""
    return sorted(pictures, key=lambda picture: picture.dice)


def _title(case: CaseScores) -> str:
    """A case and its scores."""
    mean = case.mean
    classes = "     ".join(
        f"{row.name}: {row.note or f'Dice {row.dice:.3f}, HD95 {row.hd95_mm:.2f} mm'}" for row in case.classes
    )
    return f"{case.name}  ·  Dice {mean['dice']:.3f}  ·  HD95 {mean['hd95_mm']:.2f} mm\n{classes}"
