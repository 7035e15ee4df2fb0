"""What was tried besides: learning rates, ablations, and labels; their rows and their tables."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np
from tables import table

from fidelity.cells import number, over_seeds
from fidelity.curves import Metric

# --- learning rates ---


class Tried(NamedTuple):
    """A learning rate of an arm, the loss it led to after the tuning budget, and whether it was taken."""

    arm: str
    learning_rate: float
    epochs: int
    value: float
    is_chosen: bool = False


def tried_section(tried: Sequence[Tried]) -> str:
    """Table of all learning rates, and the arms whose choice is at an end of what was tried."""
    ordered = sorted(tried, key=lambda row: ([one.arm for one in tried].index(row.arm), row.epochs, row.learning_rate))
    rows = [
        [row.arm, f"{row.learning_rate:g}", f"{row.epochs}", _loss(row.value), "chosen" if row.is_chosen else ""]
        for row in ordered
    ]
    titles = ["arm", "learning rate", "epochs", "held-out loss", ""]
    parts = ["## Learning rates tried", table(titles, rows)]
    ends = list(_at_an_end(tried))
    if ends:
        parts.append(f"Chosen at an end of what was tried, so that a better one may lie beyond: {', '.join(ends)}.")
    return "\n\n".join(parts)


def _loss(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "diverged"


def _at_an_end(tried: Sequence[Tried]) -> Iterator[str]:
    """Arms whose chosen learning rate is the smallest or the largest of several."""
    for row in (row for row in tried if row.is_chosen):
        rates = {one.learning_rate for one in tried if one.arm == row.arm}
        if row.learning_rate in (min(rates), max(rates)):
            yield row.arm


# --- ablations ---


class Ablation(NamedTuple):
    """One change of a recipe at equal budget.

    Attributes:
        recipe: that it is a change of, such as the arm's name.
        group: what is varied, such as "mask ratio"; nothing for the recipe itself.
        change: to what.
        epochs: the horizon.
        values: final fidelity by the metric's key, one value for each seed.
        flops: of a sample; NaN leaves the column empty.
        is_reference: the recipe itself, with which all others of that recipe and that horizon are compared.
        is_kept: whether the bundle's recipe has it by now.
    """

    recipe: str
    group: str
    change: str
    epochs: int
    values: Mapping[str, Sequence[float]]
    flops: float = math.nan
    is_reference: bool = False
    is_kept: bool = False


def ablation_section(ablations: Sequence[Ablation], metrics: Sequence[Metric]) -> str:
    """One table of all recipes; the first metric is compared seed by seed."""
    main = metrics[0]
    rows = [_ablation_row(one, _reference(ablations, one), metrics) for one in ablations]
    others = [metric.label for metric in metrics[1:]]
    titles = ["recipe", "varied", "to", "epochs", main.label, "over the reference's", *others, "FLOPs, x reference", ""]
    side = "above" if main.larger_is_better else "below"
    text = (
        f"Final fidelity at equal epochs. *over the reference's* divides the {main.label} by that of the reference, "
        f"seed by seed: {side} 1 is better. Mean; brackets hold the smallest and the largest. Learning rates are "
        "those of the recipe, not tuned again."
    )
    return "\n\n".join(["## Ablations", text, table(titles, rows)])


def _reference(ablations: Sequence[Ablation], one: Ablation) -> Ablation | None:
    """The recipe that was changed."""
    found = (other for other in ablations if other.is_reference and other.epochs == one.epochs)
    return next((other for other in found if other.recipe == one.recipe), None)


def _ablation_row(one: Ablation, reference: Ablation | None, metrics: Sequence[Metric]) -> list[str]:
    main, *others = metrics
    quotients, work = "", ""
    if reference is not None and reference is not one:
        pairs = zip(one.values.get(main.key, ()), reference.values.get(main.key, ()), strict=False)
        quotients = _quotients([value / other for value, other in pairs])
        work = f"{one.flops / reference.flops:.2f}" if math.isfinite(one.flops / reference.flops) else ""
    means = [_mean(one.values.get(metric.key, ()), metric) for metric in others]
    note = "reference" if one.is_reference else "kept" if one.is_kept else ""
    head = [one.recipe, one.group, one.change, f"{one.epochs}", over_seeds(list(one.values.get(main.key, ())), main)]
    return [*head, quotients, *means, work, note]


def _quotients(found: Sequence[float]) -> str:
    """Geometric mean, smallest and largest."""
    if not found or not all(value > 0 for value in found):
        return ""
    middle = f"{math.exp(statistics.fmean(math.log(value) for value in found)):.3f}"
    return middle if len(found) == 1 else f"{middle} ({min(found):.3f} to {max(found):.3f})"


def _mean(values: Sequence[float], metric: Metric) -> str:
    return metric.show(statistics.fmean(values)) if values else ""


# --- labels ---


class Transfer(NamedTuple):
    """What a pre-trained encoder is worth with few labels.

    Attributes:
        arm: that trained the encoder; "from scratch" for none.
        epochs: of pre-training.
        seed: of pre-training.
        fidelity: the first metric at the end of pre-training; NaN for none.
        labelled: volumes with labels.
        dice: on held-out volumes.
    """

    arm: str
    epochs: int
    seed: int
    fidelity: float
    labelled: int
    dice: float


def transfer_section(transfer: Sequence[Transfer], metric: Metric) -> str:
    """Dice by encoder and number of labels, and how it goes with fidelity."""
    groups: dict[tuple[int, str, int], list[Transfer]] = {}
    for row in sorted(transfer, key=lambda row: row.labelled):
        groups.setdefault((row.labelled, row.arm, row.epochs), []).append(row)
    dice = Metric("dice", "Dice", True, 0.0, digits=3)
    rows = []
    for (labelled, arm, epochs), found in groups.items():
        fidelity = [row.fidelity for row in found if math.isfinite(row.fidelity)]
        cells = [over_seeds(fidelity, metric), over_seeds([row.dice for row in found], dice)]
        rows.append([f"{labelled}", arm, f"{epochs}" if epochs else "", *cells])
    titles = ["labelled volumes", "pre-trained by", "epochs", metric.label, "Dice"]
    lines = [f"- {line}" for line in _correlations(transfer, metric)]
    text = "Does better reconstruction make a better encoder? Ranks of the gain in "
    text += f"{metric.label} against ranks of Dice, all encoders: 1 is the same order, -1 the opposite."
    return "\n\n".join(["## Transfer to few labels", table(titles, rows), text, "\n".join(lines)])


def _correlations(transfer: Sequence[Transfer], metric: Metric) -> Iterator[str]:
    """One line for each number of labels."""
    for labelled in sorted({row.labelled for row in transfer}):
        chosen = [row for row in transfer if row.labelled == labelled and math.isfinite(row.fidelity)]
        if len(chosen) < 3:
            yield f"{labelled} labelled: {len(chosen)} encoders are too few to say"
            continue
        gains, dice = [metric.gain(row.fidelity) for row in chosen], [row.dice for row in chosen]
        found, chance = rank_correlation(gains, dice), chance_of(gains, dice)
        by_chance = f"chance makes one so large in {number(100 * chance)} % of orders"
        yield f"{labelled} labelled: {found:+.2f} with {len(chosen)} encoders; {by_chance}"


def rank_correlation(left: Sequence[float], right: Sequence[float]) -> float:
    """Spearman's, equal values sharing their rank; 0 where all values are equal."""
    ranks = [_ranks(values) for values in (left, right)]
    if any(np.ptp(one) == 0 for one in ranks):
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray:
    """From 0; the mean rank for equal values."""
    array = np.asarray(values, dtype=float)
    return np.array([(array < value).sum() + ((array == value).sum() - 1) / 2 for value in array])


def chance_of(left: Sequence[float], right: Sequence[float], draws: int = 2000) -> float:
    """Share of orders of one side with a correlation at least so large either way; all orders of up to six values."""
    ranks = _ranks(right)
    found = abs(rank_correlation(left, right))
    generator = np.random.default_rng(0)
    orders = permutations(ranks) if len(ranks) <= 6 else (generator.permutation(ranks) for _ in range(draws))
    others = [abs(rank_correlation(left, order)) for order in orders]
    return sum(other >= found - 1e-12 for other in others) / len(others)
