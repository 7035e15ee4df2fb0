"""The page and the picture of `scaling.py`, made of the rows of its file."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from tables import spread, table
from torch.utils.flop_counter import FlopCounterMode

from bertswin_ext.networks import BertsWinMAE
from bertswin_ext.runs.network_cost import network_cost
from bertswin_ext.runs.run_cost import GPUS, Cards, MemoryCost, RunPlan, memory_cost
from bertswin_ext.runs.run_plan import read_plan
from growth.points import APART, ROOT, Cost, Point, Row, make_network
from growth.text import ASSUMED, FORMULAE, INTRODUCTION, USE

MEGABYTE, DAY, MFU = 1e6, 86400, 0.4
CONFIGS = ROOT / "bundles" / "pretrain" / "configs"
RECIPES = {
    "the paper's: 1000 epochs x 300 steps x 50 samples of 224^3": {},
    "100 epochs x 300 steps x 50 samples of 96^3, window 6": {"img_size": 96, "window_size": 6, "epochs": 100},
}
COLORS = {"BertsWin, window 2": "#1f6fb4", "BertsWin, window 7": "#5fa777", "ViT-MAE, global": "#e07b28"}
Costs = dict[Point, list[Cost]]
"""What was found, round by round."""


class Predicted(NamedTuple):
    """What the formulae say of a step; memory where they know it."""

    parameters: int
    flops: float
    memory: MemoryCost | None


def write_page(rows: Sequence[Row], ceiling: float, out: Path) -> None:
    """Write cost-model.md and scaling.png."""
    costs: Costs = {}
    for row in rows:
        costs.setdefault(row.point, []).append(row.cost)
    sections = [INTRODUCTION.format(torch=torch.__version__, ceiling=ceiling / 1e9)]
    makers: dict[str, Callable[[Costs, float], str]] = {
        "edges": edges_section,
        "batch": batch_section,
        "tasks": tasks_section,
        "ranks": ranks_section,
    }
    for part, make in makers.items():
        found = {point: values for point, values in costs.items() if point.part == part}
        if found:
            sections.append(make(found, ceiling))
    sections += [FORMULAE, runs_section(costs, ceiling), ASSUMED, USE]
    (out / "cost-model.md").write_text("\n\n".join(text.strip() for text in sections) + "\n", encoding="utf-8")
    edges = {point: values for point, values in costs.items() if point.part == "edges"}
    if edges:
        draw(edges).savefig(out / "scaling.png", dpi=110)


# --- what is predicted ---


@cache
def predict(point: Point) -> Predicted:
    """FLOPs and memory of a step by formula; FLOPs of the ViT-MAE as torch counts them."""
    with torch.device("meta"):
        network = make_network(point)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    if not isinstance(network, BertsWinMAE):
        return Predicted(parameters, point.samples * _counted(network, point.edge), None)
    plan = RunPlan(
        network=network_cost(network),
        num_losses=point.losses,
        row_bytes=4,
        previous_bytes=4 if point.losses > 1 else 0,
        accumulation="stochastic" if point.accumulation == "stochastic" else "classic",
        accumulation_steps=point.micro_batches,
        batch_size=point.batch,
        num_steps=1,
        momenta=1,
        mixed=False,
    )
    return Predicted(parameters, plan.step_flops * point.processes, memory_cost(plan))


def _counted(network: torch.nn.Module, edge: int) -> float:
    """FLOPs of a forward and a backward pass."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 1, edge, edge, edge))["reconstruction"].sum().backward()
    return float(counter.get_total_flops())


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Slope of the straight line through the logarithms, least squares."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


# --- sections ---


