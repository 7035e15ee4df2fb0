"""A small picture of a scan with its joints, and the histogram of its values."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from nibabel.orientations import aff2axcodes

from bertswin_ext.files import written_whole
from bertswin_ext.geometry import FieldOfView, Floats, moved, spacing_of

__all__ = ["FOV_COLOR", "SIDE_COLORS", "hu_histogram", "side_color", "write_thumbnail"]

SIDE_COLORS = {"left": "#33ccff", "right": "#ff9933"}
"""Colours of the joints, also for those who see red and green alike; all colours are of the picture's palette."""

FOV_COLOR = "#cc99ff"

Box = tuple[Sequence[float], Sequence[float]]
Center = tuple[str | None, Sequence[float]]
Volume = npt.NDArray[Any]

_OTHER_COLOR = "#66cc66"
_BACKGROUND, _TEXT = "#14161a", "#e6e8eb"
_WIDTH, _HEIGHT, _MARGIN, _HEAD, _DPI = 9.0, 3.2, 0.08, 0.22, 100  # inches, but the last
# axis across the picture, axis up, axis cut, letters at the left, right, lower and upper edge
_PLANES = {"axial": (0, 1, 2, "RLPA"), "coronal": (0, 2, 1, "RLIS"), "sagittal": (1, 2, 0, "APIS")}
_BONE_WINDOW_HU = (-600.0, 1800.0)
_FINEST = 600  # samples per axis of a slice: twice the pixels of a panel
_ON_SLICE_MM = 3.0
_SLAB_MM = 1.2  # as thick as a slice is read: the noise of thinner ones hides the bone, and does not compress
_OUTLINE = 160  # samples per axis for the outline of the field of view
_VOXELS_AT_ONCE = 1 << 20
_NEARLY_GREY = 16
_STEPS = np.arange(6, dtype=np.uint8) * 51  # of each of three colours ...
_GREYS = np.rint(np.linspace(0, 255, 256 - 6**3)).astype(np.uint8)  # ... and what a palette of 256 has left for greys


def hu_histogram(volume: Volume, bins: int = 64, low: float = -1100.0, high: float = 3100.0) -> dict[str, list[Any]]:
    """Count the voxels in equal steps of HU; what lies outside counts in the first or the last step.

    Args:
        volume: HU, of any shape and number type; NaN is not counted.
        bins: how many steps, at least 1.
        low: lower end of the first step, in HU.
        high: upper end of the last step, in HU.

    Returns:
        ``{"edges_hu": [bins + 1 floats], "counts": [bins ints]}``. A value on an edge belongs to the step above it.

    Raises:
        ValueError: there is no step, or the range is not increasing.

    Example:
        >>> hu_histogram(np.array([-3000, -1000, 0, 999, 5000]), bins=2, low=-1000, high=1000)
        {'edges_hu': [-1000.0, 0.0, 1000.0], 'counts': [2, 3]}
    """
    if bins < 1 or not low < high:
        raise ValueError(f"A histogram needs `bins` >= 1 and `low` < `high`, got {bins}, {low} and {high}.")
    counts = np.zeros(bins, dtype=np.int64)
    values = volume.reshape(-1)
    for start in range(0, values.size, _VOXELS_AT_ONCE):
        part = values[start : start + _VOXELS_AT_ONCE].astype(np.float32)
        # multiply, then divide: exact for whole HU, so that an edge falls where it is said to be
        steps = (part - np.float32(low)) * np.float32(bins) / np.float32(high - low)
        steps = steps[~np.isnan(steps)] if volume.dtype.kind == "f" else steps
        counts += np.bincount(np.clip(steps, 0, bins - 1).astype(np.intp), minlength=bins)
    return {"edges_hu": np.linspace(low, high, bins + 1).tolist(), "counts": counts.tolist()}


