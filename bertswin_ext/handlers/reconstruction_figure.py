"""The figure of what a masked autoencoder saw and what it made of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange, repeat
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from bertswin_ext.handlers.engine_values import check_positive

__all__ = ["blank_masked", "check_range", "check_spacing", "reconstruction_figure"]

_COLUMNS = ("original", "visible", "reconstruction", "visible + predicted")
# plane: fixed axis, letters at the left and right and at the lower and upper edge (RAS axes)
_PLANES = {"sagittal": (0, "PA", "IS"), "coronal": (1, "LR", "IS"), "axial": (2, "LR", "PA")}
_BACKGROUND, _TEXT, _HIDDEN, _NOT_A_NUMBER = "#14161a", "#e6e8eb", "#4b5c7a", "#a02c2c"
_PANEL, _LEFT, _TITLE, _HEAD, _GAP = 1.9, 0.26, 0.3, 0.24, 0.04  # inches


def blank_masked(image: torch.Tensor, masked: torch.Tensor, patch_size: int, value: float) -> torch.Tensor:
    """Fill the voxels of masked tokens with one value.

    Args:
        image: volumes.
        masked: True for tokens that are hidden from the encoder, in C order of the token grid.
        patch_size: edge of a token in voxels.
        value: what masked voxels become.

    Shape:
        - image: (b, c, i, j, k)
        - masked: (b, n) with n = gi * gj * gk, gi = i / patch_size
        - output: (b, c, i, j, k)

    Returns:
        A new tensor.

    Raises:
        ValueError: When the image is not made of whole tokens, or ``masked`` has another number of them.

    Example:
        >>> masked = torch.tensor([[True] + 7 * [False]])
        >>> blank_masked(torch.ones(1, 1, 4, 4, 4), masked, patch_size=2, value=0.0).sum().item()
        56.0
    """
    return image.masked_fill(_voxel_mask(image, masked, patch_size), value)


def reconstruction_figure(
    image: torch.Tensor,
    reconstruction: torch.Tensor,
    masked: torch.Tensor,
    patch_size: int,
    display_range: tuple[float, float] = (-1.7, 3.5),
    spacing_mm: float | Sequence[float] = 1.0,
    title: str = "",
) -> Figure:
    """Draw the central planes of volumes: original, visible, reconstruction, and prediction pasted into the visible.

    Rows are sagittal, coronal and axial planes of each volume in RAS axes: superior, or anterior in axial planes, is up
    and the left side of the patient is on the left. Channel 0 is shown.

    Args:
        image: what the network was given.
        reconstruction: its full output.
        masked: True for tokens that were hidden from the encoder, in C order of the token grid.
        patch_size: edge of a token in voxels.
        display_range: values shown as black and white.
        spacing_mm: edge of a voxel, one number or three for i, j, k; only their ratios matter.
        title: title of the figure.

    Shape:
        - image, reconstruction: (b, c, i, j, k)
        - masked: (b, n)

    Returns:
        A figure with an Agg canvas, a few inches wide.

    Raises:
        ValueError: When the shapes do not fit each other, ``display_range`` is not increasing, or ``spacing_mm`` is not
            one or three positive numbers.
    """
    check_range(display_range)
    spacing_mm = check_spacing(spacing_mm)
    if reconstruction.shape != image.shape:
        raise ValueError(
            f"`reconstruction` must have the shape of the image {tuple(image.shape)}, got "
            f"{tuple(reconstruction.shape)}. Pass volumes, not tokens."
        )
    visible = blank_masked(image, masked, patch_size, math.nan)
    pasted = torch.where(_voxel_mask(image, masked, patch_size), reconstruction, image)
    columns = [tensor[:, 0].float().numpy() for tensor in (image, visible, reconstruction, pasted)]
    layout = _Layout([size * mm for size, mm in zip(image.shape[2:], spacing_mm, strict=True)], len(image))
    figure = Figure(figsize=(layout.width, layout.height), dpi=120, facecolor=_BACKGROUND)
    FigureCanvasAgg(figure)
    figure.text(_LEFT / layout.width, 1 - 0.1 / layout.height, title, color=_TEXT, fontsize=10, va="top", weight="bold")
    for sample, hidden in enumerate(masked.float().mean(dim=1).tolist()):
        _draw_heads(figure, layout, sample, hidden)
        for column, volumes in enumerate(columns):
            for plane in _PLANES:
                _draw_plane(figure, layout, (sample, plane, column), volumes[sample], display_range)
    return figure


class _Layout:
    """Where the panels are, in inches from the upper left corner; all planes have one scale."""

    def __init__(self, extent_mm: Sequence[float], samples: int) -> None:
        scale = _PANEL / max(extent_mm)
        i, j, k = (extent * scale for extent in extent_mm)
        self.sizes = {"sagittal": (j, k), "coronal": (i, k), "axial": (i, j)}
        self.column = max(i, j) + _GAP
        self.block = _HEAD + sum(height + _GAP for _, height in self.sizes.values())
        self.width = _LEFT + len(_COLUMNS) * self.column
        self.height = _TITLE + samples * self.block

    def head(self, sample: int) -> float:
        """Return the upper edge of a volume's rows."""
        return _TITLE + sample * self.block

    def box(self, sample: int, plane: str, column: int) -> tuple[float, float, float, float]:
        """Return left, bottom, width, height of a panel in fractions of the figure."""
        above = list(_PLANES)[: list(_PLANES).index(plane)]
        width, height = self.sizes[plane]
        left = _LEFT + column * self.column + (self.column - _GAP - width) / 2
        top = self.head(sample) + _HEAD + sum(self.sizes[name][1] + _GAP for name in above)
        return left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height


