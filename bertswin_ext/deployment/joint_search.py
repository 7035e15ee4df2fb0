"""Which joints of a scan to work on: those that are named, else those that the locator finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple, Protocol

from monai.data import MetaTensor

from bertswin_ext.deployment.joint_finder import FoundJoint
from bertswin_ext.deployment.scan_joints import ScanJoint, noted_joints
from bertswin_ext.transforms.volume_grid import grid_of

__all__ = ["ASK_FOR_PLACES", "Finder", "JointSearch", "JointsOfScan"]

ASK_FOR_PLACES = (
    "Give the places, in mm in the RAS world: --joints \"{'right': [x, y, z], 'left': [x, y, z]}\" for one scan, or "
    "`joints` in a datalist or a request."
)


class Finder(Protocol):
    """What finds joints, a `JointFinder`."""

    min_confidence: float

    def candidates(self, scan: MetaTensor) -> Sequence[FoundJoint]:
        """The likeliest places."""


class JointsOfScan(NamedTuple):
    """The joints of a scan.

    Attributes:
        joints: those to work on.
        warnings: those that were seen, but not surely enough.
    """

    joints: list[ScanJoint]
    warnings: list[str]


class JointSearch:
    """The joints that `NoteJointsd` has noted of a scan; if there are none, those that are found with confidence.

    The locator is loaded when the first scan without joints comes, so that named joints need none.

    Args:
        load_finder: gives the `JointFinder`, see `load_joint_finder`.

    Raises:
        ValueError: when called: no joint is named, and none is sure enough, or the locator cannot be loaded.

    Example:
        >>> import torch
        >>> scan = MetaTensor(torch.zeros(1, 8, 8, 8), meta={"joints": [ScanJoint("left", (4.0, 4.0, 4.0))]})
        >>> JointSearch(load_finder=None)(scan).joints[0].joint
        'left'
    """

    def __init__(self, load_finder: Callable[[], Finder] | None) -> None:
        self.load_finder = load_finder

    def __call__(self, scan: MetaTensor) -> JointsOfScan:
        """The joints of a scan (1, i, j, k) in HU, axes along RAS."""
        named = noted_joints(scan)
        if named:
            return JointsOfScan(named, [])
        seen = list(self.finder.candidates(scan))
        sure = [ScanJoint(*joint) for joint in seen if joint.confidence >= self.finder.min_confidence]
        unsure = [_in_words(joint) for joint in seen if joint.confidence < self.finder.min_confidence]
        if not sure:
            guesses = f" (best guesses: {'; '.join(unsure)})" if unsure else ""
            raise ValueError(
                f"{grid_of(scan).name}: no joint found with a confidence of {self.finder.min_confidence:g}{guesses}. "
                f"{ASK_FOR_PLACES}"
            )
        return JointsOfScan(sure, [f"left out, too uncertain: {guess}" for guess in unsure])

    @cached_property
    def finder(self) -> Finder:
        """What finds joints.

        Raises:
            ValueError: there is none, or it cannot be loaded.
        """
        if self.load_finder is None:
            raise ValueError(f"no joint is named, and none is looked for. {ASK_FOR_PLACES}")
        try:
            return self.load_finder()
        except ValueError as error:
            reason = "no joint is named, and the locator cannot be loaded"
            raise ValueError(f"{reason}: {error} {ASK_FOR_PLACES}") from error


def _in_words(joint: FoundJoint) -> str:
    """A joint that was found."""
    place = [round(number, 1) for number in joint.center_mm]
    return f"{joint.joint} joint at {place} mm, confidence {joint.confidence:.2f}"
