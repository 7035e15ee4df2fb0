"""Arms beside their baseline: what each takes to reach its fidelity, in epochs, samples, FLOPs and seconds."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from fidelity.curves import Horizon, Metric, Run, full_seeds, horizons, mean_horizons, seeds_of
from fidelity.reaching import Ratio, Reached, Target, epochs_to_reach, ratio_with_interval, targets

QUANTITIES = ("epochs", "samples", "FLOPs", "seconds")


class ArmFacts(NamedTuple):
    """What an arm is, and what it costs.

    Attributes:
        name: as in the runs.
        network: in words.
        loss: in words.
        update: optimizer and what decides between losses, in words.
        parameters: that are trained.
        flops: of one sample here: forward pass and all backward passes.
        large_flops: the same at 224^3, with the paper's sizes; NaN where it was not counted.
        seconds: of one sample, round by round; the rounds of all arms were interleaved.
    """

    name: str
    network: str
    loss: str
    update: str
    parameters: int
    flops: float
    large_flops: float = math.nan
    seconds: tuple[float, ...] = ()


class Goal(NamedTuple):
    """What an arm was to reach: so many times fewer epochs, FLOPs or seconds than the baseline."""

    arm: str
    quantity: str
    at_least: float


class Comparison:
    """All arms beside the baseline.

    Seeds of which the baseline has not finished its longest horizon are left out everywhere, because a baseline that is
    cut short would be too easy to reach.

    Args:
        runs: finished ones count; of others it is only told that they are there.
        arms: the baseline and those that are compared with it, in the order of the page.
        baseline: its name.

    Raises:
        ValueError: When the baseline has no finished run, an arm of the runs is not described, a run is there twice, or
            an arm has epochs of different sizes.
    """

    def __init__(self, runs: Sequence[Run], arms: Sequence[ArmFacts], baseline: str) -> None:
        self.runs, self.baseline = list(runs), baseline
        self.arms = {arm.name: arm for arm in arms}
        self.seeds = full_seeds(self.runs, baseline)
        if not self.seeds:
            raise ValueError(f"the baseline {baseline!r} must have a finished run, it has none. Train it first.")
        unknown = {run.arm for run in runs} - set(self.arms)
        if unknown:
            raise ValueError(f"arms must name all arms of the runs, {sorted(unknown)} are missing. Describe them, too.")
        twice = [head for head, count in Counter(run[:3] for run in runs).items() if count > 1]
        if twice:
            raise ValueError(f"runs must differ in arm, seed or epochs, {twice[0]} is there twice. Leave one out.")
        self._samples = {name: _samples(self.runs, name) for name in self.names}

    @property
    def names(self) -> list[str]:
        """Arms that have a finished run."""
        return [name for name in self.arms if seeds_of(self.runs, name)]

    @property
    def others(self) -> list[str]:
        """All of them but the baseline."""
        return [name for name in self.names if name != self.baseline]

    @property
    def same_samples(self) -> bool:
        """Whether an epoch has as many samples for all arms."""
        return len(set(self._samples.values())) == 1

    def samples_per_epoch(self, name: str) -> int:
        """Samples of an epoch of an arm."""
        return self._samples[name]

    def longest(self, name: str) -> int:
        """Epochs of an arm's longest finished training."""
        return max(run.epochs for run in self.runs if run.arm == name and run.is_finished)

    def mean(self, name: str, metric: Metric) -> list[Horizon]:
        """Final fidelity at an arm's horizons, mean over the seeds."""
        return mean_horizons(self.runs, name, metric, self.seeds)

    def best(self, name: str, metric: Metric) -> Horizon:
        """The best of these."""
        points = self.mean(name, metric)
        value = metric.best([point.value for point in points])
        return next((point for point in points if point.value == value), points[-1])

    def targets(self, metric: Metric) -> list[Target]:
        """What is to be reached."""
        by_seed = {seed: horizons(self.runs, self.baseline, seed, metric) for seed in self.seeds}
        return targets(self.mean(self.baseline, metric), by_seed, metric)

    def last_gain(self, metric: Metric) -> tuple[int, int, float] | None:
        """The baseline's two longest horizons, and the share of its whole gain between them; None without a gain."""
        points = self.mean(self.baseline, metric)
        if len(points) < 2:
            return None
        left, right = points[-2:]
        whole = metric.gain(self.best(self.baseline, metric).value)
        if not whole > 0:
            return None
        return left.epochs, right.epochs, (metric.gain(right.value) - metric.gain(left.value)) / whole

    # --- what it takes ---

    def reached(self, name: str, metric: Metric, target: Target) -> list[Reached | None]:
        """Epochs to a target, by seed."""
        return [
            epochs_to_reach(horizons(self.runs, name, seed, metric), target.of(seed), metric) for seed in self.seeds
        ]

    def cost_of_epoch(self, name: str, quantity: str) -> float:
        """What an epoch of an arm costs; NaN where it was not measured."""
        samples, arm = self.samples_per_epoch(name), self.arms[name]
        seconds = statistics.median(arm.seconds) if arm.seconds else math.nan
        costs = {"epochs": 1.0, "samples": samples, "FLOPs": samples * arm.flops, "seconds": samples * seconds}
        return costs[quantity]

    def ratio(self, name: str, metric: Metric, target: Target, quantity: str = "epochs") -> Ratio:
        """How many times fewer an arm takes than the baseline."""
        pairs = zip(self.reached(self.baseline, metric, target), self.reached(name, metric, target), strict=True)
        return self._in(quantity, name, ratio_with_interval(list(pairs)))

    def mean_ratio(self, name: str, metric: Metric, target: Target, quantity: str = "epochs") -> Ratio:
        """The same from the means over the seeds, without an interval."""
        pair = tuple(epochs_to_reach(self.mean(one, metric), target.mean, metric) for one in (self.baseline, name))
        return self._in(quantity, name, ratio_with_interval([pair]))

    def _in(self, quantity: str, name: str, epochs: Ratio) -> Ratio:
        """A ratio of epochs as one of something else."""
        if quantity == "seconds":
            quotients = self._quotients(name)
            samples = self._in("samples", name, epochs)
            return samples.times_measured(quotients) if quotients else Ratio("none")
        return epochs.times(self.cost_of_epoch(self.baseline, quantity) / self.cost_of_epoch(name, quantity))

    def _quotients(self, name: str) -> list[float]:
        """Seconds of the baseline's sample over those of an arm's, round by round."""
        pairs = zip(self.arms[self.baseline].seconds, self.arms[name].seconds, strict=False)
        return [one / other for one, other in pairs]


def _samples(runs: Sequence[Run], name: str) -> int:
    """Samples of an epoch of an arm."""
    found = {run.samples_per_epoch for run in runs if run.arm == name}
    if len(found) != 1:
        raise ValueError(f"epochs of {name!r} must all have as many samples, found {sorted(found)}. Name two arms.")
    return found.pop()
