"""Figures of a pre-training step from the rows of ``step.csv``: ratios round by round, work, memory."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from step.arms import OURS, PLAIN, SIZES, VIT, arm_names, eager_name, yardstick
from step.rows import PARTS, Row

FLOAT32, BFLOAT16 = "float32", "bfloat16"

# TFLOP/s of dense bfloat16 products by the makers' data sheets; the first name that a card's contains counts
DATA_SHEET = {"H100 PCIe": 756.0, "H100": 989.0, "H200": 989.0, "A100": 312.0}


class Group:
    """What was measured together: a machine, a size, several methods and types.

    Args:
        rows: all of one machine and size.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)
        self.device, self.machine, self.size = rows[0].device, rows[0].machine, rows[0].size
        self.dtypes = list(dict.fromkeys(sorted((row.dtype for row in rows), key=(FLOAT32, BFLOAT16).index)))

    def of(self, arm: str, dtype: str) -> list[Row]:
        """Turns of a method, by round."""
        found = [row for row in self.rows if (row.arm, row.dtype) == (arm, dtype)]
        return sorted(found, key=lambda row: row.round)

    def arms(self, dtype: str) -> list[str]:
        """Methods that there are, in their order."""
        return [name for name in arm_names(SIZES[self.size], compiled=True) if self.of(name, dtype)]

    def quotients(
        self, own: tuple[str, str], other: tuple[str, str], value: Callable[[Row], float] = Row.per_volume
    ) -> list[float]:
        """A value of one method and type over that of another, round by round."""
        others = {row.round: row for row in self.of(*other)}
        return [value(row) / value(others[row.round]) for row in self.of(*own) if row.round in others]

    def speed(self, arm: str, dtype: str, beside: str = "") -> list[float]:
        """How many times as fast as the straightforward one, in the same type or that of ``beside``."""
        return [1 / found for found in self.quotients((arm, dtype), (yardstick(arm), beside or dtype))]

    def gflop(self, arm: str, dtype: str) -> float:
        """GFLOP that a volume needs; BertsWin's are counted in the straightforward one, where nothing is fused."""
        counted = yardstick(arm) if arm.startswith("BertsWin") else eager_name(arm)
        return next((row.gflop for row in self.of(counted, dtype)), 0.0)

    def rate(self, arm: str, dtype: str) -> list[float]:
        """GFLOP/s, by round."""
        return [self.gflop(arm, dtype) / row.per_volume() for row in self.of(arm, dtype)]

    def utilization(self, arm: str, dtype: str) -> list[float]:
        """Share of what a large product of matrices reaches, by round."""
        pairs = zip(self.rate(arm, dtype), self.of(arm, dtype), strict=True)
        return [rate / row.ceiling_gflops for rate, row in pairs]

    def per_flop(self, arm: str, dtype: str) -> list[float]:
        """Seconds for a GFLOP over those of MONAI's ViT-MAE, by round."""
        work = self.gflop(VIT, dtype) / (self.gflop(arm, dtype) or float("inf"))
        return [quotient * work for quotient in self.quotients((arm, dtype), (VIT, dtype))]

    def memory(self, arm: str, dtype: str, field: str = "memory_mb") -> float | None:
        """Peak memory over that of the straightforward one, for the same number of volumes."""
        own, other = self.of(arm, dtype), self.of(yardstick(arm), dtype)
        if not own or not other or own[0].memory_batch != other[0].memory_batch:
            return None
        return getattr(own[0], field) / getattr(other[0], field)

    def share(self, arm: str, dtype: str, *parts: str) -> float:
        """Part of the step's seconds that some parts take."""
        return statistics.median(sum(getattr(row, part) for part in parts) / row.step() for row in self.of(arm, dtype))

    def ceiling(self, dtype: str) -> float:
        """GFLOP/s of a large product of matrices."""
        return statistics.median(row.ceiling_gflops for row in self.rows if row.dtype == dtype)

    def data_sheet(self) -> float | None:
        """TFLOP/s of bfloat16 products by the maker's data sheet, where it is known here."""
        return next((peak for name, peak in DATA_SHEET.items() if name in self.machine), None)


def groups_of(rows: Sequence[Row]) -> list[Group]:
    """Rows by machine and size, CPUs first, small sizes first."""
    keys = dict.fromkeys(row.group() for row in rows)
    found = [Group([row for row in rows if row.group() == key]) for key in keys]
    return sorted(found, key=lambda group: (group.device != "cpu", group.machine, list(SIZES).index(group.size)))


def parts_of(rows: Sequence[Row]) -> list[float]:
    """Median seconds of every part of a step."""
    return [statistics.median(getattr(row, part) for row in rows) for part in PARTS]


def size_name(size: str) -> str:
    """A size in words."""
    return size if size == "demo" else f"{size}^3"


MAIN_ARMS = (OURS, PLAIN)
