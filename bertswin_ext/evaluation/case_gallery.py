"""Pictures of segmentations: contours in three planes, one line of planes for each case."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from bertswin_ext.evaluation.case_planes import CasePlanes, Plane, cut_planes, largest_error, most_anatomy
from bertswin_ext.files import written_whole

__all__ = ["gallery_figure", "write_gallery", "write_overlay"]

# name, axis across, axis up, letters at the left, right, lower, upper edge; across is drawn reversed: as radiologists
# know it the patient's right is on the left, and the face looks to the left
_PLANES = {2: ("axial", 0, 1, "RLPA"), 1: ("coronal", 0, 2, "RLIS"), 0: ("sagittal", 1, 2, "APIS")}
_WINDOW_HU = (-850.0, 1650.0)  # level 400, width 2500
_CLASS_COLORS = ("#33c6ff", "#ffa62b", "#7ddc6f", "#d48bff", "#ffe14d", "#ff7f9f")
_PREDICTION_COLORS = ("#fff04d", "#ff5ad1", "#ffffff", "#ffffff", "#ffffff", "#ffffff")
_WRONG = to_rgba("#ff2d2d", 0.38)
_BACKGROUND, _TEXT = "#14161a", "#e6e8eb"
_LARGEST, _TEXT_LINE, _LEGEND, _TITLE, _GAP, _MARGIN = 3.1, 0.2, 0.34, 0.36, 0.06, 0.1  # inches
_DPI = 120

Places = npt.NDArray[np.float64]


def write_gallery(path: str | Path, cases: Sequence[CasePlanes], class_names: Sequence[str], title: str = "") -> None:
    """Write a picture with one line of three planes for each case.

    The contour of the reference is solid, that of the prediction dashed, and voxels where they differ are red. All
    planes of a case have one scale in mm. The ticks at the edges are where the other two planes cut.

    Args:
        path: the PNG file; its folder is made.
        cases: what is drawn, from top to bottom.
        class_names: names of the classes, the background first.
        title: title of the picture.

    Raises:
        ValueError: there is no case.
    """
    figure = gallery_figure(cases, class_names, title)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", facecolor=figure.get_facecolor())


def write_overlay(
    path: str | Path,
    image_hu: npt.NDArray[np.generic],
    label: npt.NDArray[np.generic],
    spacing_mm: Sequence[float],
    class_names: Sequence[str],
    reference: npt.NDArray[np.generic] | None = None,
    title: str = "",
) -> None:
    """Write a picture of one segmented volume: three planes through its anatomy, or through the largest error.

    Args:
        path: the PNG file; its folder is made.
        image_hu: HU.
        label: label map; drawn as coloured areas if there is no reference.
        spacing_mm: edges of a voxel along i, j, k.
        class_names: names of the classes, the background first.
        reference: what the label map should have been, if that is known.
        title: written above the planes.

    Shape:
        The volumes are (i, j, k), in RAS order.

    Raises:
        ValueError: the volumes are not (i, j, k) on one grid.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     volume = np.zeros((8, 8, 8), dtype=np.int16)
        ...     write_overlay(Path(folder) / "a.png", volume, volume, (1.0, 1.0, 1.0), ["background", "bone"])
        ...     (Path(folder) / "a.png").read_bytes()[1:4]
        b'PNG'
    """
    found = label.astype(np.uint8)
    truth = None if reference is None else reference.astype(np.uint8)
    if truth is None or truth.shape != found.shape:
        focus = most_anatomy(found)
    else:
        focus = largest_error(found, truth, spacing_mm)
    write_gallery(path, [cut_planes(image_hu, found, truth, spacing_mm, focus, title)], class_names)


def gallery_figure(cases: Sequence[CasePlanes], class_names: Sequence[str], title: str = "") -> Figure:
    """The picture of `write_gallery` as a figure with an Agg canvas.

    Raises:
        ValueError: there is no case.
    """
    if not cases:
        raise ValueError("`cases` must hold at least one case, got none.")
    layout = _Layout(cases, bool(title))
    figure = Figure(figsize=(layout.width, layout.height), dpi=_DPI, facecolor=_BACKGROUND)
    FigureCanvasAgg(figure)
    figure.text(
        _MARGIN / layout.width, 1 - 0.1 / layout.height, title, color=_TEXT, fontsize=11, va="top", weight="bold"
    )
    for number, case in enumerate(cases):
        x, y = layout.head(number)
        figure.text(x, y, case.title, color=_TEXT, fontsize=9, va="top", weight="bold", linespacing=1.4)
        for axis in _PLANES:
            _draw_plane(figure.add_axes(layout.box(number, axis)), case, case.planes[axis])
    _draw_legend(figure, class_names, cases)
    return figure


class _Layout:
    """Where the panels are, in inches from the upper left corner; all planes of a case have one scale."""

    def __init__(self, cases: Sequence[CasePlanes], titled: bool) -> None:
        self.sizes = [_panel_sizes(case) for case in cases]
        widths = [sum(width for width, _ in sizes.values()) + 2 * _GAP for sizes in self.sizes]
        self.width = max(widths) + 2 * _MARGIN
        self.lefts = [(self.width - width) / 2 for width in widths]
        self.heads = [_GAP + _TEXT_LINE * len(case.title.splitlines()) for case in cases]
        heights = [max(height for _, height in sizes.values()) for sizes in self.sizes]
        self.lines = [head + height + _MARGIN for head, height in zip(self.heads, heights, strict=True)]
        self.top = _TITLE if titled else 0.0
        self.height = self.top + sum(self.lines) + _LEGEND

    def head(self, number: int) -> tuple[float, float]:
        """Place of a case's title, in fractions of the figure."""
        top = self.top + sum(self.lines[:number])
        return self.lefts[number] / self.width, 1 - (top + _GAP / 2) / self.height

    def box(self, number: int, axis: int) -> tuple[float, float, float, float]:
        """Left, bottom, width, height of a panel in fractions of the figure."""
        sizes, names = self.sizes[number], list(_PLANES)
        left = self.lefts[number] + sum(sizes[name][0] + _GAP for name in names[: names.index(axis)])
        width, height = sizes[axis]
        bottom = self.height - self.top - sum(self.lines[:number]) - self.heads[number] - height
        return left / self.width, bottom / self.height, width / self.width, height / self.height


