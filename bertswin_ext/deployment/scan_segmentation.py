"""Scans one after the other, where a faulty one does not end the run."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ignite.engine import Engine
from monai.data import MetaTensor
from monai.engines.utils import IterationEvents
from monai.transforms import Transform

from bertswin_ext.deployment.joints_inferer import JointsInferer
from bertswin_ext.deployment.scan_joints import ScanJoint
from bertswin_ext.deployment.stages import counted
from bertswin_ext.errors import fault_of_user

__all__ = ["ScanAttempt", "ScanLabels", "ScanSegmentation"]


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScanLabels:
    """A scan with its label.

    Attributes:
        scan: the scan (1, i, j, k) in HU, axes along RAS.
        label: uint8 (1, i, j, k) on the same voxels.
        stored: the label in the geometry of the file that was read.
        joints: the joints that were segmented.
        boxes_mm: edges of the box that was segmented, for each joint.
    """

    scan: MetaTensor
    label: MetaTensor
    stored: MetaTensor
    joints: list[ScanJoint]
    boxes_mm: list[tuple[float, float, float]]


@dataclass
class ScanAttempt:
    """A scan and what became of it.

    Attributes:
        item: the item of the scan, as it stands in the datalist.
        labels: what was made of it; None if there is an error.
        seconds: what was spent on each stage.
        warnings: all that was logged as a warning meanwhile.
        error: why there is no label.
    """

    item: Mapping[str, Any]
    labels: ScanLabels | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    error: str | None = None

    @property
    def name(self) -> str:
        """The scan's folder and its name in messages."""
        return str(self.item["name"])

    @property
    def place(self) -> str:
        """Where the scan lies, as the user knows it."""
        return str(self.item.get("archive") or self.item["image"])

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Keep what goes wrong in the block, if it is the user's or the file's fault, and what is warned of."""
        keeper = _Keeper(self.warnings)
        logging.getLogger().addHandler(keeper)
        try:
            yield
        except Exception as error:
            fault = fault_of_user(error)
            if fault is None:
                raise
            # the user knows the archive, not where it was unpacked
            self.error = fault.replace(str(self.item["image"]), self.place)
        finally:
            logging.getLogger().removeHandler(keeper)


class ScanSegmentation:
    """What an evaluator does with an item: read, segment, bring back; a user's fault is kept, not raised.

    It is the ``iteration_update`` of `monai.engines.SupervisedEvaluator`; the output of an iteration is a
    `ScanAttempt`.

    Args:
        preprocessing: from an item to the scan with axes along RAS, in HU.
        postprocessing: from the label ``pred`` beside ``image`` to the geometry of the file.

    Example:
        >>> from monai.engines import SupervisedEvaluator
        >>> step = ScanSegmentation(Compose([...]), Compose([...]))  # doctest: +SKIP
        >>> SupervisedEvaluator(device, items, program, iteration_update=step, inferer=inferer)  # doctest: +SKIP
    """

    def __init__(self, preprocessing: Transform, postprocessing: Transform) -> None:
        self.preprocessing = preprocessing
        self.postprocessing = postprocessing

    def __call__(self, engine: Engine, item: Mapping[str, Any]) -> ScanAttempt:
        """Segment one scan.

        Args:
            engine: the evaluator, whose ``inferer`` is a `JointsInferer`.
            item: the scan.
        """
        attempt = engine.state.output = ScanAttempt(item)
        with attempt.guarded(), engine.mode(engine.network):
            self._segment(attempt, engine.inferer, engine.network)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return attempt

    def _segment(self, attempt: ScanAttempt, inferer: JointsInferer, network: Any) -> None:
        """Fill an attempt in."""
        with counted(attempt.seconds, "load"):
            data: dict[Hashable, Any] = self.preprocessing(dict(attempt.item))
        scan = data["image"]
        segmented = inferer.segment(scan[None], network)
        attempt.seconds |= segmented.seconds
        for warning in segmented.warnings:
            logger.warning("%s: %s", attempt.name, warning)
        label = segmented.label[0]
        with counted(attempt.seconds, "restore"):
            stored = self.postprocessing({**data, "pred": label})["pred"]
        attempt.labels = ScanLabels(scan, label, stored, segmented.joints, segmented.boxes_mm)


class _Keeper(logging.Handler):
    """Appends the text of warnings to a list."""

    def __init__(self, into: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.into = into

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one text, once."""
        text = record.getMessage()
        if text not in self.into:
            self.into.append(text)