def side_color(joint: str | None) -> str:
    """Colour of a joint in the pictures and in the report.

    Example:
        >>> side_color("left")
        '#33ccff'
    """
    return SIDE_COLORS.get(joint or "", _OTHER_COLOR)


def write_thumbnail(
    path: str | Path,
    volume: Volume,
    affine: npt.ArrayLike,
    centers: Sequence[Center] = (),
    fov: FieldOfView | None = None,
    boxes: Sequence[Box] = (),
) -> None:
    """Write a picture of an axial, a coronal and a sagittal slice in a bone window, 900 pixels wide and up to 320 high.

    The slices pass through the mean of the centres, the sagittal one through the first, or else through the middle. All
    have one scale. They are seen as radiologists are used to: the right side of the patient is on the left, and the
    face looks to the left in the sagittal slice. A centre is a cross where the slice passes within 3 mm of it, and a
    dot where it is only projected. The outline of the field of view is dashed, in the axial slice. Boxes have the
    colour of the centre that lies in them. The same arguments give the same bytes.

    Args:
        path: the PNG file; its folder is made.
        volume: HU.
        affine: voxel to RAS world in mm, (4, 4).
        centers: ``(joint, (x, y, z))`` with joint ``"left"``, ``"right"`` or None, and the point in mm of the world.
        fov: the field of view.
        boxes: ``(start, stop)`` in voxels, half open.

    Shape:
        ``volume`` is (i, j, k), in RAS order.

    Raises:
        ValueError: the volume has not three axes, or the affine says that they are not in RAS order.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_thumbnail(Path(folder) / "a.png", np.zeros((8, 8, 8), dtype=np.int16), np.eye(4))
        ...     (Path(folder) / "a.png").read_bytes()[1:4]
        b'PNG'
    """
    scene = _Scene(volume, np.asarray(affine, dtype=np.float64), centers, fov, boxes)
    colors = _painted(_draw(scene))
    with written_whole(path) as temporary:
        temporary.write_bytes(_as_png(colors))


@dataclass(frozen=True)
class _Scene:
    """What is drawn, in the coordinates of the slices: voxel index times voxel edge, in mm."""

    volume: Volume
    affine: Floats
    centers: Sequence[Center]
    fov: FieldOfView | None
    boxes: Sequence[Box]

    def __post_init__(self) -> None:
        if self.volume.ndim != 3 or 0 in self.volume.shape:
            raise ValueError(f"`volume` must be (i, j, k) with voxels on each axis, got shape {self.volume.shape}.")
        axes = "".join(code or "?" for code in aff2axcodes(self.affine))
        if axes != "RAS":
            raise ValueError(f"`volume` must be in RAS order, its affine says {axes}. Orient it first.")

    @property
    def spacing_mm(self) -> Floats:
        return spacing_of(self.affine)

    @property
    def focus_vox(self) -> npt.NDArray[np.intp]:
        """The voxel through which the slices pass: between the joints, but the sagittal one through the first."""
        size = np.array(self.volume.shape)
        if not self.centers:
            return size // 2
        points = moved(np.linalg.inv(self.affine), [point for _, point in self.centers])
        focus = np.append(points[0, 0], points[:, 1:].mean(axis=0))
        return np.clip(np.rint(focus), 0, size - 1).astype(np.intp)

    def slab(self, cut: int) -> slice:
        """The voxels along an axis that one slice of the picture averages, an odd number about the focus."""
        beside = int(_SLAB_MM / 2 / self.spacing_mm[cut] + 1e-6)
        return slice(max(0, self.focus_vox[cut] - beside), self.focus_vox[cut] + beside + 1)

    def at_mm(self, world_mm: npt.ArrayLike) -> Floats:
        """Points of the world in the coordinates of the slices."""
        return moved(np.linalg.inv(self.affine), world_mm) * self.spacing_mm

    def color_of(self, box: Box) -> str:
        """Colour of the first centre in a box."""
        low, high = np.asarray(box, dtype=np.float64) - 0.5
        for joint, point in self.centers:
            voxel = moved(np.linalg.inv(self.affine), point)
            if (low <= voxel).all() and (voxel <= high).all():
                return side_color(joint)
        return _OTHER_COLOR