def _panel_sizes(case: CasePlanes) -> dict[int, tuple[float, float]]:
    """Width and height of the panels of a case, by the axis that is cut."""
    extents = {plane.axis: _extent_mm(case, plane) for plane in case.planes}
    scale = _LARGEST / max(max(extent) for extent in extents.values())
    return {axis: (extents[axis][0] * scale, extents[axis][1] * scale) for axis in _PLANES}


def _extent_mm(case: CasePlanes, plane: Plane) -> tuple[float, float]:
    """Width and height of a plane."""
    _, across, up, _ = _PLANES[plane.axis]
    columns, lines = plane.image_hu.shape
    return columns * case.spacing_mm[across], lines * case.spacing_mm[up]


def _draw_plane(axes: Axes, case: CasePlanes, plane: Plane) -> None:
    """Draw one plane: image, wrong voxels, contours, letters."""
    name, across, up, letters = _PLANES[plane.axis]
    width, height = _extent_mm(case, plane)
    axes.set_axis_off()
    look: dict[str, Any] = {"origin": "lower", "extent": (0, width, 0, height)}
    low, high = _WINDOW_HU
    axes.imshow(plane.image_hu.T, cmap="gray", vmin=low, vmax=high, interpolation="bilinear", **look)
    axes.imshow(_tinted(plane), interpolation="nearest", **look)
    grid = (
        _centers(case.spacing_mm[across], plane.image_hu.shape[0]),
        _centers(case.spacing_mm[up], plane.image_hu.shape[1]),
    )
    if plane.reference is not None:
        _draw_contours(axes, grid, plane.reference, _CLASS_COLORS, "solid")
        _draw_contours(axes, grid, plane.prediction, _PREDICTION_COLORS, "dashed")
    else:
        _draw_contours(axes, grid, plane.prediction, _CLASS_COLORS, "solid")
    _draw_cuts(axes, case, across, up)
    _draw_letters(axes, letters, name)
    axes.set(xlim=(width, 0), ylim=(0, height), aspect="auto")


