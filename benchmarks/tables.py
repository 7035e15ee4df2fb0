"""What the benchmarks print: medians with their spread, in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

Seconds = Sequence[float]
Times = Mapping[str, list[dict[str, float]]]
"""By method, one entry per round."""


def step_table(times: Times, memory: Mapping[str, float]) -> str:
    """Rows: methods; columns: time and memory."""
    rows = []
    for name, rounds in times.items():
        relative = [one["step"] / other["step"] for one, other in zip(rounds, times["AdamW"], strict=True)]
        rows.append(
            [
                name,
                *(milliseconds([entry[part] for entry in rounds]) for part in ("batch", "rest", "step")),
                spread(relative, "{:.2f}"),
                f"{memory[name] / 2**20:.0f}",
                f"{memory[name] / memory['AdamW']:.2f}",
            ]
        )
    titles = ["method", "micro-batch, ms", "rest of a step, ms", "step, ms", "x AdamW", "peak memory, MiB", "x AdamW"]
    return table(titles, rows)


def arithmetic_table(times: Times) -> str:
    """Rows: methods; columns: parts of a step of six micro-batches."""
    rows = []
    for name in times:
        if name.startswith("LionLARS,"):
            continue  # the yardstick for accumulation
        parts = arithmetic_parts(times, name)
        columns = ("accumulate", "gramians", "decide", "update", "clear", "all")
        cells = [milliseconds(parts[column]) if any(parts[column]) else "" for column in columns]
        rows.append([name, *cells, f"{times[name][0]['calls']}"])
    titles = ["ms", "accumulate", "both Gramians", "decide", "update", "clear", "all", "calls"]
    return table(titles, rows)


def arithmetic_parts(times: Times, name: str) -> dict[str, list[float]]:
    """Seconds of every part of a method's arithmetic, by round."""
    num_tasks = int(name.split("K = ")[1][0]) if "K = " in name else 1
    yardstick = times["LionLARS" if num_tasks == 1 else f"LionLARS, K = {num_tasks}"]
    is_plain = name.startswith(("AdamW", "LionLARS"))
    extra = [
        0.0 if is_plain else one["backward"] - other["backward"]
        for one, other in zip(times[name], yardstick, strict=True)
    ]
    parts = {part: [entry[part] for entry in times[name]] for part in ("gramians", "decide", "update", "clear")}
    after = [sum(seconds) for seconds in zip(parts["decide"], parts["update"], parts["clear"], strict=True)]
    return parts | {"accumulate": extra, "after": after, "all": [sum(both) for both in zip(extra, after, strict=True)]}


def conclusions(
    steps: Times,
    arithmetic: Times,
    ratios: list[float],
    deviation: float,
) -> str:
    """The figures that count, large network."""
    conductor = arithmetic_parts(arithmetic, "conductor, K = 3")
    step = statistics.median(entry["step"] for entry in steps["conductor, K = 3, classic"])
    lines = [
        f"arithmetic of the conductor and LionLARS, K = 3, classic: {percent(conductor['all'], step)} of a step of "
        f"{step:.1f} s",
        f"`accumulate` over plain backward passes, real graph: {spread(ratios, '{:.3f}')}",
    ]
    for name in ("loop, K = 3", "loop, K = 3, no conflict"):
        own = arithmetic_parts(arithmetic, name.replace("loop", "conductor"))
        loop = arithmetic_parts(arithmetic, name)
        lines.append(
            f"{name}: {ratio(loop['after'], own['after'])} times the conductor's arithmetic after accumulation, "
            f"{ratio(loop['decide'], own['decide'])} for deciding alone, {ratio(loop['all'], own['all'])} in all"
        )
    lines.append(f"loop and conductor make the same gradient to {deviation:.0e} of its largest entry")
    for num_tasks in (2, 3):
        name = f"conductor, K = {num_tasks}, stochastic"
        compared = ratio(*([entry["step"] for entry in steps[which]] for which in (name, "AdamW")))
        lines.append(f"stochastic accumulation, K = {num_tasks}: {compared} times AdamW per sample")
    return "\n".join(f"- {line}" for line in lines)


def spread(values: Sequence[float], pattern: str) -> str:
    """Median; smallest and largest in brackets."""
    middle, low, high = (pattern.format(value) for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({low} to {high})"


def milliseconds(seconds: Seconds) -> str:
    """Spread in milliseconds."""
    return spread([1000 * value for value in seconds], "{:.1f}" if abs(statistics.median(seconds)) < 0.01 else "{:.0f}")


def ratio(left: Seconds, right: Seconds) -> str:
    """Spread of the quotients, pair by pair."""
    return spread([one / other for one, other in zip(left, right, strict=True)], "{:.2f}")


def percent(seconds: Seconds, whole: float) -> str:
    """Spread of the shares of a whole."""
    return spread([100 * value / whole for value in seconds], "{:.1f}") + " %"


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right."""
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