def _draw_heads(figure: Figure, layout: _Layout, sample: int, hidden: float) -> None:
    """Write the names of columns and rows of one volume."""
    for column, name in enumerate(_COLUMNS):
        text = f"{name} ({1 - hidden:.0%})" if name == "visible" else name
        x = (_LEFT + (column + 0.5) * layout.column - _GAP / 2) / layout.width
        y = 1 - (layout.head(sample) + 0.6 * _HEAD) / layout.height
        figure.text(x, y, text, color=_TEXT, fontsize=9, ha="center", va="center")
    for plane in _PLANES:
        _, bottom, _, height = layout.box(sample, plane, 0)
        x = 0.5 * _LEFT / layout.width
        figure.text(x, bottom + height / 2, plane, color=_TEXT, fontsize=9, rotation=90, ha="center", va="center")


def _draw_plane(
    figure: Figure,
    layout: _Layout,
    place: tuple[int, str, int],
    volume: NDArray[np.float32],
    display_range: tuple[float, float],
) -> None:
    """Draw the central plane of a volume; the first column carries the letters of the directions."""
    _, plane, column = place
    axis, horizontal, vertical = _PLANES[plane]
    axes = figure.add_axes(layout.box(*place))
    axes.set_axis_off()
    colors = colormaps["gray"].with_extremes(bad=_HIDDEN if _COLUMNS[column] == "visible" else _NOT_A_NUMBER)
    pixels = volume.take(volume.shape[axis] // 2, axis=axis).T
    low, high = display_range
    axes.imshow(np.ma.masked_invalid(pixels), cmap=colors, vmin=low, vmax=high, origin="lower", aspect="auto")
    if column == 0:
        edges = ((0.02, 0.5), (0.98, 0.5), (0.5, 0.02), (0.5, 0.98))
        aligned = (("left", "center"), ("right", "center"), ("center", "bottom"), ("center", "top"))
        for letter, (x, y), (ha, va) in zip(horizontal + vertical, edges, aligned, strict=True):
            text = axes.text(x, y, letter, transform=axes.transAxes, color=_TEXT, fontsize=8, ha=ha, va=va)
            text.set_path_effects([withStroke(linewidth=1.5, foreground=_BACKGROUND)])


def _voxel_mask(image: torch.Tensor, masked: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Spread a token mask over the voxels: (b, n) -> (b, 1, i, j, k)."""
    check_positive("patch_size", patch_size)
    sizes = tuple(image.shape[2:])
    if len(sizes) != 3 or any(size % patch_size for size in sizes):
        raise ValueError(
            f"the image must have shape (b, c, i, j, k) with i, j, k divisible by `patch_size` {patch_size}, got "
            f"{tuple(image.shape)}. Use the patch size of the network."
        )
    gi, gj, gk = (size // patch_size for size in sizes)
    if tuple(masked.shape) != (len(image), gi * gj * gk):
        raise ValueError(
            f"`masked` must have shape (b, n) = {(len(image), gi * gj * gk)} for a token grid of {gi} x {gj} x {gk}, "
            f"got {tuple(masked.shape)}. Use the patch size of the network and one mask per volume."
        )
    grid = rearrange(masked.bool(), "b (gi gj gk) -> b gi gj gk", gi=gi, gj=gj)
    p = patch_size
    return repeat(grid, "b gi gj gk -> b 1 (gi pi) (gj pj) (gk pk)", pi=p, pj=p, pk=p)


def check_range(display_range: Sequence[float]) -> None:
    """Refuse a range that is not increasing."""
    if len(display_range) != 2 or not display_range[0] < display_range[1]:
        raise ValueError(
            f"`display_range` must be two increasing numbers, got {display_range!r}. "
            "Use for example (-1.7, 3.5) for z-scored CT."
        )


def check_spacing(spacing_mm: float | Sequence[float]) -> tuple[float, ...]:
    """Return three numbers for one or three, or refuse what is neither."""
    spacing = (spacing_mm,) * 3 if isinstance(spacing_mm, int | float) else tuple(spacing_mm)
    if len(spacing) != 3 or min(spacing) <= 0:
        raise ValueError(f"`spacing_mm` must be one or three positive numbers, got {spacing_mm!r}. Use 1 for cubes.")
    return spacing
