"""The pictures of the page: fidelity over epochs and costs, ratios to the baseline, reconstructions side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator
from numpy.typing import NDArray

from fidelity.cells import ratio_text
from fidelity.comparing import Comparison, Goal
from fidelity.curves import Metric, Run, finals
from fidelity.reaching import Ratio, Target

PALETTE = ("#e07b28", "#1f6fb4", "#3a9d5d", "#8a5fb4", "#c2415d", "#2aa7b0", "#a1872b", "#6b6b6b")
"""By place of the arm; from the ninth on it begins anew."""
COST_UNITS = {"epochs": ("epochs", 1.0), "FLOPs": ("PFLOP", 1e15), "seconds": ("hours", 3600.0)}
GRAY = colormaps["gray"].with_extremes(bad="#34507a")
PANEL_INCHES, BAR_INCHES = (4.8, 3.7), 0.3


def colors_of(comparison: Comparison) -> dict[str, str]:
    """One for every arm, the same in all pictures."""
    return {name: PALETTE[place % len(PALETTE)] for place, name in enumerate(comparison.arms)}


# --- fidelity over epochs, FLOPs and seconds ---


def draw_fidelity(comparison: Comparison, metrics: Sequence[Metric], path: Path) -> None:
    """A panel for each metric, over epochs."""
    rows = math.ceil(len(metrics) / 2)
    _draw_panels(comparison, [(metric, "epochs") for metric in metrics], (rows, min(2, len(metrics))), path)


def draw_costs(comparison: Comparison, metric: Metric, path: Path) -> None:
    """One metric over FLOPs and, where they were measured, over seconds."""
    has_seconds = all(comparison.arms[name].seconds for name in comparison.names)
    quantities = ("FLOPs", "seconds") if has_seconds else ("FLOPs",)
    _draw_panels(comparison, [(metric, quantity) for quantity in quantities], (1, len(quantities)), path)


def _draw_panels(
    comparison: Comparison, wanted: Sequence[tuple[Metric, str]], shape: tuple[int, int], path: Path
) -> None:
    """Panels with one legend below."""
    rows, columns = shape
    size = (PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows + 0.6)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, (metric, quantity) in zip(panels, wanted, strict=False):
        _draw_panel(panel, comparison, metric, quantity)
    for panel in panels[len(wanted) :]:
        panel.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2 if columns > 1 else 1, frameon=False, fontsize=9)
    figure.savefig(path)


def _draw_panel(panel: Axes, comparison: Comparison, metric: Metric, quantity: str) -> None:
    """All arms, and the baseline's best."""
    label, size = COST_UNITS[quantity]
    colors = colors_of(comparison)
    for name in comparison.names:
        unit = comparison.cost_of_epoch(name, quantity) / size
        for run in (run for run in comparison.runs if run.arm == name):
            _draw_run(panel, run, metric, unit, colors[name])
        _draw_ends(panel, comparison, name, metric, unit)
    best = comparison.best(comparison.baseline, metric).value
    panel.axhline(best, color=colors[comparison.baseline], lw=1.1, ls="--", label=f"best of {comparison.baseline}")
    panel.set(xscale="log", xlabel=label, ylim=_limits(comparison, metric))
    panel.set_title(metric.label, fontsize=10.5, fontweight="bold", loc="left")
    panel.grid(color="0.92")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    if quantity == "epochs":
        _plain_ticks(panel, sorted({run.epochs for run in comparison.runs}))


def _draw_run(panel: Axes, run: Run, metric: Metric, unit: float, color: str) -> None:
    """The curve of one training, faint."""
    points = [(unit * point.epoch, point.values[metric.key]) for point in run.points if metric.key in point.values]
    if points:
        panel.plot(*zip(*points, strict=True), color=color, lw=0.7, alpha=0.28)


