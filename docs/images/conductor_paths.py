"""Follow seven ways to combine two gradients through a small problem: a figure and two tables.

Two convex losses in the plane, a steep one and a flat one; plain gradient descent; every method is a resolver of the
same conductor. Needs ``pip install -e ".[mtl]" qpsolvers quadprog``. Run it with
``python docs/images/conductor_paths.py``; the tables go to the standard output.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bertswin_ext.optimizers import GradientConductor, smooth, zoned
from bertswin_ext.optimizers.resolvers import Resolver

HERE = Path(__file__).parent
STARTS = {(-1.0, 4.0): "#1f6fb4", (4.0, -4.0): "#e07b28", (1.5, 1.0): "#3a9d5d"}
STEPS, LEARNING_RATE = 400, 0.02


class Bowl(NamedTuple):
    """A quadratic loss: its minimum, the direction of its first axis in radians, and the curvatures along both."""

    minimum: tuple[float, float]
    direction: float
    curvatures: tuple[float, float]

    def hessian(self) -> torch.Tensor:
        """Second derivatives (2, 2)."""
        cosine, sine = math.cos(self.direction), math.sin(self.direction)
        axes = torch.tensor([[cosine, sine], [-sine, cosine]], dtype=torch.float64)
        return axes.T @ torch.diag(torch.tensor(self.curvatures, dtype=torch.float64)) @ axes

    def at(self, points: torch.Tensor) -> torch.Tensor:
        """Loss at points (..., 2)."""
        offset = points - torch.tensor(self.minimum, dtype=torch.float64)
        return 0.5 * (offset @ self.hessian() * offset).sum(dim=-1)


BOWLS = {"steep": Bowl((-2.0, 0.0), 0.5, (10.0, 0.5)), "flat": Bowl((2.0, 0.0), -0.5, (2.0, 0.1))}


class Point(torch.nn.Module):
    """A model of two numbers."""

    def __init__(self, start: tuple[float, float]) -> None:
        super().__init__()
        self.place = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))


def plain_sum(gramian: torch.Tensor) -> torch.Tensor:
    """All weights one."""
    return torch.ones(len(gramian))


def cagrad(gramian: torch.Tensor, radius: float = 0.5) -> torch.Tensor:
    """CAGrad (arXiv 2110.14048) for two losses, times two: its dual is one number between 0 and 1, found on a grid."""
    mean = torch.full((2,), 0.5, dtype=torch.float64)
    share = torch.linspace(0, 1, 2001, dtype=torch.float64)
    mixes = torch.stack([share, 1 - share], dim=1)
    lengths = (mixes @ gramian * mixes).sum(dim=1).clamp(min=0).sqrt()
    reach = radius * (mean @ gramian @ mean).clamp(min=0).sqrt()
    best = int((mixes @ gramian @ mean + reach * lengths).argmin())
    return 2 * (mean + (reach / lengths[best] * mixes[best] if lengths[best] > 0 else 0.0))


def others() -> dict[str, Resolver]:
    """Methods of other papers; those that average are multiplied by the number of losses, to compare sums."""
    from torchjd.aggregation import MGDAWeighting, PCGradWeighting, UPGradWeighting

    upgrad, mgda = UPGradWeighting(), MGDAWeighting()
    return {
        "PCGrad": PCGradWeighting(),
        "UPGrad": lambda gramian: len(gramian) * upgrad(gramian),
        "CAGrad": cagrad,
        "MGDA": lambda gramian: len(gramian) * mgda(gramian),
    }


def follow(resolver: str | Resolver, start: tuple[float, float]) -> torch.Tensor:
    """Places (steps + 1, 2) on the way from a start."""
    point = Point(start)
    conductor = GradientConductor(point, dict.fromkeys(BOWLS, 1.0), resolver=resolver)
    optimizer = torch.optim.SGD(point.parameters(), lr=LEARNING_RATE)
    places = [point.place.detach().clone()]
    for _ in range(STEPS):
        losses = {name: bowl.at(point.place) for name, bowl in BOWLS.items()}
        if conductor.accumulate(losses) and conductor.conduct():
            optimizer.step()
        places.append(point.place.detach().clone())
    return torch.stack(places)


def table_row(name: str, paths: list[torch.Tensor]) -> str:
    """Both losses at every end, their mean, and the largest rise of a loss above its start."""
    losses = torch.stack([torch.stack([bowl.at(path) for bowl in BOWLS.values()]) for path in paths])
    ends = [f"{steep:.2f} / {flat:.2f}" for steep, flat in losses[:, :, -1].tolist()]
    rise = float((losses - losses[:, :, :1]).max())
    return " | ".join([f"| {name}", *ends, f"{float(losses[:, :, -1].mean()):.2f}", f"{rise:.2f} |"])


def opposed(resolver: Resolver, num_losses: int) -> float:
    """Of 2000 random sets of gradients in space: share where a small step along the result makes a loss worse.

    Of a conflicting pair the longer gradient wins.
    """
    torch.manual_seed(0)
    count = 0
    for _ in range(2000):
        rows = torch.randn(num_losses, 3, dtype=torch.float64)
        result = resolver(rows @ rows.T).to(torch.float64) @ rows
        cosines = (rows @ result) / (rows.norm(dim=1) * result.norm()).clamp(min=1e-12)
        count += bool((cosines < -0.01).any())
    return count / 2000


def draw(paths: dict[str, list[torch.Tensor]]) -> Figure:
    """One panel per method over the contours of the mean loss."""
    figure = Figure(figsize=(11.2, 6.6), dpi=120, layout="constrained")
    axes = figure.subplots(2, 4, sharex=True, sharey=True).flat
    for ax, (name, ways) in zip(axes, paths.items(), strict=False):
        _draw_problem(ax)
        for way, color in zip(ways, STARTS.values(), strict=True):
            ax.plot(*way.T.numpy(), color=color, lw=1.8)
            ax.plot(*way[0].numpy(), "o", color=color, ms=5)
            ax.plot(*way[-1].numpy(), "*", color=color, ms=10, mec="black", mew=0.6, zorder=5)
        ax.set_title(name, fontsize=12, fontweight="bold")
    axes[-1].axis("off")
    axes[-1].legend(handles=_legend(), loc="center", frameon=False, fontsize=10.5, labelspacing=0.9)
    return figure


def _draw_problem(ax: Axes) -> None:
    """Contours, minima, and the best compromises between them."""
    x, y = torch.meshgrid(
        torch.linspace(-3.2, 4.6, 160).double(), torch.linspace(-4.9, 4.6, 180).double(), indexing="xy"
    )
    mean = torch.stack([bowl.at(torch.stack([x, y], dim=-1)) for bowl in BOWLS.values()]).mean(dim=0)
    levels = float(mean.min()) * np.geomspace(1.05, 40, 12)
    ax.contour(x.numpy(), y.numpy(), mean.numpy(), levels, colors="0.85", linewidths=0.9)
    compromises = np.array([_best(share) for share in torch.linspace(-9, 9, 200).sigmoid().tolist()])
    ax.plot(*compromises.T, color="0.6", lw=4, alpha=0.6, solid_capstyle="round")
    for bowl, marker in zip(BOWLS.values(), "sD", strict=True):
        ax.plot(*bowl.minimum, marker, color="0.25", ms=6)
    ax.plot(*_best(0.5), "P", color="0.25", ms=8)
    ax.set(xlim=(-3.2, 4.6), ylim=(-4.9, 4.6), xticks=[], yticks=[], aspect="equal")


def _best(share: float) -> np.ndarray:
    """Minimum of ``share`` x steep + (1 - ``share``) x flat."""
    hessians = torch.stack([bowl.hessian() for bowl in BOWLS.values()])
    minima = torch.tensor([bowl.minimum for bowl in BOWLS.values()], dtype=torch.float64)
    weighted = hessians * torch.tensor([share, 1 - share], dtype=torch.float64)[:, None, None]
    return torch.linalg.solve(weighted.sum(dim=0), (weighted @ minima[..., None]).sum(dim=0)[:, 0]).numpy()


def _legend() -> list[Line2D]:
    """What the marks mean."""
    marks: dict[str, dict[str, Any]] = {
        "start": {"marker": "o", "color": "0.5", "ls": ""},
        f"after {STEPS} steps": {"marker": "*", "color": "0.5", "ls": "", "ms": 10, "mec": "black", "mew": 0.6},
        "minimum, steep loss": {"marker": "s", "color": "0.25", "ls": ""},
        "minimum, flat loss": {"marker": "D", "color": "0.25", "ls": ""},
        "minimum of the mean": {"marker": "P", "color": "0.25", "ls": "", "ms": 8},
        "no loss can fall without\nthe other one rising": {"color": "0.6", "lw": 4, "alpha": 0.6},
        "mean loss": {"color": "0.85", "lw": 1.2},
    }
    return [Line2D([], [], label=label, **style) for label, style in marks.items()]


def main() -> None:
    """Write the figure and the tables."""
    resolvers: dict[str, Resolver] = {"plain sum": plain_sum, "smooth": smooth, "zoned": zoned, **others()}
    # by name, so that the arbiter picks the winners
    in_training = {name: name if name in ("smooth", "zoned") else resolver for name, resolver in resolvers.items()}
    paths = {name: [follow(resolver, start) for start in STARTS] for name, resolver in in_training.items()}
    draw(paths).savefig(HERE / "conductor_paths.png")
    lines = [table_row(name, ways) for name, ways in paths.items()]
    for name, resolver in resolvers.items():
        shares = ["-" if (name, k) == ("CAGrad", 3) else f"{100 * opposed(resolver, k):.0f} %" for k in (2, 3)]
        lines.append(" | ".join([f"| {name}", *shares]) + " |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
