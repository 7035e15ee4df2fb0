"""What `scaling.py` measures, and the file it writes down what was found in."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bertswin_ext.losses import SubpatchStructureLoss
from bertswin_ext.networks import BertsWinMAE, ViTMAE, bertswin_tiny

ROOT = Path(__file__).parents[2]
PARTS = ("edges", "batch", "tasks", "ranks")
EDGES, WINDOWS, BATCHES = (96, 128, 160, 192, 224), (2, 7), (1, 2, 4)
PATCH, SUBPATCH, TASK_MICRO_BATCHES = 16, 8, 6
VIT: dict[str, Any] = {
    "decoder_hidden_size": 384,
    "decoder_mlp_dim": 512,
    "decoder_num_layers": 4,
    "decoder_num_heads": 12,
    "masking_ratio": 0.75,
}
TOGETHER, APART = "together", "apart"


class Point(NamedTuple):
    """What is measured.

    Attributes:
        part: one of `PARTS`.
        network: "BertsWin", "ViT-MAE" or "demo".
        edge: voxels per axis.
        window: tokens per axis; 0 for global attention.
        width: of a token.
        batch: samples of a micro-batch.
        losses: of the conductor.
        accumulation: "classic" or "stochastic"; in the part ranks, whether the processes train together or apart.
        micro_batches: of a step.
        processes: how many.
    """

    part: str
    network: str
    edge: int
    window: int
    width: int
    batch: int = 1
    losses: int = 1
    accumulation: str = "classic"
    micro_batches: int = 1
    processes: int = 1

    @property
    def samples(self) -> int:
        """Samples of a step, of all processes."""
        return self.batch * self.micro_batches * self.processes


class Cost(NamedTuple):
    """Seconds of a step, those of them after the last backward pass, and bytes at the worst moment."""

    seconds: float
    update_seconds: float
    memory: float


class Row(NamedTuple):
    """A line of the file."""

    point: Point
    number: int
    cost: Cost


def points(parts: Sequence[str], edges: Sequence[int], width: int) -> list[Point]:
    """Everything to measure, in the order of a round."""
    made = {
        "edges": [
            point
            for edge in edges
            for point in (
                *(Point("edges", "BertsWin", edge, w, width) for w in WINDOWS if w <= edge // PATCH),
                Point("edges", "ViT-MAE", edge, 0, width),
            )
        ],
        "batch": [
            Point("batch", *sizes, batch=batch)
            for batch in BATCHES
            for sizes in (("demo", 48, 3, 96), ("BertsWin", 96, 3, width))
        ],
        "tasks": [
            Point("tasks", "demo", 48, 3, 96, 4, losses, kind, TASK_MICRO_BATCHES)
            for losses in (1, 2, 3)
            for kind in ("classic", "stochastic")[: 1 + (losses > 1)]
        ],
        "ranks": [
            Point("ranks", "demo", 48, 3, 96, 4, 3, kind, processes=processes)
            for kind, processes in ((TOGETHER, 1), (TOGETHER, 2), (APART, 2))
        ],
    }
    return [point for part in parts for point in made[part]]


def describe(point: Point) -> str:
    """A point in words."""
    window = f", window {point.window}" if point.window else ""
    many = f", {point.processes} processes {point.accumulation}" if point.part == "ranks" else ""
    losses = f", losses: {point.losses} {point.accumulation}" if point.part == "tasks" else ""
    return (
        f"{point.part}: {point.network} {point.edge}^3, width {point.width}{window}, batch {point.batch}{losses}{many}"
    )


def make_network(point: Point) -> torch.nn.Module:
    """The network of a point."""
    if point.network == "demo":
        return bertswin_tiny()
    heads = 12 if point.width % 12 == 0 else 4
    if point.network == "ViT-MAE":
        sizes = {"hidden_size": point.width, "mlp_dim": 4 * point.width, "num_layers": 12, "num_heads": heads}
        return ViTMAE(1, point.edge, PATCH, **sizes, **VIT)
    return BertsWinMAE(point.edge, PATCH, hidden_size=point.width, num_heads=heads, window_size=point.window)


def make_loss(network: torch.nn.Module) -> SubpatchStructureLoss:
    """The loss of a network's patches."""
    patch = network.patch_size
    return SubpatchStructureLoss(patch if isinstance(patch, int) else patch[0], SUBPATCH, reduction="samples")


def loss_weights(losses: int) -> dict[str, float]:
    """Names and weights of so many losses."""
    return dict.fromkeys(("structure", "brightness", "contrast")[:losses], 1.0)


def losses_of(terms: dict[str, torch.Tensor], losses: int) -> dict[str, torch.Tensor]:
    """The three terms as so many losses; the last has what is left."""
    names = list(loss_weights(losses))
    rest = [term for name, term in terms.items() if name not in names]
    return {name: sum(rest, terms[name]) if name == names[-1] else terms[name] for name in names}


def append_row(path: Path, row: Row) -> None:
    """One more line, and the heading before the first."""
    names = [*Point._fields, "round", *Cost._fields]
    is_new = not path.is_file()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(names)
        writer.writerow([*row.point, row.number, *(f"{value:.6g}" for value in row.cost)])


def read_rows(path: Path) -> list[Row]:
    """All lines."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(_rows(csv.DictReader(file)))


def _rows(lines: Iterator[dict[str, str]]) -> Iterator[Row]:
    texts = ("part", "network", "accumulation")
    for line in lines:
        point = Point(**{name: line[name] if name in texts else int(line[name]) for name in Point._fields})
        yield Row(point, int(line["round"]), Cost(*(float(line[name]) for name in Cost._fields)))