def _draw(scene: _Scene) -> Figure:
    """Place the three slices side by side, all in one scale."""
    extent = np.array(scene.volume.shape) * scene.spacing_mm
    across = [extent[axis] for axis, _, _, _ in _PLANES.values()]
    tallest = max(extent[1], extent[2])
    scale = min((_WIDTH - 4 * _MARGIN) / sum(across), (_HEIGHT - _HEAD - _MARGIN) / tallest)
    total = _HEAD + scale * tallest + _MARGIN
    figure = Figure(figsize=(_WIDTH, total), dpi=_DPI, facecolor=_BACKGROUND)
    left = gap = (_WIDTH - scale * sum(across)) / 4
    for plane, (axis, up, _, _) in _PLANES.items():
        width, height = scale * extent[axis], scale * extent[up]
        where = (left / _WIDTH, 1 - (_HEAD + height) / total, width / _WIDTH, height / total)
        _draw_plane(figure.add_axes(where), scene, plane)
        left += width + gap
    return figure


def _draw_plane(axes: Axes, scene: _Scene, plane: str) -> None:
    """Draw one slice and what lies on it."""
    across, up, cut, letters = _PLANES[plane]
    where_mm = moved(scene.affine, scene.focus_vox)[cut]
    axes.set_axis_off()
    axes.set_title(f"{plane}, {'xyz'[cut]} = {where_mm:.0f} mm", color=_TEXT, fontsize=8, pad=3)
    _draw_slice(axes, scene, (across, up, cut))
    for box in scene.boxes:
        _draw_box(axes, scene, box, (across, up))
    if plane == "axial" and scene.fov is not None:
        _draw_fov(axes, scene, scene.fov)
    for joint, point in scene.centers:
        _draw_center(axes, scene, side_color(joint), scene.at_mm(point), (across, up, cut))
    _draw_letters(axes, letters)
    low, high = -0.5 * scene.spacing_mm, (np.array(scene.volume.shape) - 0.5) * scene.spacing_mm
    axes.set(xlim=(high[across], low[across]), ylim=(low[up], high[up]), aspect="auto")