def _tinted(plane: Plane) -> npt.NDArray[np.float64]:
    """Transparent colours over the image, RGBA: what is wrong, or without a reference the classes themselves."""
    colors = np.zeros((*plane.prediction.shape, 4))
    if plane.reference is not None:
        colors[plane.prediction != plane.reference] = _WRONG
    else:
        for value in np.unique(plane.prediction[plane.prediction > 0]):
            colors[plane.prediction == value] = to_rgba(_of_class(_CLASS_COLORS, value), 0.25)
    return np.asarray(colors.transpose(1, 0, 2))


def _of_class(colors: Sequence[str], value: int) -> str:
    """The colour of a class; the background has none."""
    return colors[(int(value) - 1) % len(colors)]


def _centers(spacing_mm: float, size: int) -> Places:
    """Places of the voxels of a plane along an axis, with one more beyond each end."""
    return np.asarray((np.arange(-1, size + 1) + 0.5) * spacing_mm)


def _draw_contours(
    axes: Axes,
    grid: tuple[Places, Places],
    label: npt.NDArray[np.uint8],
    colors: Sequence[str],
    style: str,
) -> None:
    """Outline every class; what the volume cuts off is open at its end."""
    for value in np.unique(label[label > 0]):
        mask = np.pad(label == value, 1, mode="edge").T.astype(np.float32)
        axes.contour(*grid, mask, levels=[0.5], colors=_of_class(colors, value), linewidths=1.3, linestyles=style)


def _draw_cuts(axes: Axes, case: CasePlanes, across: int, up: int) -> None:
    """Mark at the edges where the other planes cut."""
    x, y = ((case.focus_vox[axis] + 0.5) * case.spacing_mm[axis] for axis in (across, up))
    look: dict[str, Any] = {"color": _TEXT, "linewidth": 1.0}
    for edge in ((0.0, 0.035), (0.965, 1.0)):
        axes.plot([x, x], edge, transform=axes.get_xaxis_transform(), **look)
        axes.plot(edge, [y, y], transform=axes.get_yaxis_transform(), **look)


def _draw_letters(axes: Axes, letters: str, name: str) -> None:
    """Write the sides of the patient at the edges, and the plane's name into the corner."""
    places = (("left", "center", 0.05, 0.5), ("right", "center", 0.95, 0.5), ("center", "bottom", 0.5, 0.05))
    look: dict[str, Any] = {"color": _TEXT, "transform": axes.transAxes}
    look["path_effects"] = [withStroke(linewidth=2.5, foreground="black")]
    for letter, (ha, va, x, y) in zip(letters, (*places, ("center", "top", 0.5, 0.95)), strict=True):
        axes.text(x, y, letter, ha=ha, va=va, fontsize=8, weight="bold", **look)
    axes.text(0.02, 0.98, name, ha="left", va="top", fontsize=8, **look)


def _draw_legend(figure: Figure, class_names: Sequence[str], cases: Sequence[CasePlanes]) -> None:
    """Name the lines and areas below the panels."""
    compared = any(plane.reference is not None for case in cases for plane in case.planes)
    entries: list[Any] = []
    for value, name in enumerate(class_names[1:], start=1):
        solid, dashed = _of_class(_CLASS_COLORS, value), _of_class(_PREDICTION_COLORS, value)
        entries.append(Line2D([], [], color=solid, label=f"{name}, reference" if compared else name))
        if compared:
            entries.append(Line2D([], [], color=dashed, linestyle="dashed", label=f"{name}, prediction"))
    if compared:
        entries.append(Patch(color=_WRONG, label="differ"))
    figure.legend(handles=entries, loc="lower center", ncols=len(entries), frameon=False, labelcolor=_TEXT, fontsize=8)
