"""Draw what the two resolvers do with two gradients, and how much of the other's direction each of the pair loses.

Everything is computed by `bertswin_ext.optimizers`. Run it with ``python docs/images/conductor_decisions.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bertswin_ext.optimizers import Thresholds, smooth, stronger, zoned

HERE = Path(__file__).parent
RESOLVERS = {"smooth": smooth, "zoned": zoned}
COSINES = {0.5: "no conflict", -0.3: "weak", -0.65: "serious", -0.9: "critical"}
LENGTHS = (1.0, 0.75)
FIRST, SECOND, PLAIN, RESULT = "#1f6fb4", "#e07b28", "#8a8a8a", "#8cc9a1"
DASHED = (0, (3, 2))


class Decision(NamedTuple):
    """Two gradients before and after, as rows (2, 2), and the weights (2,) of the raw ones in the sum of the others."""

    raw: np.ndarray
    resolved: np.ndarray
    weights: list[float]


def decide(resolver: Callable[..., torch.Tensor], cosine: float) -> Decision:
    """Resolve two gradients with an angle of the given cosine between them; the longer one wins."""
    sine = math.sqrt(1 - cosine**2)
    raw = torch.tensor([[LENGTHS[0], 0.0], [LENGTHS[1] * cosine, LENGTHS[1] * sine]], dtype=torch.float64)
    mixings = [torch.eye(2, dtype=torch.float64)]

    def arbitrate(mixing: torch.Tensor, gramian: torch.Tensor, i: int, j: int) -> int:
        mixings.append(mixing)  # the resolver goes on changing it
        return stronger(mixing, gramian, i, j)

    weights = resolver(raw @ raw.T, arbitrate)
    torch.testing.assert_close(mixings[-1].sum(dim=0), weights)
    return Decision(raw.numpy(), (mixings[-1] @ raw).numpy(), weights.tolist())


def shares(resolver: Callable[..., torch.Tensor], cosine: float) -> tuple[float, float]:
    """Shares of the other's direction that winner and loser lose in one decision; nan for one that is dropped."""
    gramian = torch.tensor([[1.0, cosine], [cosine, 1.0]], dtype=torch.float64)
    winner, loser = resolver(gramian, max_conflicts=1).tolist()
    return (0.0, math.nan) if loser == 0 else ((1 - loser) / cosine, (1 - winner) / cosine)


def draw_decisions() -> Figure:
    """Two gradients at four angles, one row per resolver."""
    figure = Figure(figsize=(11.2, 4.7), dpi=120, layout="constrained")
    axes = figure.subplots(len(RESOLVERS), len(COSINES), sharex=True, sharey=True)
    for row, (name, resolver) in zip(axes, RESOLVERS.items(), strict=True):
        row[0].set_ylabel(name, fontsize=12, fontweight="bold")
        for ax, (cosine, zone) in zip(row, COSINES.items(), strict=True):
            _draw_decision(ax, decide(resolver, cosine))
            if name == "smooth":
                ax.set_title(f"cosine {cosine:+.2f}: {zone}".replace("-", "\N{MINUS SIGN}"), fontsize=11)
    figure.legend(handles=_legend(), loc="outside lower center", ncols=6, frameon=False, fontsize=10)
    return figure


def draw_shares() -> Figure:
    """Shares over the cosine, one panel per resolver."""
    figure = Figure(figsize=(9.6, 3.4), dpi=120, layout="constrained")
    axes = figure.subplots(1, len(RESOLVERS), sharey=True)
    cosines = np.linspace(-1, 0.2, 1202)  # without 0
    for ax, (name, resolver) in zip(axes, RESOLVERS.items(), strict=True):
        winner, loser = np.array([shares(resolver, cosine) for cosine in cosines]).T
        ax.plot(cosines, loser, color=SECOND, lw=4.5, alpha=0.55, label="loser")
        ax.plot(cosines, winner, color=FIRST, lw=1.8, label="winner")
        _mark_zones(ax)
        ax.set_title(name, fontsize=12, fontweight="bold", pad=18)
        ax.set_xlabel("cosine between the two gradients")
    axes[1].text(-0.9, 0.5, "loser\ndropped", ha="center", va="center", fontsize=9)
    axes[0].set_ylabel("share of the other's\ndirection that is lost")
    axes[0].legend(loc="center right", frameon=False)
    return figure


def _draw_decision(ax: Axes, decision: Decision) -> None:
    """Raw and resolved gradients, and the sums of both."""
    _arrow(ax, decision.raw.sum(axis=0), PLAIN, width=1.6, style=DASHED)
    _arrow(ax, decision.resolved.sum(axis=0), RESULT, width=4)
    for raw, resolved, color in zip(decision.raw, decision.resolved, (FIRST, SECOND), strict=True):
        _arrow(ax, raw, color, width=1.2, style=DASHED)
        if np.linalg.norm(resolved) > 0:
            _arrow(ax, resolved, color, width=1.9)
    ax.plot(0, 0, "o", color="black", ms=5)
    ax.set(xlim=(-0.85, 1.6), ylim=(-0.15, 1.33), xticks=[], yticks=[], aspect="equal")
    text = "weights {:.2f}, {:.2f}".format(*decision.weights)
    ax.text(0.97, 0.95, text, transform=ax.transAxes, ha="right", va="top", fontsize=9.5, color="0.3")


def _arrow(ax: Axes, tip: np.ndarray, color: str, width: float, style: object = "-") -> None:
    """An arrow from the origin."""
    properties = {"arrowstyle": "-|>", "color": color, "lw": width, "linestyle": style, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", xy=tuple(tip), xytext=(0, 0), arrowprops={**properties, "mutation_scale": 11})


def _legend() -> list[Line2D]:
    """One line per kind of arrow."""
    kinds = {
        "gradient 1 (longer)": (FIRST, DASHED, 1.2),
        "gradient 2": (SECOND, DASHED, 1.2),
        "plain sum": (PLAIN, DASHED, 1.6),
        "gradient 1, resolved": (FIRST, "-", 1.9),
        "gradient 2, resolved": (SECOND, "-", 1.9),
        "conducted sum": (RESULT, "-", 4),
    }
    return [
        Line2D([], [], color=color, ls=style, lw=width, label=name) for name, (color, style, width) in kinds.items()
    ]


def _mark_zones(ax: Axes) -> None:
    """The thresholds, and names of the zones between them."""
    thresholds = Thresholds()
    for threshold in thresholds:
        ax.axvline(threshold, color="0.6", lw=1, ls="--", zorder=0)
    borders = (-1.0, *thresholds, 0.2)
    for left, right, name in zip(borders, borders[1:], reversed(COSINES.values()), strict=False):
        name = name.replace("no conflict", "none")
        ax.text((left + right) / 2, 1.09, name, ha="center", va="bottom", fontsize=9, color="0.35")
    ax.set(xlim=(-1, 0.2), ylim=(-0.05, 1.07), xticks=[-1, *thresholds])


if __name__ == "__main__":
    draw_decisions().savefig(HERE / "conductor_decisions.png")
    draw_shares().savefig(HERE / "conductor_shares.png")
