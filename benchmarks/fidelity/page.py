"""The page ``convergence.md``, its pictures and its table, from the runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fidelity.cells import number, ratio_text
from fidelity.comparing import ArmFacts, Comparison, Goal
from fidelity.curves import Metric, Run, write_runs
from fidelity.extras import Ablation, Transfer, Tried, ablation_section, transfer_section, tried_section
from fidelity.figures import Example, draw_costs, draw_fidelity, draw_ratios, draw_reconstructions
from fidelity.reaching import Ratio
from fidelity.sections import (
    arms_section,
    both_verdicts,
    finals_section,
    goals_section,
    headline,
    near_best,
    reaching_section,
)
from fidelity.text import INTRODUCTION, PLATEAU, READING


class Report(NamedTuple):
    """Everything that the page is made of.

    Attributes:
        runs: all of them, finished or not.
        arms: their facts, in the order of the page.
        baseline: name of the arm that the others are compared with.
        metrics: with their starts; the first is the main one, of goals, ratios and costs.
        goals: what was asked for.
        setting: facts about data, sizes and machine; one line each.
        tried: learning rates; without any the section is left out, as for the next two.
        ablations: changes of a recipe.
        transfer: what encoders are worth with few labels.
        examples: held-out volumes and their reconstructions; without any, a picture that is there already is kept.
        commands: how to repeat it: what a command does, and the command.
    """

    runs: Sequence[Run]
    arms: Sequence[ArmFacts]
    baseline: str
    metrics: Sequence[Metric]
    goals: Sequence[Goal] = ()
    setting: Sequence[str] = ()
    tried: Sequence[Tried] = ()
    ablations: Sequence[Ablation] = ()
    transfer: Sequence[Transfer] = ()
    examples: Sequence[Example] = ()
    commands: Sequence[tuple[str, str]] = ()


def write_page(report: Report, folder: Path) -> None:
    """Write ``convergence.md``, ``convergence.csv`` and ``convergence*.png``.

    Args:
        report: what was found.
        folder: that they are written to; it is made if it is not there.

    Raises:
        ValueError: When runs and arms do not fit, see `Comparison`.
    """
    comparison = Comparison(report.runs, report.arms, report.baseline)
    folder.mkdir(parents=True, exist_ok=True)
    write_runs(folder / "convergence.csv", report.runs, report.metrics)
    draw(comparison, report, folder)
    text = page_text(comparison, report, (folder / "convergence_reconstructions.png").is_file())
    (folder / "convergence.md").write_text(text, encoding="utf-8")


def page_text(comparison: Comparison, report: Report, has_reconstructions: bool) -> str:
    """The page itself.

    Args:
        comparison: of the report's runs and arms.
        report: what was found.
        has_reconstructions: whether there is a picture of them.
    """
    return "\n\n".join(part.strip() for part in _parts(comparison, report, has_reconstructions)) + "\n"


def draw(comparison: Comparison, report: Report, folder: Path) -> None:
    """All pictures that there is something for."""
    draw_fidelity(comparison, report.metrics, folder / "convergence.png")
    draw_costs(comparison, report.metrics[0], folder / "convergence_costs.png")
    if comparison.others:
        draw_ratios(comparison, report.metrics[0], report.goals, folder / "convergence_ratios.png")
    if report.examples:
        draw_reconstructions(report.examples, folder / "convergence_reconstructions.png")


def _parts(comparison: Comparison, report: Report, has_reconstructions: bool) -> Iterator[str]:
    """The page from top to bottom."""
    main = report.metrics[0]
    yield INTRODUCTION.format(baseline=report.baseline)
    yield "![Fidelity over epochs, one panel for each metric](convergence.png)"
    yield "## In short\n\n" + "\n".join(f"- {line}" for line in in_short(comparison, report))
    if comparison.others:
        yield "![How many times fewer epochs, FLOPs and seconds than the baseline](convergence_ratios.png)"
    if report.goals:
        yield goals_section(comparison, report.metrics, report.goals)
    yield arms_section(comparison, report.setting)
    yield READING
    yield reaching_section(comparison, report.metrics)
    yield f"## Over FLOPs and seconds\n\n![{main.label} over FLOPs and seconds](convergence_costs.png)"
    yield finals_section(comparison, report.metrics)
    if has_reconstructions:
        yield RECONSTRUCTIONS
    yield from _extras(report)
    yield from _commands(report)


RECONSTRUCTIONS = """\
## Reconstructions

Held-out volumes, middle slices, the same masks for all arms; visible patches are those of the original.

