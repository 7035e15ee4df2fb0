"""How many epochs it takes to reach a fidelity, and how many times fewer than by the baseline.

Fidelity counts at the end of a training. Between two horizons it is taken as linear in the logarithm of the epochs,
after it was made monotone: a longer training counts as no worse than a shorter one, whose weights one would have kept.
What the horizons do not show is not extrapolated: it becomes a bound.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from fidelity.curves import Horizon, Metric

SHARES = (0.5, 0.8, 0.95, 1.0)
"""Of the baseline's gain."""

# 97.5 % quantiles of Student's t, 1 to 9 degrees of freedom: NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2
_T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


# --- epochs ---


class Reached(NamedTuple):
    """When a fidelity is reached, in epochs or in what they cost.

    Attributes:
        amount: how much it takes.
        kind: "at" for a number; "by" if the shortest training is there already, so that it takes `amount` or less;
            "beyond" if the longest is not, so that it takes more than `amount`, if it ever happens.
    """

    amount: float
    kind: Literal["at", "by", "beyond"] = "at"

    def times(self, factor: float) -> Reached:
        """The same in another unit."""
        return self._replace(amount=self.amount * factor)


def envelope(points: Sequence[Horizon], metric: Metric) -> list[Horizon]:
    """The best fidelity at every horizon or a shorter one; what diverged counts for nothing."""
    ordered = sorted(points)
    return [
        Horizon(point.epochs, metric.best([one.value for one in ordered[: place + 1]]))
        for place, point in enumerate(ordered)
    ]


def epochs_to_reach(points: Sequence[Horizon], target: float, metric: Metric) -> Reached | None:
    """Epochs of the training whose end is as good as a target.

    Args:
        points: final fidelity at several horizons, of one arm and seed or of a mean.
        target: a value of the metric.
        metric: says which values are better.

    Returns:
        A number or a bound; None without points.
    """
    best = envelope(points, metric)
    if not best:
        return None
    if metric.reaches(best[0].value, target):
        return Reached(best[0].epochs, "at" if best[0].value == target else "by")
    for left, right in pairwise(best):
        if metric.reaches(right.value, target):
            return _crossing(left, right, target)
    return Reached(best[-1].epochs, "beyond")


def _crossing(left: Horizon, right: Horizon, target: float) -> Reached:
    """Between two horizons, linear in the logarithm; one that diverged leaves only a bound."""
    if right.value == target:
        return Reached(right.epochs)
    if not math.isfinite(left.value):
        return Reached(right.epochs, "by")
    share = (target - left.value) / (right.value - left.value)
    return Reached(left.epochs * (right.epochs / left.epochs) ** share)


# --- targets ---


class Target(NamedTuple):
    """What is to be reached.

    Attributes:
        share: of the baseline's gain.
        mean: its value, from the means over the seeds.
        by_seed: its value where every seed has to reach what the baseline has with that seed; None if all have to
            reach the mean.
    """

    share: float
    mean: float
    by_seed: dict[int, float] | None = None

    def of(self, seed: int) -> float:
        """What a seed has to reach."""
        return self.mean if self.by_seed is None else self.by_seed[seed]

    @property
    def label(self) -> str:
        """Share, and whose."""
        return f"{self.share:.0%}".replace("%", " %") + ("" if self.by_seed is None else ", seed by seed")


def gain_value(points: Sequence[Horizon], share: float, metric: Metric) -> float:
    """The value at a share of the gain that the best of several horizons has; NaN without points."""
    best = metric.best([point.value for point in points])
    # so that all of the gain is the best value itself, to the last digit
    return best if share == 1 else metric.of_gain(share * metric.gain(best))


def targets(
    mean: Sequence[Horizon], by_seed: Mapping[int, Sequence[Horizon]], metric: Metric, shares: Sequence[float] = SHARES
) -> list[Target]:
    """Shares of the gain of the baseline's best horizon, and last all of it seed by seed.

    The mean at the best horizon is out of reach for about half of the baseline's own seeds, which leaves bounds and no
    interval. Where every seed has to reach what the baseline has with that seed, there are numbers.

    Args:
        mean: the baseline's final fidelity at its horizons, mean over seeds.
        by_seed: the same of every seed.
        metric: with its start.
        shares: of the gain; where there is none, or the start is not known, only all of it.
    """
    has_gain = metric.gain(gain_value(mean, 1.0, metric)) > 0
    found = [Target(share, gain_value(mean, share, metric)) for share in shares if has_gain or share == 1]
    whole = {seed: gain_value(points, 1.0, metric) for seed, points in by_seed.items()}
    return [*found, Target(1.0, gain_value(mean, 1.0, metric), whole)]


