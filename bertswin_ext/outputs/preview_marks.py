"""What is drawn onto the pictures of a scan: joints, boxes, the narrowest place, scales."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from bertswin_ext.evaluation.case_planes import CasePlanes
from bertswin_ext.geometry import Floats, moved
from bertswin_ext.outputs.joint_report import JointReport
from bertswin_ext.outputs.scan_report import DISCLAIMER

__all__ = ["Panels", "mark_joint", "mark_joints", "mark_notice"]

# axis across and axis up, in the order in which a gallery draws the planes of a case
_ACROSS_UP = ((0, 1), (0, 2), (1, 2))
_MARK, _SPACE, _TEXT = "#f4f6f8", "#ff5ad1", "#9aa0a8"
_SCALES_MM = (100.0, 50.0, 20.0, 10.0, 5.0, 2.0, 1.0)
_LONGEST_SCALE = 0.3
_STROKE = [withStroke(linewidth=2.5, foreground="black")]


class Panels(NamedTuple):
    """The three panels of a case and where they are in the volume.

    Attributes:
        figure: a gallery.
        number: which of its cases.
        spacing_mm: edges of a voxel of the volume.
        planes: what is shown.
        low_vox: first voxel of it.
    """

    figure: Figure
    number: int
    spacing_mm: Sequence[float]
    planes: CasePlanes
    low_vox: Sequence[int] = (0, 0, 0)

    def each(self) -> Iterator[tuple[Axes, tuple[int, int]]]:
        """The panels, each with its axes across and up."""
        axes = self.figure.axes[3 * self.number : 3 * self.number + 3]
        return zip(axes, _ACROSS_UP, strict=True)

    def places_mm(self, affine: Floats, points_mm: npt.ArrayLike) -> Floats:
        """World points (..., 3) as places in the panels: mm from the outer face of the first voxel shown."""
        index = moved(np.linalg.inv(affine), points_mm)
        return np.asarray((index - np.array(self.low_vox) + 0.5) * np.array(self.spacing_mm))


def mark_joints(panels: Panels, affine: Floats, joints: Sequence[JointReport]) -> None:
    """Mark centres, boxes and names of all joints on the pictures of the whole scan.

    Args:
        panels: of the scan.
        affine: voxel to RAS world in mm, (4, 4).
        joints: those without a centre are left out.
    """
    for axes, across_up in panels.each():
        for number, joint in enumerate(joints):
            if joint.center_mm is not None:
                place = panels.places_mm(affine, joint.center_mm)[list(across_up)]
                # from the side one joint hides the other: the names of all but the first stand below
                _mark_center(axes, place, joint, across_up, below=number > 0 and across_up == (1, 2))
        _draw_scale(axes)


def mark_joint(panels: Panels, affine: Floats, joint: JointReport) -> None:
    """Mark the centre and the narrowest place of a joint on its planes.

    Args:
        panels: of the joint.
        affine: voxel to RAS world in mm, (4, 4).
        joint: what is known of it.
    """
    space = joint.space
    for axes, across_up in panels.each():
        if joint.center_mm is not None:
            x, y = panels.places_mm(affine, joint.center_mm)[list(across_up)]
            axes.plot([x], [y], "+", color=_MARK, markersize=7, markeredgewidth=1.2, path_effects=_STROKE)
        if space is not None and space.mandible_mm is not None and space.skull_mm is not None:
            ends = panels.places_mm(affine, [space.mandible_mm, space.skull_mm])[:, list(across_up)]
            _draw_space(axes, ends)
        _draw_scale(axes)


def mark_notice(figure: Figure) -> None:
    """Write at the bottom that this is no medical device."""
    figure.text(0.99, 0.008, DISCLAIMER, color=_TEXT, fontsize=7, ha="right", va="bottom")


def _mark_center(axes: Axes, place: Floats, joint: JointReport, across_up: tuple[int, int], below: bool) -> None:
    """A centre with its box and its name."""
    x, y = place.tolist()
    axes.plot([x], [y], "o", color=_MARK, markersize=3.5, markeredgecolor="black", markeredgewidth=0.8)
    sure = "given" if joint.confidence is None else f"{joint.confidence:.2f}"
    look: dict[str, Any] = {"color": _MARK, "fontsize": 7, "ha": "center", "va": "top" if below else "bottom"}
    axes.annotate(
        f"{joint.joint or 'joint'} {sure}",
        (x, y),
        xytext=(0, -4 if below else 4),
        textcoords="offset points",
        clip_on=True,
        path_effects=_STROKE,
        **look,
    )
    if joint.box_mm is not None:
        width, height = (joint.box_mm[axis] for axis in across_up)
        corner = (x - width / 2, y - height / 2)
        axes.add_patch(Rectangle(corner, width, height, fill=False, color=_MARK, linewidth=0.9, linestyle=(0, (3, 2))))


def _draw_space(axes: Axes, ends: Floats) -> None:
    """The line between the nearest points of the bones."""
    look: dict[str, Any] = {"color": _SPACE, "path_effects": [withStroke(linewidth=3.0, foreground="black")]}
    axes.plot(*ends.T, linewidth=1.6, solid_capstyle="round", **look)
    axes.plot(*ends.T, "o", color=_SPACE, markersize=3.0)


def _draw_scale(axes: Axes) -> None:
    """A bar of a round length in the lower right corner; mm grow to the left."""
    width = abs(float(np.subtract(*axes.get_xlim())))
    length = next((mm for mm in _SCALES_MM if mm <= _LONGEST_SCALE * width), _SCALES_MM[-1])
    start, height = 0.04 * width, 0.04
    look: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "path_effects": _STROKE, "color": _MARK}
    axes.plot([start, start + length], [height, height], linewidth=2.0, solid_capstyle="butt", **look)
    axes.text(start + length / 2, height + 0.02, f"{length:g} mm", fontsize=7, ha="center", va="bottom", **look)