![Originals, inputs and reconstructions side by side](convergence_reconstructions.png)
"""


def _extras(report: Report) -> Iterator[str]:
    """Sections of what was tried besides."""
    if report.tried:
        yield tried_section(report.tried)
    if report.ablations:
        yield ablation_section(report.ablations, report.metrics)
    if report.transfer:
        yield transfer_section(report.transfer, report.metrics[0])


def _commands(report: Report) -> Iterator[str]:
    if report.commands:
        parts = [f"{what}:\n\n```bash\n{command}\n```" for what, command in report.commands]
        yield "## How to repeat it\n\n" + "\n\n".join(parts)


# --- in short ---


def in_short(comparison: Comparison, report: Report) -> Iterator[str]:
    """What the numbers say, whichever way they fall."""
    main, *others = report.metrics
    for name in comparison.others:
        yield _arm_line(comparison, name, main)
        if others:
            yield _other_metrics(comparison, name, others)
    yield from (_goal_line(comparison, main, goal) for goal in report.goals)
    yield _plateau(comparison, main)
    yield _parameters(comparison)
    yield from _gaps(comparison)


def _arm_line(comparison: Comparison, name: str, metric: Metric) -> str:
    """Epochs, FLOPs and seconds to all that the baseline reaches."""
    found = headline(comparison, name, metric)
    best = f"the best {metric.label} of {comparison.baseline}"
    if found.missed:
        return _missed_line(found, f"**{name}** does not reach {best}", comparison.longest(name))
    if found.kind in ("unknown", "none"):
        return f"when **{name}** reaches {best} is not known from these trainings"
    costs = [_times(found, "epochs", with_interval=True)]
    for quantity in ("FLOPs", "seconds"):
        ratio = headline(comparison, name, metric, quantity)
        costs += [] if ratio.kind == "none" else [_times(ratio, quantity, with_interval=quantity == "seconds")]
    seeds = f"{found.seeds} seeds" if found.seeds > 1 else "1 seed, so no interval"
    near = ratio_text(near_best(comparison, name, metric)) or "not known"
    costs.append(f"and 95 % of its gain with {near} times fewer epochs")
    return f"**{name}** reaches {best} with {', '.join(costs)}; {seeds}"


def _missed_line(found: Ratio, start: str, longest: int) -> str:
    """An arm that does not get there, or not with all seeds."""
    whose = "with any seed" if found.missed == found.seeds else f"with {found.missed} of {found.seeds} seeds"
    bound = f": less than {number(found.value)} times fewer epochs" if found.kind == "at most" else ""
    return f"{start} {whose} within {longest} epochs{bound}"


def _times(ratio: Ratio, what: str, with_interval: bool) -> str:
    """A ratio in words."""
    bound = {"at least": "at least ", "at most": "at most "}.get(ratio.kind, "")
    interval = ""
    if with_interval and ratio.has_interval:
        interval = f" (95 %: {number(ratio.low)} to {number(ratio.high)})"
    return f"{bound}{number(ratio.value)} times fewer {what}{interval}"


def _other_metrics(comparison: Comparison, name: str, metrics: Sequence[Metric]) -> str:
    """Epochs by the other metrics."""
    found = [f"{metric.label}: {ratio_text(headline(comparison, name, metric)) or 'not known'}" for metric in metrics]
    return f"{name}, how many times fewer epochs by the other measures: {'; '.join(found)}"


def _goal_line(comparison: Comparison, metric: Metric, goal: Goal) -> str:
    """A goal and whether it is met."""
    asked = f"asked of {goal.arm}: {goal.at_least:g} times fewer {goal.quantity}"
    if goal.arm not in comparison.others:
        return f"{asked}; not run"
    found = headline(comparison, goal.arm, metric, goal.quantity)
    answer = both_verdicts(comparison, goal.arm, metric, goal)
    words = {"yes": "met", "no": "**not met**", "not known": "not known", "not shown": "not shown by the bound"}
    return f"{asked}; measured {ratio_text(found) or 'nothing'}: {words.get(answer, answer.replace('yes', 'met'))}"


def _plateau(comparison: Comparison, metric: Metric) -> str:
    """Whether the baseline had come to an end."""
    found = comparison.last_gain(metric)
    if found is None:
        return f"{comparison.baseline} has one horizon: whether it is level there cannot be told"
    left, right, share = found
    gain = f"{100 * share:.1f} % of all its gain in {metric.label}"
    text = f"from {left} to {right} epochs {comparison.baseline} makes {gain}"
    if share <= PLATEAU:
        return f"{text}, so it is level"
    return f"{text}: **it is not level yet**, and longer it would be better"


def _parameters(comparison: Comparison) -> str:
    """How far the sizes of the networks differ."""
    counts = [comparison.arms[name].parameters for name in comparison.names]
    return f"parameters differ by {100 * (max(counts) / min(counts) - 1):.0f} % at most"


def _gaps(comparison: Comparison) -> Iterator[str]:
    """What is not there yet."""
    running = [run for run in comparison.runs if not run.is_finished]
    if running:
        names = ", ".join(f"{run.arm}, {run.epochs} epochs, seed {run.seed}" for run in running)
        yield f"not finished, and so only in the curves: {names}"
    left_out = sorted({run.seed for run in comparison.runs if run.is_finished} - set(comparison.seeds))
    if left_out:
        seeds = ", ".join(str(seed) for seed in left_out)
        yield f"not compared, for want of the baseline's longest training: seed {seeds}"
    for name in comparison.others:
        missing = [seed for seed in comparison.seeds if not _has(comparison, name, seed)]
        if missing:
            yield f"{name} has no finished training with seed {', '.join(str(seed) for seed in missing)}"
    if math.isnan(comparison.cost_of_epoch(comparison.baseline, "seconds")):
        yield "seconds of a sample were not measured"


def _has(comparison: Comparison, name: str, seed: int) -> bool:
    return any(run.is_finished for run in comparison.runs if (run.arm, run.seed) == (name, seed))
