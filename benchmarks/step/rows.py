"""The rows of ``step.csv``: one for each turn of a method in `pretrain_step.py`."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, get_type_hints

PARTS = ("forward", "loss", "backward", "decide", "update")


class Row(NamedTuple):
    """One turn: seconds of the parts of a step, and what goes with them.

    Attributes:
        device: cpu or cuda.
        machine: its name.
        software: torch, and on a GPU whether TF32 was on.
        size: a key of `arms.SIZES`.
        dtype: float32, or bfloat16 for autocast.
        arm: the method.
        round: from 0; rows of a round are compared with each other.
        batch: volumes of a step.
        forward: seconds, and so on.
        loss: of computing the losses.
        backward: of all backward passes.
        decide: of making one gradient of several.
        update: of the optimizer, and of clearing what it leaves.
        memory_batch: volumes that the memory was measured with.
        memory_mb: most that the process had resident beyond its start; on a GPU the same as tensors_mb.
        tensors_mb: most that tensors took at once.
        kept_mb: what forward pass and losses leave for the backward pass.
        gflop: of forward and backward passes, for one volume; 0 where it was not counted.
        ceiling_gflops: of a large matrix product, in this round.
        parameters: of the network.
        attention: what computes it.
        deviation: between the two BertsWin, relative.
    """

    device: str
    machine: str
    software: str
    size: str
    dtype: str
    arm: str
    round: int
    batch: int
    forward: float
    loss: float
    backward: float
    decide: float
    update: float
    memory_batch: int
    memory_mb: float
    tensors_mb: float
    kept_mb: float
    gflop: float
    ceiling_gflops: float
    parameters: int
    attention: str
    deviation: float

    def step(self) -> float:
        """Seconds of the whole step."""
        return sum(getattr(self, part) for part in PARTS)

    def per_volume(self) -> float:
        """Seconds of a step for one volume."""
        return self.step() / self.batch

    def group(self) -> tuple[str, str]:
        """Rows that are measured together."""
        return self.machine, self.size


_TYPES = get_type_hints(Row)


def read_rows(path: Path) -> list[Row]:
    """All rows of a file; none if there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [Row(**{name: _TYPES[name](row[name]) for name in Row._fields}) for row in csv.DictReader(file)]


def replace_rows(path: Path, rows: Sequence[Row]) -> None:
    """Put rows in the place of those of the same machine and size."""
    groups = {row.group() for row in rows}
    kept = [row for row in read_rows(path) if row.group() not in groups]
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows([_cell(value) for value in row] for row in [*kept, *rows])
    partial.replace(path)


def _cell(value: str | float) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
