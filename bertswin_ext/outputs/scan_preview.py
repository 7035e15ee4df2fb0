"""A picture of a segmented scan: the whole of it, and three planes through every joint."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from bertswin_ext.errors import times
from bertswin_ext.evaluation.case_gallery import gallery_figure
from bertswin_ext.evaluation.case_planes import CasePlanes, cut_planes, most_anatomy
from bertswin_ext.files import written_whole
from bertswin_ext.geometry import Floats, moved, spacing_of
from bertswin_ext.outputs.joint_report import JointReport
from bertswin_ext.outputs.preview_marks import Panels, mark_joint, mark_joints, mark_notice
from bertswin_ext.outputs.scan_projection import projected

__all__ = ["preview_figure", "write_preview"]

_HALF_MM = 27.0  # what is shown to each side of a joint
_LINE, _MOST_WARNINGS = 105, 5
_UPRIGHT_DEG = 1.0

Image = npt.NDArray[np.generic]
Labels = npt.NDArray[np.uint8]


def write_preview(
    path: str | Path,
    image: Image,
    label: Labels,
    affine: npt.ArrayLike,
    joints: Sequence[JointReport],
    class_names: Sequence[str],
    title: str = "",
    warnings: Sequence[str] = (),
) -> None:
    """Write a picture of a segmented scan.

    At the top is the whole scan, seen through from below, from the front and from the side, with the label, the joints,
    how sure the locator is of them and the boxes that were segmented. Below are three planes for each joint, through
    its narrowest place, or through its centre where that is not known, with the outlines of the classes. Pictures are
    along the axes of the voxels; where these are tilted against the world the picture says so. The patient's right is
    on the left. No more than planes and coarse projections of the volumes is copied.

    Args:
        path: the PNG file; its folder is made.
        image: HU.
        label: label map on the same grid.
        affine: voxel to RAS world in mm, (4, 4).
        joints: what is known of the joints; one without a centre is shown where most anatomy is.
        class_names: names of the classes, the background first.
        title: title of the picture.
        warnings: sentences that are written into it; the first five.

    Shape:
        The volumes are (i, j, k), with axes closest to RAS.

    Raises:
        ValueError: the volumes are not on one grid, or their axes are not closest to RAS.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path, scan = Path(folder) / "preview.png", np.zeros((8, 8, 8), dtype=np.int16)
        ...     joints = [JointReport("left", (4.0, 4.0, 4.0))]
        ...     write_preview(path, scan, scan.astype(np.uint8), np.eye(4), joints, ["background", "mandible"])
        ...     path.read_bytes()[1:4]
        b'PNG'
    """
    figure = preview_figure(image, label, affine, joints, class_names, title, warnings)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", facecolor=figure.get_facecolor())


def preview_figure(
    image: Image,
    label: Labels,
    affine: npt.ArrayLike,
    joints: Sequence[JointReport],
    class_names: Sequence[str],
    title: str = "",
    warnings: Sequence[str] = (),
) -> Figure:
    """The picture of `write_preview` as a figure.

    Raises:
        ValueError: the volumes are not on one grid, or their axes are not closest to RAS.
    """
    scan = _Scan(image, label, np.asarray(affine, dtype=np.float64))
    overview = projected(image, label, scan.spacing_mm, "\n".join([scan.described, *_wrapped(warnings)]))
    shown = list(joints) or [JointReport(None, None)]
    views = [scan.joint_view(joint) for joint in shown]
    figure = gallery_figure([overview, *(planes for planes, _ in views)], class_names, title)
    mark_joints(Panels(figure, 0, scan.spacing_mm, overview), scan.affine, shown)
    for number, (joint, (planes, low)) in enumerate(zip(shown, views, strict=True), start=1):
        mark_joint(Panels(figure, number, scan.spacing_mm, planes, low), scan.affine, joint)
    mark_notice(figure)
    return figure


@dataclass(frozen=True)
class _Scan:
    """A scan, its label, and where they are."""

    image: Image
    label: Labels
    affine: Floats

    def __post_init__(self) -> None:
        if self.image.shape != self.label.shape or self.image.ndim != 3:
            raise ValueError(
                f"Image and label must be (i, j, k) on one grid, got {times(self.image.shape)} and "
                f"{times(self.label.shape)} voxels."
            )
        if (np.diagonal(self.affine)[:3] <= 0).any():
            raise ValueError("The preview needs volumes with axes closest to RAS. Orient them with Orientationd first.")

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Edges of a voxel."""
        i, j, k = spacing_of(self.affine).tolist()
        return i, j, k

    @property
    def described(self) -> str:
        """The grid in words."""
        spacing = times(round(mm, 3) for mm in self.spacing_mm)
        tilt = np.degrees(np.arccos(np.clip(np.diagonal(self.affine)[:3] / self.spacing_mm, -1, 1))).max()
        tilted = f", planes along its axes, which are tilted by up to {tilt:.0f} degrees" if tilt > _UPRIGHT_DEG else ""
        return f"whole scan: {times(self.image.shape)} voxels of {spacing} mm{tilted}"

    def joint_view(self, joint: JointReport) -> tuple[CasePlanes, tuple[int, ...]]:
        """Planes through a joint, and the first voxel of what they show."""
        focus = self._focus(joint)
        half = np.inf if focus is None else _HALF_MM / np.array(self.spacing_mm)
        middle = np.array(most_anatomy(self.label)) if focus is None else focus
        low = np.maximum(np.floor(middle - half), 0).astype(int).tolist()
        high = np.minimum(np.ceil(middle + half) + 1, self.image.shape).astype(int).tolist()
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        i, j, k = (middle - low).tolist()
        planes = cut_planes(
            self.image[box], self.label[box], None, self.spacing_mm, (int(i), int(j), int(k)), _heading(joint)
        )
        return planes, tuple(low)

    def _focus(self, joint: JointReport) -> npt.NDArray[np.intp] | None:
        """The voxel of the narrowest place of a joint, or of its centre; None if neither is known."""
        space = joint.space
        if space is not None and space.mandible_mm is not None and space.skull_mm is not None:
            place = (np.array(space.mandible_mm) + np.array(space.skull_mm)) / 2
        elif joint.center_mm is not None:
            place = np.array(joint.center_mm)
        else:
            return None
        index = np.rint(moved(np.linalg.inv(self.affine), place)).astype(np.intp)
        return index.clip(0, np.array(self.image.shape) - 1)


def _heading(joint: JointReport) -> str:
    """What is written above a joint."""
    if joint.center_mm is None:
        return "where most of the anatomy is"
    place = "centre given" if joint.confidence is None else f"found with confidence {joint.confidence:.2f}"
    if joint.space is None:
        return f"{joint.name}: {place}"
    if joint.space.distance_mm is None:
        return f"{joint.name}: {place}, joint space not measured ({joint.space.reason})"
    if joint.space.distance_mm == 0:
        return f"{joint.name}: {place}, the bones touch at the place shown here"
    return f"{joint.name}: {place}, joint space {joint.space.distance_mm:.2f} mm at the narrowest place, shown here"


def _wrapped(warnings: Sequence[str]) -> list[str]:
    """The first warnings as lines of text."""
    lines = [line for text in warnings[:_MOST_WARNINGS] for line in textwrap.wrap(f"Warning: {text}", _LINE)]
    more = len(warnings) - _MOST_WARNINGS
    return [*lines, f"and {more} more in the report"] if more > 0 else lines