def _draw_ends(panel: Axes, comparison: Comparison, name: str, metric: Metric, unit: float) -> None:
    """Mean, smallest and largest over the seeds at the ends of the trainings."""
    runs, color = comparison.runs, colors_of(comparison)[name]
    ends = sorted({run.epochs for run in runs if run.arm == name and run.is_finished})
    values = [finals(runs, name, metric, epochs) for epochs in ends]
    places = [unit * epochs for epochs in ends]
    panel.fill_between(places, [min(v) for v in values], [max(v) for v in values], color=color, alpha=0.2, lw=0)
    panel.plot(places, [np.mean(v) for v in values], color=color, marker="o", ms=4.5, lw=1.8, label=name)


def _limits(comparison: Comparison, metric: Metric) -> tuple[float, float]:
    """So much of the axis that the ends of trainings are seen, but for failed ones; curves may begin outside."""
    values = [run.final(metric) for run in comparison.runs if run.is_finished]
    finite = [value for value in values if math.isfinite(value) and not metric.gain(value) < 0] or [0.0]
    low, high = min(finite), max(finite)
    room = (high - low) or abs(high) or 1.0
    below, above = (0.35, 0.08) if metric.larger_is_better else (0.08, 0.35)
    return low - below * room, high + above * room


def _plain_ticks(panel: Axes, epochs: Sequence[int]) -> None:
    """Horizons that are there, as plain numbers; those that would touch their neighbour are left out."""
    shown = [epochs[-1]]
    for value in reversed(epochs[:-1]):
        if shown[-1] / value > 1.4:
            shown.append(value)
    panel.set_xticks(shown, [f"{value}" for value in shown])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_minor_formatter(NullFormatter())


# --- ratios ---


def draw_ratios(comparison: Comparison, metric: Metric, goals: Sequence[Goal], path: Path) -> None:
    """Bars of how many times fewer epochs, FLOPs and seconds, with intervals and goals."""
    wanted = charted(comparison, metric)
    quantities = [one for one in COST_UNITS if _is_known(comparison, one)]
    bars = len(comparison.others) * len(wanted)
    height = bars * BAR_INCHES + 0.3 * len(comparison.others) + 1.4
    figure = Figure(figsize=(4.0 * len(quantities) + 2.2, height), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(quantities), sharey=True, squeeze=False)[0]
    for panel, quantity in zip(panels, quantities, strict=True):
        _draw_bars(panel, comparison, metric, wanted, quantity)
        _draw_goals(panel, [goal for goal in goals if goal.quantity == quantity])
    figure.suptitle(f"how many times fewer than {comparison.baseline}, {metric.label}", fontsize=10.5)
    figure.savefig(path)


def charted(comparison: Comparison, metric: Metric) -> list[Target]:
    """Most of the baseline's gain, and all of it seed by seed; that of the mean is a bound more often than not."""
    return [target for target in comparison.targets(metric) if target.by_seed is not None or 0.9 <= target.share < 1]


def _is_known(comparison: Comparison, quantity: str) -> bool:
    return all(math.isfinite(comparison.cost_of_epoch(name, quantity)) for name in comparison.names)


def _draw_bars(panel: Axes, comparison: Comparison, metric: Metric, wanted: Sequence[Target], quantity: str) -> None:
    """One group for each arm, one bar for each target."""
    ticks: dict[float, str] = {}
    ends = [1.0]
    for group, name in enumerate(comparison.others):
        for place, target in enumerate(wanted):
            y = group * (len(wanted) + 1) + place
            ratio = comparison.ratio(name, metric, target, quantity)
            ends += [end for end in ratio[1:4] if math.isfinite(end)]
            ticks[y] = f"{name}: {target.label}" if place == 0 else target.label
            _draw_bar(panel, y, ratio, colors_of(comparison)[name], 1 - 0.25 * (len(wanted) - 1 - place))
    panel.set_yticks(list(ticks), list(ticks.values()), fontsize=8.5)
    panel.set(xscale="log", ylim=(max(ticks) + 0.7, -0.7), xlim=(min(ends) / 1.5, max(*ends, 2.0) * 4.5))
    panel.set_title(f"fewer {quantity}", fontsize=10.5, fontweight="bold", loc="left")
    panel.axvline(1, color="0.3", lw=1)
    panel.grid(axis="x", color="0.92")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    shown = [value for value in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if min(ends) / 1.5 <= value <= max(ends) * 3]
    panel.set_xticks(shown, [f"{value:g}" for value in shown])
    panel.xaxis.set_minor_formatter(NullFormatter())