# --- ratios ---


class Ratio(NamedTuple):
    """How many times fewer an arm takes than the baseline, over seeds.

    Attributes:
        kind: "exact"; "at least" or "at most", where some seed has only such a bound; "unknown", where bounds do not
            fit together; "none" without a seed.
        value: geometric mean, or the bound of it; NaN where nothing is known.
        low: end of the 95 % interval; NaN if there is none, as for bounds and for a single seed.
        high: other end.
        smallest: of the seeds, bounds included.
        largest: of the seeds, bounds included.
        seeds: how many.
        missed: of these, seeds with which the arm does not get there within its longest horizon.
    """

    kind: Literal["exact", "at least", "at most", "unknown", "none"]
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    smallest: float = math.nan
    largest: float = math.nan
    seeds: int = 0
    missed: int = 0

    @property
    def has_interval(self) -> bool:
        """Whether there is a 95 % interval."""
        return math.isfinite(self.low)

    def times(self, factor: float) -> Ratio:
        """The same in another unit, whose quotient is known exactly."""
        scaled = (value * factor for value in self[1:6])
        return Ratio(self.kind, *scaled, self.seeds, self.missed)

    def times_measured(self, quotients: Sequence[float]) -> Ratio:
        """The same in another unit, whose quotient was measured several times.

        The interval grows by what the measurements leave open: half widths of the logarithms add up in squares.
        """
        logs = [math.log(quotient) for quotient in quotients]
        middle = statistics.fmean(logs)
        scaled = self.times(math.exp(middle))
        if not self.has_interval or len(logs) < 2:
            return scaled
        half = math.hypot(math.log(self.high / self.value), half_width(logs))
        return scaled._replace(low=scaled.value / math.exp(half), high=scaled.value * math.exp(half))


def ratio_with_interval(pairs: Sequence[tuple[Reached | None, Reached | None]]) -> Ratio:
    """Baseline over arm, seed by seed: geometric mean and 95 % interval of Student's t on the logarithms.

    Args:
        pairs: of the baseline and of the arm, for each seed; a seed of which one is not there is left out.
    """
    known = [(one, other) for one, other in pairs if one is not None and other is not None]
    if not known:
        return Ratio("none")
    kinds = {_kind(one, other) for one, other in known}
    counts = {"seeds": len(known), "missed": sum(other.kind == "beyond" for _, other in known)}
    kind = _combined(kinds)
    if kind == "unknown":
        return Ratio(kind, **counts)
    quotients = [one.amount / other.amount for one, other in known]
    logs = [math.log(quotient) for quotient in quotients]
    middle = statistics.fmean(logs)
    found = Ratio(kind, math.exp(middle), smallest=min(quotients), largest=max(quotients), **counts)
    if kind != "exact" or len(logs) < 2:
        return found
    half = half_width(logs)
    return found._replace(low=math.exp(middle - half), high=math.exp(middle + half))


def _kind(baseline: Reached, arm: Reached) -> str:
    """What a quotient of numbers and bounds is."""
    # above and below which the quotient of the amounts is certain to lie
    is_low = baseline.kind == "beyond" or arm.kind == "by"
    is_high = baseline.kind == "by" or arm.kind == "beyond"
    return {(False, False): "exact", (True, False): "at least", (False, True): "at most"}.get(
        (is_low, is_high), "unknown"
    )


def _combined(kinds: set[str]) -> Literal["exact", "at least", "at most", "unknown"]:
    """What a mean of such quotients is."""
    if kinds == {"exact"}:
        return "exact"
    if kinds <= {"exact", "at least"}:
        return "at least"
    return "at most" if kinds <= {"exact", "at most"} else "unknown"


def t_quantile(degrees: int) -> float:
    """97.5 % quantile of Student's t; of more than nine degrees of freedom that of nine, which is wider.

    Raises:
        ValueError: When there is no degree of freedom.
    """
    if degrees < 1:
        raise ValueError(f"degrees must be 1 or more, got {degrees}. One value has no spread.")
    return _T_QUANTILES[min(degrees, len(_T_QUANTILES)) - 1]


def half_width(values: Sequence[float]) -> float:
    """Half of the 95 % interval of a mean."""
    return t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
