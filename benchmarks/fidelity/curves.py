"""Fidelity during and at the end of trainings: metrics, runs, and the table that keeps them.

A training's *horizon* is the number of epochs that its schedule is made for: the learning rate falls to its least
there. Arms are compared by what trainings reach at their horizons; what they have on the way is only drawn.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Metric(NamedTuple):
    """A measure of reconstruction fidelity.

    Attributes:
        key: its column in ``metrics.csv``.
        label: its name on the page.
        larger_is_better: as for SSIM.
        start: what is there before training: of the untrained network, or of masked voxels that are filled with their
            mean. Gain is counted from here.
        digits: after the point.
    """

    key: str
    label: str
    larger_is_better: bool
    start: float
    digits: int = 4

    def gain(self, value: float) -> float:
        """How much better than before training; below 0 for worse."""
        return value - self.start if self.larger_is_better else self.start - value

    def of_gain(self, gain: float) -> float:
        """The value of a gain."""
        return self.start + gain if self.larger_is_better else self.start - gain

    def reaches(self, value: float, target: float) -> bool:
        """Whether a value is as good as a target; NaN never is."""
        return value >= target if self.larger_is_better else value <= target

    def best(self, values: Sequence[float]) -> float:
        """The best one; NaN if nothing else is there."""
        finite = [value for value in values if math.isfinite(value)]
        return (max if self.larger_is_better else min)(finite, default=math.nan)

    def show(self, value: float) -> str:
        """A value with as many digits as its kind wants."""
        return f"{value:.{self.digits}f}" if math.isfinite(value) else "diverged"


METRICS: tuple[Metric, ...] = (
    Metric("val_mean_l2", "masked MSE", False, math.nan),
    Metric("val_mean_ssim", "SSIM", True, math.nan),
    Metric("val_mean_correlation", "structure correlation", True, math.nan),
    Metric("val_bone_surface_mm", "bone surface error, mm", False, math.nan, digits=3),
)
"""The columns of the bundle's fidelity; give them their start with `with_starts`, the first is the main one."""


def with_starts(starts: Mapping[str, float], metrics: Sequence[Metric] = METRICS) -> list[Metric]:
    """Metrics with what is there before training.

    Args:
        starts: by the metric's key; metrics that are not named are left out.
        metrics: the others.
    """
    return [metric._replace(start=starts[metric.key]) for metric in metrics if metric.key in starts]


class Point(NamedTuple):
    """Fidelity after so many epochs."""

    epoch: int
    values: dict[str, float]


class Run(NamedTuple):
    """One training.

    Attributes:
        arm: what was trained and how, by name.
        seed: runs of the same seed are compared with each other.
        epochs: the horizon.
        samples_per_epoch: of all optimizer steps of an epoch.
        points: where it was validated, by epoch.
    """

    arm: str
    seed: int
    epochs: int
    samples_per_epoch: int
    points: tuple[Point, ...]

    @property
    def is_finished(self) -> bool:
        """Whether it has been validated at its horizon."""
        return bool(self.points) and self.points[-1].epoch >= self.epochs

    def final(self, metric: Metric) -> float:
        """Fidelity at the horizon; NaN for what is not finite or not there."""
        return self.points[-1].values.get(metric.key, math.nan) if self.is_finished else math.nan


def read_run(path: Path, arm: str, seed: int, epochs: int, samples_per_epoch: int, keys: Sequence[str]) -> Run:
    """A finished or running training from its ``metrics.csv``.

    Args:
        path: the file; a run whose file is not there yet has no points.
        arm: see `Run`, as the next three.
        seed: of the run.
        epochs: the horizon.
        samples_per_epoch: of the run.
        keys: columns to keep. Epochs at which all of them are empty were not validated, and are left out.
    """
    points = []
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            points = [_point(row, keys) for row in csv.DictReader(file)]
    return Run(arm, seed, epochs, samples_per_epoch, tuple(point for point in points if point.values))


def _point(row: Mapping[str, str | None], keys: Sequence[str]) -> Point:
    return Point(int(row["epoch"] or 0), {key: float(cell) for key in keys if (cell := row.get(key))})


# --- the table that goes with the page ---

_HEAD = ("arm", "seed", "epochs", "samples_per_epoch", "epoch")


def write_runs(path: Path, runs: Sequence[Run], metrics: Sequence[Metric]) -> None:
    """All points of all runs, one in a line, for whoever wants to draw other curves."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*_HEAD, *(metric.key for metric in metrics)])
        for run in runs:
            for point in run.points:
                writer.writerow([*run[:4], point.epoch, *(_cell(point.values.get(metric.key)) for metric in metrics)])


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.8g}"


def read_runs(path: Path) -> list[Run]:
    """What `write_runs` wrote."""
    found: dict[tuple[str, int, int, int], list[Point]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            head = (row["arm"], int(row["seed"]), int(row["epochs"]), int(row["samples_per_epoch"]))
            found.setdefault(head, []).append(_point(row, [key for key in row if key not in _HEAD]))
    return [Run(*head, tuple(points)) for head, points in found.items()]


# --- what an arm reaches ---


class Horizon(NamedTuple):
    """Final fidelity of a training of so many epochs."""

    epochs: int
    value: float


def horizons(runs: Sequence[Run], arm: str, seed: int, metric: Metric) -> list[Horizon]:
    """Final fidelity of all finished trainings of an arm with a seed, the short ones first."""
    chosen = [run for run in runs if (run.arm, run.seed) == (arm, seed) and run.is_finished]
    return sorted(Horizon(run.epochs, run.final(metric)) for run in chosen)


def seeds_of(runs: Sequence[Run], arm: str) -> list[int]:
    """Seeds of which an arm has a finished run."""
    return sorted({run.seed for run in runs if run.arm == arm and run.is_finished})


def full_seeds(runs: Sequence[Run], arm: str) -> list[int]:
    """Seeds of which an arm has its longest horizon; a baseline without it would be too easy to reach."""
    longest = max((run.epochs for run in runs if run.arm == arm and run.is_finished), default=0)
    return sorted({run.seed for run in runs if run.arm == arm and run.is_finished and run.epochs == longest})


def mean_horizons(runs: Sequence[Run], arm: str, metric: Metric, seeds: Sequence[int]) -> list[Horizon]:
    """Mean of the final fidelity over seeds, at the horizons that all of them have."""
    own = [dict(horizons(runs, arm, seed, metric)) for seed in seeds if seed in seeds_of(runs, arm)]
    common = sorted(set.intersection(*(set(one) for one in own))) if own else []
    return [Horizon(epochs, statistics.fmean(one[epochs] for one in own)) for epochs in common]


def finals(runs: Sequence[Run], arm: str, metric: Metric, epochs: int) -> list[float]:
    """Final fidelity at a horizon, by seed."""
    return [run.final(metric) for run in _at(runs, arm, epochs)]


def _at(runs: Sequence[Run], arm: str, epochs: int) -> Iterator[Run]:
    found = [run for run in runs if (run.arm, run.epochs) == (arm, epochs) and run.is_finished]
    return iter(sorted(found, key=lambda run: run.seed))