def _draw_bar(panel: Axes, y: float, ratio: Ratio, color: str, strength: float) -> None:
    """From 1 to the ratio, with its interval; bounds are hatched and what was not reached is only told."""
    end = 1.0
    if ratio.kind == "at least" or (ratio.kind == "exact"):
        hatch = {"hatch": "////", "facecolor": "white", "edgecolor": color} if ratio.kind == "at least" else {}
        panel.barh(y, ratio.value - 1, 0.8, left=1, alpha=strength, **(hatch or {"color": color}))
        end = max(1.0, ratio.value)
    if ratio.has_interval:
        panel.plot([ratio.low, ratio.high], [y, y], color="0.2", lw=1.3, marker="|", ms=5)
        end = max(end, ratio.high)
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
    panel.annotate(ratio_text(ratio), (end, y), (6, 0), textcoords="offset points", va="center", fontsize=8, bbox=paper)


def _draw_goals(panel: Axes, goals: Sequence[Goal]) -> None:
    """Dashed lines of what was asked for."""
    for value in sorted({goal.at_least for goal in goals}):
        panel.axvline(value, color="0.35", lw=1, ls="--", zorder=0)
        panel.text(value, -0.68, f"{value:g}", ha="center", va="bottom", fontsize=8, color="0.35")


# --- reconstructions ---


class Example(NamedTuple):
    """A held-out volume and what the arms make of it, as arrays (i, j, k).

    Attributes:
        name: of the volume.
        original: voxels.
        masked: the same with NaN in masked patches, which are drawn in blue.
        reconstructions: composed volumes by arm.
    """

    name: str
    original: NDArray[np.floating]
    masked: NDArray[np.floating]
    reconstructions: Mapping[str, NDArray[np.floating]]


def draw_reconstructions(examples: Sequence[Example], path: Path) -> None:
    """A row for each volume: original, what the network sees, and what each arm makes of it; middle slice across k."""
    arms = list(dict.fromkeys(name for example in examples for name in example.reconstructions))
    titles = ["original", "input", *arms]
    figure = Figure(figsize=(1.75 * len(titles), 1.75 * len(examples) + 0.4), dpi=120, layout="constrained")
    panels = figure.subplots(len(examples), len(titles), squeeze=False)
    for row, example in zip(panels, examples, strict=True):
        _draw_example(row, example, arms)
    for panel, title in zip(panels[0], titles, strict=True):
        panel.set_title(fill(title, 18), fontsize=8)
    figure.savefig(path)


def _draw_example(panels: Sequence[Axes], example: Example, arms: Sequence[str]) -> None:
    """One volume, all pictures with the same window."""
    low, high = float(example.original.min()), float(example.original.max())
    volumes = [example.original, example.masked, *(example.reconstructions.get(name) for name in arms)]
    for panel, volume in zip(panels, volumes, strict=True):
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
        if volume is not None:
            panel.imshow(_middle(volume), cmap=GRAY, vmin=low, vmax=high, origin="lower", interpolation="nearest")
    panels[0].set_ylabel(example.name, fontsize=8)


def _middle(volume: NDArray[np.floating]) -> NDArray[np.floating]:
    """The middle slice across k, i to the right and j upwards."""
    return np.asarray(volume, dtype=np.float32)[:, :, volume.shape[2] // 2].T