def edges_section(costs: Costs, ceiling: float) -> str:
    """Tables of edges, of exponents, and of what padding costs."""
    rows = []
    for point, found in costs.items():
        guess = predict(point)
        seconds = [cost.seconds for cost in found]
        rows.append(
            [
                f"{point.edge}^3",
                _network(point),
                f"{tokens(point)}",
                spread(seconds, "{:.2f}"),
                f"{guess.flops / 1e9:.0f}",
                f"{100 * guess.flops / statistics.median(seconds) / ceiling:.0f} %",
                *_memory_cells(found, guess),
            ]
        )
    titles = ["cube", "network", "tokens", "seconds of a step", "GFLOP", "of the ceiling", *_MEMORY_TITLES]
    parts = [
        "## Size of the volume",
        "![Seconds and memory over tokens](scaling.png)",
        table(titles, rows),
        "### Exponents",
        "Least squares on the logarithms, against the number of tokens, round by round; 1 is linear. *Forward and "
        "backward* leaves out what does not depend on the volume, conductor and optimizer; *activations* is the peak "
        "memory without weights, gradients and momentum.",
        exponent_table(costs),
    ]
    padding = padding_rows(costs)
    if padding:
        titles = ["cube", "grid", "tokens in windows of 7 for one token", "FLOPs, x window 2", "seconds, x window 2"]
        parts += ["### Windows that do not divide the grid", _PADDING, table(titles, padding)]
    return "\n\n".join(parts)


_PADDING = (
    "A grid that the window does not divide is filled up to full windows, and the filling is projected and attended to "
    "like tokens. Where there is one token for one, what remains is attention itself, which sees 343 tokens instead of "
    "8. Choose a window that divides img_size / patch_size."
)
_MEMORY_TITLES = ["peak memory, MB", "by formula"]


def exponent_table(costs: Costs) -> str:
    """Rows: networks; columns: what grows."""
    rows = []
    for name in dict.fromkeys(_network(point) for point in costs):
        chosen = [point for point in costs if _network(point) == name]
        if len(chosen) < 2:
            continue
        sizes = [tokens(point) for point in chosen]
        rounds = range(min(len(costs[point]) for point in chosen))
        measures: list[Callable[[Point, Cost], float]] = [
            lambda _, cost: cost.seconds,
            lambda _, cost: cost.seconds - cost.update_seconds,
            _activations,
        ]
        slopes = [
            [exponent(sizes, [measure(point, costs[point][number]) for point in chosen]) for number in rounds]
            for measure in measures
        ]
        flops = exponent(sizes, [predict(point).flops for point in chosen])
        edges = ", ".join(str(point.edge) for point in chosen)
        rows.append([name, edges, *(spread(values, "{:.2f}") for values in slopes), f"{flops:.2f}"])
    titles = ["network", "edges", "a step", "forward and backward", "activations", "FLOPs"]
    return table(titles, rows)


def _activations(point: Point, cost: Cost) -> float:
    """Peak memory without weights, gradients and momentum."""
    return max(cost.memory - 3 * 4 * predict(point).parameters, MEGABYTE)


def padding_rows(costs: Costs) -> list[list[str]]:
    """What window 7 costs beyond window 2."""
    rows = []
    for point, found in costs.items():
        other = costs.get(point._replace(window=2))
        if point.window != 7 or not other:
            continue
        with torch.device("meta"):
            cost = network_cost(make_network(point))
        flops = predict(point).flops / predict(point._replace(window=2)).flops
        seconds = [one.seconds / two.seconds for one, two in zip(found, other, strict=False)]
        filled = f"{cost.padded_tokens / cost.tokens:.2f}"
        grid = point.edge // 16
        rows.append([f"{point.edge}^3", f"{grid}^3", filled, f"{flops:.2f}", spread(seconds, "{:.2f}")])
    return rows


