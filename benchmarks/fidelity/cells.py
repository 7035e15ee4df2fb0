"""Numbers, bounds and what was not reached, as the page's cells show them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from fidelity.comparing import Goal
from fidelity.curves import Metric
from fidelity.reaching import Ratio, Reached


def number(value: float) -> str:
    """Two or three digits: 0.52, 6.0, 15.3, 412."""
    if value < 1:
        return f"{value:.2g}"
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def count(value: float) -> str:
    """Three digits where there is something after the point: 4, 11.3, 240, 1234."""
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def long_time(seconds: float) -> str:
    """Seconds, minutes or hours."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{number(seconds / size)} {unit}"
    return f"{number(seconds)} s"


def work(flops: float) -> str:
    """FLOPs with their prefix."""
    for prefix, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if flops >= size:
            return f"{flops / size:.3g} {prefix}FLOP"
    return f"{flops / 1e6:.3g} MFLOP"


SHOW: dict[str, Callable[[float], str]] = {"epochs": count, "samples": count, "FLOPs": work, "seconds": long_time}
"""How amounts of something are written."""


def ratio_text(ratio: Ratio) -> str:
    """Geometric mean and 95 % interval; bounds and what was missed say so."""
    if ratio.kind == "exact":
        interval = f" ({number(ratio.low)} to {number(ratio.high)})" if ratio.has_interval else ""
        return number(ratio.value) + interval
    if ratio.kind == "at least":
        return f">= {number(ratio.value)}"
    bound = f" (< {number(ratio.value)})" if ratio.kind == "at most" else ""
    if ratio.missed:
        return _missed(ratio.missed, ratio.seeds) + bound
    if ratio.kind == "at most":
        return f"<= {number(ratio.value)}"
    return "not known" if ratio.kind == "unknown" else ""


def _missed(missed: int, seeds: int) -> str:
    return "not reached" if missed == seeds else f"not reached with {missed} of {seeds} seeds"


def reached_text(found: Sequence[Reached | None]) -> str:
    """Epochs: geometric mean, smallest and largest over the seeds; bounds and what was missed say so."""
    known = [one for one in found if one is not None]
    missed = [one for one in known if one.kind == "beyond"]
    if missed:
        longest = count(max(one.amount for one in missed))
        return f"{_missed(len(missed), len(known))} in {longest}"
    low, high = (count(end([one.amount for one in known])) for end in (min, max)) if known else ("", "")
    has_range = low != high and all(one.kind == "at" for one in known)
    return amount_text(found, "epochs") + (f" ({low} to {high})" if has_range else "")


def amount_text(found: Sequence[Reached | None], quantity: str) -> str:
    """Geometric mean over the seeds, or its bound; nothing where a seed does not get there."""
    known = [one for one in found if one is not None]
    if not known or any(one.kind == "beyond" for one in known):
        return ""
    middle = math.exp(statistics.fmean(math.log(one.amount) for one in known))
    bound = "<= " if any(one.kind == "by" for one in known) else ""
    return bound + SHOW[quantity](middle)


def over_seeds(values: Sequence[float], metric: Metric) -> str:
    """Mean, smallest and largest; how many diverged."""
    finite = [value for value in values if math.isfinite(value)]
    lost = len(values) - len(finite)
    note = f", {lost} of {len(values)} diverged" if lost else ""
    if not finite:
        return "diverged" if values else ""
    middle = metric.show(statistics.fmean(finite))
    if len(finite) == 1:
        return middle + note
    return f"{middle} ({metric.show(min(finite))} to {metric.show(max(finite))}){note}"


def verdict(ratio: Ratio, goal: Goal) -> str:
    """Whether a ratio is what was asked for."""
    if ratio.kind in ("none", "unknown"):
        return "not known"
    is_enough = ratio.value >= goal.at_least
    if ratio.kind == "at least":
        return "yes" if is_enough else "not shown"
    if ratio.kind == "at most":
        return "not shown" if is_enough else "no"
    if is_enough and ratio.has_interval and ratio.low < goal.at_least:
        return f"yes, but the interval begins at {number(ratio.low)}"
    return "yes" if is_enough else "no"
