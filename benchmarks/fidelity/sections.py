"""The tables of the page: arms, what it takes to reach a fidelity, final fidelity, goals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

from tables import table

from fidelity.cells import amount_text, over_seeds, ratio_text, reached_text, verdict, work
from fidelity.comparing import Comparison, Goal
from fidelity.curves import Metric, finals
from fidelity.reaching import Ratio, Target

# --- what is compared ---


def arms_section(comparison: Comparison, setting: Sequence[str]) -> str:
    """What the arms are, what they cost, and how much of them has been run."""
    kinds = [
        [arm.name, arm.network, arm.loss, arm.update, f"{arm.parameters / 1e6:.2f} M"]
        for arm in comparison.arms.values()
    ]
    parts = ["## What is compared", table(["arm", "network", "loss", "update", "parameters"], kinds)]
    if setting:
        parts.append("\n".join(f"- {line}" for line in setting))
    titles = ["arm", "a sample, here", "x baseline", "a sample, 224^3", "x baseline", "ms of a sample", "x baseline"]
    rows = [_cost_row(comparison, name) for name in comparison.arms]
    parts += [table([*titles, "epochs of its trainings (seeds)"], rows), _samples_line(comparison)]
    return "\n\n".join(parts)


def _cost_row(comparison: Comparison, name: str) -> list[str]:
    arm, baseline = comparison.arms[name], comparison.arms[comparison.baseline]
    cells = [name]
    for own, other in ((arm.flops, baseline.flops), (arm.large_flops, baseline.large_flops)):
        cells += [work(own), _quotient(own / other)] if math.isfinite(own) else ["", ""]
    quotients = [one / other for one, other in zip(arm.seconds, baseline.seconds, strict=False)]
    milli = [1000 * seconds for seconds in arm.seconds]
    cells += [_spread(milli, "{:.0f}"), _spread(quotients, "{:.2f}")]
    return [*cells, ", ".join(_trainings(comparison, name)) or "none yet"]


def _quotient(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else ""


def _spread(values: Sequence[float], pattern: str) -> str:
    """Median, smallest and largest."""
    if not values:
        return ""
    middle, low, high = (pattern.format(value) for value in (statistics.median(values), min(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({low} to {high})"


def _trainings(comparison: Comparison, name: str) -> Iterator[str]:
    """Horizons, and with how many seeds each."""
    finished = [run.epochs for run in comparison.runs if run.arm == name and run.is_finished]
    for epochs in sorted(set(finished)):
        yield f"{epochs} ({finished.count(epochs)})"


def _samples_line(comparison: Comparison) -> str:
    if comparison.same_samples:
        count = comparison.samples_per_epoch(comparison.baseline)
        return f"An epoch is {count} samples for every arm, so ratios of samples are those of epochs."
    counts = "; ".join(f"{name}: {comparison.samples_per_epoch(name)}" for name in comparison.names)
    return f"Samples of an epoch: {counts}."


# --- epochs, FLOPs and seconds to reach ---


def reaching_section(comparison: Comparison, metrics: Sequence[Metric]) -> str:
    """A table for each metric."""
    parts = ["## Epochs, FLOPs and seconds to reach what the baseline reaches"]
    for metric in metrics:
        best = comparison.best(comparison.baseline, metric)
        start = f"{metric.show(metric.start)} before training, " if math.isfinite(metric.start) else ""
        text = f"{start}{metric.show(best.value)} at the best horizon of {comparison.baseline}, {best.epochs} epochs."
        parts += [f"### {metric.label}", text[0].upper() + text[1:], reaching_table(comparison, metric)]
    return "\n\n".join(parts)


def reaching_table(comparison: Comparison, metric: Metric) -> str:
    """Rows: targets and arms; columns: epochs, FLOPs and seconds, and how many times fewer."""
    quantities = ["epochs", *([] if comparison.same_samples else ["samples"]), "FLOPs"]
    quantities += ["seconds"] if any(arm.seconds for arm in comparison.arms.values()) else []
    titles = ["of the baseline's gain", "value", "arm"]
    for quantity in quantities:
        titles += [quantity if quantity != "seconds" else "time", "x fewer"]
        titles += ["of means"] if quantity == "epochs" else []
    rows = []
    for target in comparison.targets(metric):
        head = [target.label, metric.show(target.mean) if target.by_seed is None else "each its own"]
        for name in comparison.names:
            rows.append([*head, name, *_cells(comparison, metric, target, name, quantities)])
            head = ["", ""]
    return table(titles, rows)


def _cells(
    comparison: Comparison, metric: Metric, target: Target, name: str, quantities: Sequence[str]
) -> Iterator[str]:
    """What an arm takes; the baseline has nothing to be compared with."""
    is_baseline = name == comparison.baseline
    found = comparison.reached(name, metric, target)
    for quantity in quantities:
        unit = comparison.cost_of_epoch(name, quantity)
        amounts = [one.times(unit) for one in found if one is not None and math.isfinite(unit)]
        yield reached_text(amounts) if quantity == "epochs" else amount_text(amounts, quantity)
        yield "" if is_baseline else ratio_text(comparison.ratio(name, metric, target, quantity))
        if quantity == "epochs":
            has_mean = target.by_seed is None and not is_baseline
            yield ratio_text(comparison.mean_ratio(name, metric, target)) if has_mean else ""


# --- final fidelity ---


def finals_section(comparison: Comparison, metrics: Sequence[Metric]) -> str:
    """Rows: arms and horizons; columns: metrics."""
    rows = []
    for name in comparison.names:
        lengths = sorted({run.epochs for run in comparison.runs if run.arm == name and run.is_finished})
        for epochs in lengths:
            values = [over_seeds(finals(comparison.runs, name, metric, epochs), metric) for metric in metrics]
            rows.append([name, f"{epochs}", f"{len(finals(comparison.runs, name, metrics[0], epochs))}", *values])
    text = "At the end of the trainings: mean over the seeds; brackets hold the smallest and the largest."
    titles = ["arm", "epochs", "seeds", *(metric.label for metric in metrics)]
    return "\n\n".join(["## Final fidelity", text, table(titles, rows)])


# --- goals ---


def headline(comparison: Comparison, name: str, metric: Metric, quantity: str = "epochs") -> Ratio:
    """How many times fewer for all that the baseline reaches, seed by seed."""
    return comparison.ratio(name, metric, comparison.targets(metric)[-1], quantity)


def near_best(comparison: Comparison, name: str, metric: Metric, quantity: str = "epochs") -> Ratio:
    """How many times fewer for 95 % of what the baseline gains."""
    found = [target for target in comparison.targets(metric) if math.isclose(target.share, 0.95)]
    return comparison.ratio(name, metric, found[0], quantity) if found else Ratio("none")


def both_verdicts(comparison: Comparison, name: str, metric: Metric, goal: Goal) -> str:
    """Whether a goal is met at 95 % and at all that the baseline reaches."""
    near, whole = (verdict(of(comparison, name, metric, goal.quantity), goal) for of in (near_best, headline))
    return whole if near == whole else f"at 95 % {near}, at 100 % {whole}"


def goals_section(comparison: Comparison, metrics: Sequence[Metric], goals: Sequence[Goal]) -> str:
    """What was asked for, beside what was measured, by every metric; arms that have not been run are told."""
    rows = [_goal_row(comparison, metric, goal) for goal in goals for metric in metrics]
    wanted = [target.label for target in comparison.targets(metrics[0])[-3:]]
    titles = ["arm", "what", "asked for", "by", *wanted, "met"]
    text = (
        "*met* judges geometric means: at 95 % of the baseline's gain, and at all that it reaches, seed by seed. The "
        "last depends on when the baseline was at its best, on a level curve a matter of chance and of its longest "
        "training; so both have to hold. By masked MSE an arm that is trained on something else is held against one "
        "that is trained on just that; by structure correlation it is the other way round; no arm is trained on the "
        "bone surface error."
    )
    return "\n\n".join(["## What was asked for", text, table(titles, rows)])


def _goal_row(comparison: Comparison, metric: Metric, goal: Goal) -> list[str]:
    """A goal by a metric."""
    wanted = comparison.targets(metric)[-3:]
    head = [goal.arm, f"fewer {goal.quantity}", f">= {goal.at_least:g}", metric.label]
    if goal.arm not in comparison.others:
        return [*head, *[""] * len(wanted), "not run"]
    found = [comparison.ratio(goal.arm, metric, target, goal.quantity) for target in wanted]
    return [*head, *(ratio_text(ratio) for ratio in found), both_verdicts(comparison, goal.arm, metric, goal)]