def batch_section(costs: Costs, ceiling: float) -> str:
    """Rows: networks and batches."""
    rows = []
    for point, found in sorted(costs.items(), key=lambda item: (item[0].network, item[0].batch)):
        guess = predict(point)
        alone = costs.get(point._replace(batch=1), found)
        samples = [cost.seconds / point.batch for cost in found]
        relative = [one / two.seconds for one, two in zip(samples, alone, strict=False)]
        share = guess.flops / statistics.median(cost.seconds for cost in found) / ceiling
        cells = [f"{point.batch}", _seconds(samples), spread(relative, "{:.2f}"), f"{100 * share:.0f} %"]
        rows.append([f"{point.network}, {point.edge}^3", *cells, *_memory_cells(found, guess)])
    titles = ["network", "batch", "seconds of a sample", "x batch 1", "of the ceiling", *_MEMORY_TITLES]
    text = (
        "A step of one micro-batch; conductor and optimizer cost the same for any batch, and are shared by its samples."
    )
    return "\n\n".join(["## Batch", text, table(titles, rows)])


def tasks_section(costs: Costs, _: float) -> str:
    """Rows: numbers of losses."""
    rows = []
    first = next(point for point in costs if point.losses == 1) if any(p.losses == 1 for p in costs) else None
    for point, found in costs.items():
        guess = predict(point)
        alone = costs[first] if first else found
        relative = [one.seconds / two.seconds for one, two in zip(found, alone, strict=False)]
        flops = guess.flops / predict(first or point).flops
        update = statistics.median(cost.update_seconds / cost.seconds for cost in found)
        rows.append(
            [
                f"{point.losses}, {point.accumulation}",
                _seconds([cost.seconds / point.samples for cost in found]),
                spread(relative, "{:.2f}"),
                f"{flops:.2f}",
                f"{100 * update:.0f} %",
                *_memory_cells(found, guess),
            ]
        )
    titles = ["losses", "seconds of a sample", "x one loss", "FLOPs, x one loss", "conductor and optimizer"]
    text = (
        "The demo's network, batch 4, six micro-batches a step. Every further loss is one more backward pass in "
        "classic accumulation, and none in stochastic. Each also has a gradient of its own in memory and, from the "
        "second on, that of the step before."
    )
    return "\n\n".join(["## Losses", text, table([*titles, *_MEMORY_TITLES], rows)])


def ranks_section(costs: Costs, _: float) -> str:
    """Rows: processes."""
    alone = next((found for point, found in costs.items() if point.processes == 1), None)
    rows = []
    for point, found in costs.items():
        speeds = [point.samples / cost.seconds for cost in found]
        name = "one process" if point.processes == 1 else f"{point.processes} processes, {point.accumulation}"
        efficiency = ""
        if alone and point.processes > 1:
            # as many samples for each process as for one alone
            quotients = [one.seconds / two.seconds for one, two in zip(alone, found, strict=False)]
            efficiency = spread(quotients, "{:.2f}")
        rows.append([name, spread(speeds, "{:.1f}"), efficiency])
    text = (
        "The bundle's demo through torchrun and multi_gpu_train.json, one thread for each process, seconds of the "
        "clock between two lines of the log: data, losses, conductor and its messages included. Processes "
        f"that are {APART} are two runs at a time that do not know of each other: what they lose, the machine loses. "
        "Efficiency is samples a second over those of as many processes as fast as one alone."
    )
    return "\n\n".join(["## Processes", text, table(["", "samples a second", "efficiency"], rows)])


def runs_section(costs: Costs, ceiling: float) -> str:
    """How long runs take."""
    rows, plans = [], [read_plan(str(CONFIGS / "train.json"), overrides) for overrides in RECIPES.values()]
    for name, gpu in GPUS.items():
        cells = [
            f"{plan.run_seconds(Cards(gpu.tflops, MFU, count)) / count / DAY:.3g}" for plan in plans for count in (1, 8)
        ]
        rows.append([name, f"{gpu.tflops:g}", *cells])
    titles = ["card", "TFLOP/s, bfloat16, dense"]
    for recipe in RECIPES:
        titles += [f"{recipe}; days on 1 card", "on 8 cards"]
    parts = ["## How long a run takes", _RUNS, table(titles, rows), *_cpu_lines(costs, ceiling)]
    memory = [
        f"{name.split(':')[0]}: {memory_cost(plan).total / 1e9:.0f} GB"
        for name, plan in zip(RECIPES, plans, strict=True)
    ]
    return "\n\n".join([*parts, f"Memory of a card with micro-batches of 10, by formula: {'; '.join(memory)}."])


