"""Writing figures, and the figure of the curves of a run."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from bertswin_ext.files import written_whole

__all__ = ["Row", "curves_figure", "ordered_columns", "save_epoch_png", "save_png"]

Row = dict[str, float]

_COLORS = ("#1f6fb4", "#e07b28", "#3a9d5d", "#b5476a", "#7a5fb0", "#8c6d31", "#4aa5b5", "#6b6b6b")
_CONDUCTOR = {
    "cosine": "cosine of gradients",
    "norm": "norm of gradients",
    "weight": "weight of gradients",
    "wins": "conflicts won per step",
}
_LOG_FROM = 3.0  # ratio of the largest to the smallest value from which a logarithmic axis reads better


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file, whole or not at all."""
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", facecolor=figure.get_facecolor())


def save_epoch_png(figure: Figure, folder: Path, epoch: int | None) -> None:
    """Write ``latest.png``, and keep a copy of it by the epoch's name if there is one."""
    latest = folder / "latest.png"
    save_png(figure, latest)
    if epoch is not None:
        with written_whole(folder / f"epoch_{epoch:04d}.png") as temporary:
            shutil.copyfile(latest, temporary)


def curves_figure(rows: Sequence[Row], title: str = "") -> Figure:
    """Draw the rows of ``CurvesHandler``: losses, other validation metrics, learning rate, conductor.

    Args:
        rows: one dictionary per epoch; panels without data are left out, and of the conductor's those that one loss
            alone would give.
        title: title of the figure.

    Returns:
        A figure with an Agg canvas.

    Raises:
        ValueError: When there is no row.
    """
    if not rows:
        raise ValueError("`rows` must hold at least one epoch, got none. Draw after the first epoch.")
    panels = _panels(ordered_columns(rows))
    per_line = 2 if len(panels) == 4 else min(len(panels), 3)
    lines = -(-len(panels) // per_line)
    figure = Figure(figsize=(4.4 * per_line, 3.0 * lines + 0.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for index, (name, columns) in enumerate(panels.items()):
        _draw_panel(figure.add_subplot(lines, per_line, index + 1), name, columns, rows)
    if title:
        figure.suptitle(title, fontsize=11, fontweight="bold")
    return figure


def ordered_columns(rows: Sequence[Row]) -> list[str]:
    """Return all columns of all rows: counters, training losses, learning rate, seconds, validation."""
    found = list(dict.fromkeys(name for row in rows for name in row))
    groups = ("epoch", "iteration", "train_loss", "train_", "learning_rate", "seconds", "conductor/", "")
    return sorted(found, key=lambda name: next(i for i, group in enumerate(groups) if name.startswith(group)))


def _panels(columns: Sequence[str]) -> dict[str, list[str]]:
    """Group the columns into panels; a validation metric named like a loss term shares the panel of the terms."""
    terms = {name.removeprefix("train_") for name in columns if name.startswith("train_")} - {"loss"}
    panels: dict[str, list[str]] = {"loss": [], "loss terms": []}
    for name in columns:
        split, _, base = name.partition("_")
        if split in ("train", "val") and base in terms:
            panels["loss terms"].append(name)
        elif name == "train_loss" or (split == "val" and "loss" in base):
            panels["loss"].append(name)
        elif split == "val":
            panels[name] = [name]
    panels["learning rate"] = ["learning_rate"]
    for kind, title in _CONDUCTOR.items():
        panels[title] = [name for name in columns if name.startswith(f"conductor/{kind}/")]
    if len(panels[_CONDUCTOR["norm"]]) < 2:
        for title in _CONDUCTOR.values():
            panels[title] = []
    return {name: members for name, members in panels.items() if members}


def _draw_panel(axes: Axes, name: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Draw some columns over the epochs; in the panel of the terms validation is dashed."""
    bases = list(dict.fromkeys(column.partition("_")[2] if name == "loss terms" else column for column in columns))
    for column in columns:
        base = column.partition("_")[2] if name == "loss terms" else column
        points = [(row["epoch"], row[column]) for row in rows if column in row]
        axes.plot(
            *zip(*points, strict=True),
            label=column.rpartition("/")[2].replace("_", " "),
            color=_COLORS[bases.index(base) % len(_COLORS)],
            linestyle="--" if name == "loss terms" and column.startswith("val_") else "-",
            marker="o" if len(points) <= 30 else None,
            markersize=3,
            linewidth=1.5,
        )
    axes.set_xlim(rows[0]["epoch"] - 0.5, rows[-1]["epoch"] + 0.5)
    _dress_panel(axes, name.replace("_", " "), len(columns))
    _scale_panel(axes, name, [row[column] for row in rows for column in columns if column in row])


def _dress_panel(axes: Axes, title: str, lines: int) -> None:
    """Set title, grid, frame and legend."""
    axes.set_title(title, fontsize=10, loc="left", fontweight="bold")
    axes.set_xlabel("epoch", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    axes.tick_params(labelsize=8, color="#888888")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#888888")
    axes.grid(alpha=0.25, linewidth=0.6)
    if lines > 1:
        axes.legend(fontsize=8, frameon=False)


def _scale_panel(axes: Axes, name: str, values: Sequence[float]) -> None:
    """Use a logarithmic axis for losses that are positive and spread, readable numbers everywhere."""
    finite = [value for value in values if math.isfinite(value)]
    if name == "learning rate":
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.1e}" if value else "0"))
    elif name.startswith("loss") and finite and min(finite) > 0 and max(finite) >= _LOG_FROM * min(finite):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