def _draw_slice(axes: Axes, scene: _Scene, plane: tuple[int, int, int]) -> None:
    """Show the voxels of a slice, thinned where the picture has no pixels for them."""
    across, up, cut = plane
    pick: list[Any] = [slice(None, None, max(1, -(-size // _FINEST))) for size in scene.volume.shape]
    steps = np.array([part.step for part in pick])
    pick[cut] = scene.slab(cut)
    values = scene.volume[tuple(pick)].mean(axis=cut, dtype=np.float32)  # across, up: axes keep their order
    low = -0.5 * steps[[across, up]] * scene.spacing_mm[[across, up]]
    high = low + np.array(values.shape) * steps[[across, up]] * scene.spacing_mm[[across, up]]
    axes.imshow(
        values.T,
        cmap="gray",
        vmin=_BONE_WINDOW_HU[0],
        vmax=_BONE_WINDOW_HU[1],
        origin="lower",
        extent=(low[0], high[0], low[1], high[1]),
        interpolation="hanning",
    )


def _draw_box(axes: Axes, scene: _Scene, box: Box, plane: tuple[int, int]) -> None:
    """Outline a box; its edges run between voxels."""
    start, stop = ((np.asarray(corner) - 0.5)[list(plane)] * scene.spacing_mm[list(plane)] for corner in box)
    axes.add_patch(
        Rectangle((start[0], start[1]), *(stop - start), fill=False, edgecolor=scene.color_of(box), linewidth=1.0)
    )


def _draw_fov(axes: Axes, scene: _Scene, fov: FieldOfView) -> None:
    """Outline what the scanner saw of the axial slice: an ellipse if the scanner's axis is tilted against it."""
    size = np.array(scene.volume.shape)
    i, j = (np.linspace(-0.5, n - 0.5, _OUTLINE) for n in size[:2])
    grid = np.stack([*np.meshgrid(i, j), np.full((_OUTLINE, _OUTLINE), scene.focus_vox[2])], axis=-1)
    distances = fov.distances_mm(moved(scene.affine, grid))
    if distances.min() < fov.radius_mm < distances.max():
        where = (i * scene.spacing_mm[0], j * scene.spacing_mm[1], distances)
        axes.contour(*where, levels=[fov.radius_mm], colors=FOV_COLOR, linewidths=1.2, linestyles="dashed")


def _draw_center(axes: Axes, scene: _Scene, color: str, point_mm: Floats, plane: tuple[int, int, int]) -> None:
    """Mark a centre: a cross if it lies on the slice, a dot if it lies before or behind it."""
    across, up, cut = plane
    away_mm = abs(point_mm[cut] - scene.focus_vox[cut] * scene.spacing_mm[cut])
    cross: dict[str, Any] = {"marker": "+", "markersize": 13, "markeredgewidth": 2}
    look = cross if away_mm <= _ON_SLICE_MM else {"marker": "."}
    halo = [withStroke(linewidth=3.5, foreground="#000000a0")]
    axes.plot(point_mm[across], point_mm[up], color=color, path_effects=halo, **look)


def _draw_letters(axes: Axes, letters: str) -> None:
    """Write the sides of the patient at the edges of a slice."""
    places = (("left", "center", 0.01, 0.5), ("right", "center", 0.99, 0.5), ("center", "bottom", 0.5, 0.01))
    for letter, (ha, va, x, y) in zip(letters, (*places, ("center", "top", 0.5, 0.99)), strict=True):
        halo = [withStroke(linewidth=2.5, foreground="black")]
        look: dict[str, Any] = {"color": _TEXT, "fontsize": 8, "weight": "bold", "path_effects": halo}
        axes.text(x, y, letter, ha=ha, va=va, transform=axes.transAxes, **look)


def _painted(figure: Figure) -> npt.NDArray[np.uint8]:
    """The pixels of a figure, RGB (lines, columns, 3)."""
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def _as_png(colors: npt.NDArray[np.uint8]) -> bytes:
    """A PNG file of RGB values (lines, columns, 3) with a palette: half as large as one with every colour."""
    lines, columns, _ = colors.shape
    cube = np.stack(np.meshgrid(_STEPS, _STEPS, _STEPS, indexing="ij"), axis=-1).reshape(-1, 3)
    palette = np.concatenate([cube, np.repeat(_GREYS[:, None], 3, axis=1)])
    filters = np.zeros((lines, 1), dtype=np.uint8)  # one byte before each line: it is not filtered
    pixels = zlib.compress(np.concatenate([filters, _in_palette(colors)], axis=1).tobytes(), 6)
    header = struct.pack(">IIBBBBB", columns, lines, 8, 3, 0, 0, 0)  # 8 bits, with a palette, not interlaced
    chunks = {b"IHDR": header, b"PLTE": palette.tobytes(), b"IDAT": pixels, b"IEND": b""}
    parts = [struct.pack(">I", len(v)) + k + v + struct.pack(">I", zlib.crc32(k + v)) for k, v in chunks.items()]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _in_palette(colors: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Index of the nearest colour: one of the cube, or one of the greys where the three values are nearly the same."""
    wide = colors.astype(np.int32)
    cube = ((wide + 25) // 51) @ np.array([36, 6, 1])
    grey = 6**3 + np.rint(wide[..., 1] * ((len(_GREYS) - 1) / 255)).astype(np.int32)
    return np.where(np.ptp(wide, axis=-1) <= _NEARLY_GREY, grey, cube).astype(np.uint8)
