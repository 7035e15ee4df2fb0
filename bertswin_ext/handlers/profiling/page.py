"""A profile on one page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bertswin_ext.evaluation.markdown_table import markdown_table
from bertswin_ext.handlers.profiling.facts import MachineFacts, ProfileFacts
from bertswin_ext.handlers.profiling.hints import hints
from bertswin_ext.handlers.profiling.iteration_parts import PARTS
from bertswin_ext.handlers.profiling.operator_times import OperatorTime, device_seconds
from bertswin_ext.handlers.waiting import percent

__all__ = ["profile_page"]

_NUM_OPERATORS = 10
_NUM_SHAPES = 6
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def profile_page(facts: ProfileFacts, trace: str | None = None) -> str:
    """A profile as Markdown.

    Args:
        facts: what was measured.
        trace: name of the file with the trace, if there is one.
    """
    lines = ["# Where the time of training goes", "", *facts.notes, *([""] if facts.notes else [])]
    lines += [*_headline(facts), "", *_parts_table(facts), "", "## What to do", ""]
    lines += [f"- {hint}" for hint in hints(facts)]
    lines += ["", "## Work and memory", "", *_work(facts)]
    if facts.traced is not None:
        lines += ["", "## Most expensive operators", "", *_operators(facts)]
    lines += ["", "## Machine and run", "", *_machine(facts.machine)]
    lines += ["", "How to read this page: docs/how-to/profile.md of bertswin-bundles."]
    if trace is not None:
        lines[-1] += f" To see every call on a time line, open `{trace}` in https://ui.perfetto.dev."
    return "\n".join(lines) + "\n"


def _headline(facts: ProfileFacts) -> list[str]:
    """Length of an iteration, and how fast that is."""
    first, last = facts.timed
    fastest, slowest = min(facts.iteration_seconds), max(facts.iteration_seconds)
    per_step = facts.iterations_per_step
    return [
        f"**{duration(facts.seconds)} per iteration** ({duration(fastest)} to {duration(slowest)}), "
        f"**{_samples(facts)}, {percent(facts.share('data'))} of the time waiting for data.**",
        "",
        f"Means of iterations {first} to {last}, each with {_counted(facts.samples, 'sample')}, timed while nothing "
        f"was recorded. Validation is not in them.{f' {per_step} iterations make a step.' if per_step > 1 else ''}",
    ]


def _samples(facts: ProfileFacts) -> str:
    """Throughput, of this process and of all."""
    speed = facts.samples / facts.seconds
    ranks = facts.machine.ranks
    return f"{speed:.3g} samples per second" + (f" ({speed * ranks:.3g} in {ranks} processes)" if ranks > 1 else "")


def _parts_table(facts: ProfileFacts) -> list[str]:
    """How an iteration splits."""
    rows = [
        [PARTS[part], duration(seconds), percent(facts.share(part)), round(30 * facts.share(part)) * "█"]
        for part, seconds in facts.part_seconds.items()
    ]
    return markdown_table(["part of an iteration", "time", "share", ""], rows)


def _work(facts: ProfileFacts) -> list[str]:
    """Operations, how near they come to what the device can do, and memory."""
    machine = facts.machine
    ceiling = machine.product_speeds[machine.dtype]
    lines = []
    if facts.operations is not None:
        speed = facts.operations / facts.seconds
        lines.append(
            f"- {quantity(facts.operations)}FLOP per iteration in products, convolutions and attention: "
            f"{quantity(speed)}FLOP/s, {percent(speed / ceiling)} of the {quantity(ceiling)}FLOP/s with which this "
            f"device multiplies large matrices in {_dtype(machine)}."
        )
    if machine.device_type == "cuda" and facts.operators:
        busy = min(1.0, device_seconds(facts.operators) / facts.seconds)
        lines.append(f"- The GPU computes {percent(busy)} of the time.")
    return [*lines, *(f"- Peak memory {name}: {quantity(peak)}B." for name, peak in facts.peak_bytes.items())]


def _operators(facts: ProfileFacts) -> list[str]:
    """The operators that take most of the time, and with which shapes."""
    first, last = facts.traced or (0, 0)
    iterations = f"iteration {first}" if first == last else f"iterations {first} to {last}"
    shapes = [time for time in facts.shapes if time.shapes][:_NUM_SHAPES]
    return [
        f"From the trace of {iterations}; recording made everything slower, so look at the shares. An operator's own "
        "time, without that of operators it calls.",
        "",
        *_operator_table(facts.operators[:_NUM_OPERATORS]),
        "",
        "The same by shape of the inputs:",
        "",
        *_operator_table(shapes, with_shapes=True),
    ]


def _operator_table(times: Iterable[OperatorTime], with_shapes: bool = False) -> list[str]:
    """Operators, one to a line."""
    head = ["operator", *(["inputs"] if with_shapes else []), "share", "per iteration", "calls"]
    rows: list[Sequence[str]] = [
        [
            f"`{time.name}`",
            *([time.shapes] if with_shapes else []),
            percent(time.share),
            duration(time.seconds),
            f"{time.calls:.3g}",
        ]
        for time in times
    ]
    return markdown_table(head, rows)


def _machine(machine: MachineFacts) -> list[str]:
    """What computed."""
    workers = "?" if machine.num_workers is None else machine.num_workers
    cached = "" if machine.cached_share is None else f", {percent(machine.cached_share)} of the volumes in memory"
    return [
        f"- {machine.name}, {machine.cores} cores; {_counted(machine.ranks, 'process', 'es')} with "
        f"{_counted(machine.threads, 'thread')}.",
        f"- {machine.network}, {quantity(machine.num_parameters)} parameters, {_dtype(machine)}.",
        f"- Data loader: `num_workers` {workers}{cached}.",
        f"- {', '.join(f'{name} {version}' for name, version in machine.versions.items())}.",
    ]


def _counted(number: float, thing: str, plural: str = "s") -> str:
    """A number of things."""
    return f"{number:.3g} {thing}{'' if number == 1 else plural}"


def _dtype(machine: MachineFacts) -> str:
    """The type of numbers, as a reader knows it."""
    return str(machine.dtype).removeprefix("torch.")


def duration(seconds: float) -> str:
    """Write a duration with its unit.

    Example:
        >>> duration(0.0123), duration(2.345), duration(4e-6)
        ('12.3 ms', '2.35 s', '0.004 ms')
    """
    return f"{seconds:.3g} s" if seconds >= 0.9995 else f"{1000 * seconds:.3g} ms"


def quantity(number: float) -> str:
    """Write a large number with the letter that goes before its unit.

    Example:
        >>> quantity(1.25e12), quantity(8.5e8), quantity(12)
        ('1.25 T', '850 M', '12 ')
    """
    for size, letter in _UNITS:
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.3g} "