_RUNS = (
    f"Three losses, classic. **Assumed, not measured**: {MFU:.0%} of the peak that the data sheets promise, data that "
    "keep up, no validation, and 25 GB/s between cards. Eight cards share the samples of one. How many scans there are "
    "does not matter: epochs are counted in steps, so N scans on G cards take the days below, whatever N is; a scan is "
    "seen *samples / N* times."
)


def _cpu_lines(costs: Costs, ceiling: float) -> list[str]:
    """Runs on one core of the machine of the measurements."""
    shares = {
        point: predict(point).flops / statistics.median(cost.seconds for cost in found) / ceiling
        for point, found in costs.items()
        if point.part != "ranks"
    }
    large = [share for point, share in shares.items() if point.network == "BertsWin" and point.width == 768]
    demo = [share for point, share in shares.items() if point.part == "tasks" and point.accumulation == "classic"]
    lines = []
    for name, files, share in (
        ("the paper's", ["train.json"], large),
        ("the demo", ["train.json", "demo.json"], demo),
    ):
        if share:
            plan = read_plan([str(CONFIGS / file) for file in files], {"amp": False}, on_gpu=False)
            seconds = plan.run_seconds(Cards(ceiling / 1e12, statistics.median(share)))
            lines.append(f"{name}: {_long(seconds)} ({statistics.median(share):.0%} of the ceiling)")
    return [f"One core of the machine above, float32, **as measured**: {'; '.join(lines)}."] if lines else []


def _long(seconds: float) -> str:
    """Years, days or minutes."""
    if seconds > 730 * DAY:
        return f"{seconds / DAY / 365.25:.0f} years"
    return f"{seconds / DAY:.1f} days" if seconds > 2 * DAY else f"{seconds / 60:.1f} minutes"


# --- cells ---


def tokens(point: Point) -> int:
    """Tokens of a sample."""
    return (point.edge // 16) ** 3 if point.network != "demo" else (point.edge // 8) ** 3


def _network(point: Point) -> str:
    return f"{point.network}, window {point.window}" if point.window else f"{point.network}, global"


def _seconds(values: Sequence[float]) -> str:
    return spread(values, "{:.2f}" if statistics.median(values) > 1 else "{:.3f}")


def _memory_cells(found: Sequence[Cost], guess: Predicted) -> list[str]:
    """Measured, and by formula relative to it."""
    memory = statistics.median(cost.memory for cost in found)
    return [f"{memory / MEGABYTE:.0f}", f"{guess.memory.total / memory:.2f}" if guess.memory else ""]


# --- picture ---


def draw(costs: Costs) -> Figure:
    """Seconds and memory over tokens, both axes logarithmic."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    panels: list[tuple[str, Callable[[Cost], float]]] = [
        ("seconds of a step, one core, float32", lambda cost: cost.seconds),
        ("peak memory, GB", lambda cost: cost.memory / 1e9),
    ]
    for axes, (title, value) in zip(figure.subplots(1, 2), panels, strict=True):
        for name in dict.fromkeys(_network(point) for point in costs):
            chosen = [point for point in costs if _network(point) == name]
            sizes = [tokens(point) for point in chosen]
            medians = [statistics.median(value(cost) for cost in costs[point]) for point in chosen]
            slope = f" (exponent {exponent(sizes, medians):.2f})" if len(chosen) > 1 else ""
            axes.loglog(sizes, medians, "o-", color=COLORS.get(name, "#8a8a8a"), label=f"{name}{slope}")
        ticks = sorted({(tokens(point), point.edge) for point in costs})
        axes.set_xticks([size for size, _ in ticks], [f"{size}\n{edge}^3" for size, edge in ticks], minor=False)
        axes.set_xticks([], minor=True)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("tokens, cube", fontsize=9)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure
