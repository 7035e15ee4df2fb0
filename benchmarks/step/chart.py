"""The chart of a pre-training step: seconds of its parts, by method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from step.arms import SWIN
from step.figures import Group, parts_of, size_name
from step.rows import PARTS, Row

COLORS = dict(zip(PARTS, ("#1f6fb4", "#8dbbe0", "#3a9d5d", "#e07b28", "0.5"), strict=True))
LABELS = dict(zip(PARTS, ("forward", "loss", "backward", "conflicts decided", "optimizer"), strict=True))
BAR_INCHES, ROOM = 0.24, 1.22


def draw_steps(groups: Sequence[Group], path: Path) -> None:
    """A panel for each machine and size; bars of milliseconds for one volume."""
    counts = [sum(len(group.arms(dtype)) for dtype in group.dtypes) for group in groups]
    height = sum(counts) * BAR_INCHES + 0.75 * len(groups) + 0.6
    figure = Figure(figsize=(9.6, height), dpi=120, layout="constrained")
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=[count + 1 for count in counts])[:, 0]
    for panel, group in zip(panels, groups, strict=True):
        _draw_group(panel, group)
    handles = [panels[0].barh(0, 0, color=COLORS[part]) for part in PARTS]
    figure.legend(handles, LABELS.values(), loc="outside lower center", ncols=len(PARTS), frameon=False, fontsize=9.5)
    figure.savefig(path)


def _draw_group(panel: Axes, group: Group) -> None:
    """Bars of one machine and size, the slow one of Swin UNETR cut off where it would dwarf the others."""
    bars = [(arm, dtype, group.of(arm, dtype)) for dtype in group.dtypes for arm in group.arms(dtype)]
    totals = {(arm, dtype): 1000 * _typical(rows) for arm, dtype, rows in bars}
    limit = ROOM * max(total for (arm, _), total in totals.items() if arm != SWIN)
    for place, (arm, dtype, rows) in enumerate(bars):
        _draw_bar(panel, place, rows, min(totals[arm, dtype], limit), totals[arm, dtype])
    panel.set(xlim=(0, limit), ylim=(len(bars) - 0.4, -0.6), xlabel="ms for a volume")
    panel.set_yticks(range(len(bars)), [f"{arm}, {dtype}" for arm, dtype, _ in bars], fontsize=8.5)
    panel.set_title(f"{size_name(group.size)}, {group.machine}", fontsize=10.5, fontweight="bold", loc="left")
    panel.grid(axis="x", color="0.92")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _draw_bar(panel: Axes, place: int, rows: Sequence[Row], end: float, total: float) -> None:
    """Parts one after the other, and their sum in figures."""
    start = 0.0
    for part, seconds in zip(PARTS, parts_of(rows), strict=True):
        width = 1000 * seconds / rows[0].batch
        panel.barh(place, width, 0.72, left=start, color=COLORS[part])
        start += width
    is_cut = end < total
    figures = f"{total:.0f}" if total >= 100 else f"{total:.3g}"
    text, side = (f"cut off, {figures} ", "right") if is_cut else (f" {figures}", "left")
    panel.text(end, place, text, ha=side, va="center", fontsize=8.5, color="white" if is_cut else "0.2")


def _typical(rows: Sequence[Row]) -> float:
    return sum(parts_of(rows)) / rows[0].batch
