"""The page ``step.md`` about the cost of a pre-training step, texts included, from the rows of ``step.csv``."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from tables import spread, table

from step.arms import COMPILED, OURS, PLAIN, SIZES, SWIN, VIT
from step.chart import draw_steps
from step.figures import BFLOAT16, FLOAT32, Group, groups_of, parts_of, size_name
from step.rows import Row

CPU_COMMAND = "python benchmarks/pretrain_step.py --sizes demo,96 --rounds 5"
GPU_COMMAND = "python benchmarks/pretrain_step.py --device cuda --sizes 96,224 --rounds 5 --compiled"

INTRODUCTION = """\
# What a pre-training step costs

Forward pass, losses, backward passes, and the update of the weights: how long each takes, how much memory, and how much
of what the machine can do. Written by `benchmarks/pretrain_step.py`, texts and all, from `step.csv` beside it.

![Milliseconds of the parts of a step, by method](step.png)
"""

METHODS = f"""\
## What is compared

| method | network | losses | update |
| --- | --- | --- | --- |
| BertsWin, conductor | `BertsWinMAE` | brightness, contrast and structure of sub-patches, a backward pass for each | \
`GradientConductor` (classic), `LionLARS` |
| BertsWin, one loss | the same | their weighted sum, one backward pass | `LionLARS` |
| straightforward, conductor | BertsWin as one writes it down from the paper | the same three | the same method, \
tensor by tensor |
| straightforward, one loss | the same | their weighted sum | the same optimizer, tensor by tensor |
| {VIT} | `MaskedAutoEncoderViT` with MONAI's defaults, BertsWin's patch, width, depth and heads | mean squared error \
of masked patches | `AdamW` |
| {SWIN} | `SwinTransformer`, feature size 48, and its three heads | inpainting, rotation and contrast of two views of \
a volume | `AdamW` |

The straightforward BertsWin computes the mask of -100 and gathers the relative bias anew in every block, forms the
attention from two products and a softmax, cuts and standardizes sub-patches, and decides and updates in loops over
tensors, as most code does. It does the same arithmetic: with equal weights and masks, losses and gradients of both were
compared before anything was timed, in float64. MONAI's two learn other things and are here for scale. At demo size
there is no Swin UNETR, which wants multiples of 32 voxels.
"""

READING = """\
## How to read the tables

- Milliseconds of a step; medians over the rounds, brackets hold the smallest and the largest. In a round, all methods
  and types take turns, each in a process of its own; ratios are taken round by round.
- On a CPU it is the processor's time of one thread, which does not contain what other programs took. Take the times as
  those of one machine; what counts are the ratios.
- *decide* makes one gradient of three; *update* is the optimizer.
- *speed* is how many times as fast a volume is done as by the straightforward one: with the conductor beside with the
  conductor, all others beside one loss.
- *GFLOP* are the matrix products and convolutions that a volume needs, all backward passes included, counted by
  `FlopCounterMode`; for BertsWin in the straightforward one: what is fused or computed twice changes nothing.
- *of the ceiling* is GFLOP/s of the whole step over those of one large product of matrices of that type, in the same
  round. *time for a GFLOP* compares with MONAI's ViT-MAE, whose work is small and dense.
- *peak memory* is what the process had resident at the worst moment beyond its start; *of it tensors* is what torch had
  allocated at once, which says more of small networks; on a GPU both are the same. *kept* is what the forward pass
  leaves for the backward passes.
- bfloat16 is autocast; weights, sums and the losses' statistics stay in float32.
"""


Goal = tuple[str, str, str, bool]
"""What, how much was asked for, what was measured, and whether that will do."""

GPU_NOTE = """\
It adds its rows to `step.csv` and leaves those of other machines as they are. A step gets the batch that fills four
fifths of the card (`--batch_size` sets another), time is that of the card's own events, and memory is compared for one
volume. The ceiling is compared with the data sheet of an H100, H200 or A100. The column *attention* names what torch
ran: `attention_math` there means that no fused kernel took it. float32 is multiplied in TF32 only with `--tf32`.
"""


def write_page(rows: Sequence[Row], folder: Path) -> None:
    """Write ``step.md`` and ``step.png``."""
    if not rows:
        sys.exit(f"There are no rows in {folder / 'step.csv'}. Measure first, with --rounds 5.")
    groups = groups_of(rows)
    draw_steps(groups, folder / "step.png")
    parts = [
        INTRODUCTION,
        in_short(groups),
        METHODS,
        READING,
        *machine_parts(groups),
        asked(groups),
        still_open(groups),
    ]
    text = "\n\n".join(part.strip() for part in parts)
    (folder / "step.md").write_text(text + "\n", encoding="utf-8")


# --- in short ---


def in_short(groups: Sequence[Group]) -> str:
    """Five lines for every machine."""
    lines = ["## In short"]
    for machine, found in _by_machine(groups):
        lines += [f"{machine}:", "\n".join(f"- {line}" for line in _reading(found))]
    return "\n\n".join(lines)


def _reading(groups: Sequence[Group]) -> Iterator[str]:
    """What the figures say of BertsWin with the conductor."""
    types = {FLOAT32: "float32", BFLOAT16: "bfloat16"}
    speeds = [f"{_at(groups, lambda g, d=d: g.speed(OURS, d), '{:.2f}')} in {text}" for d, text in types.items()]
    mixed = _at(groups, lambda g: g.speed(OURS, BFLOAT16, beside=FLOAT32), "{:.2f}")
    yield (
        f"speed of a step with the conductor, the straightforward one's being 1: {'; '.join(speeds)}; in bfloat16 "
        f"beside the straightforward one in float32 {mixed}"
    )
    memory = [
        f"{_at(groups, lambda g, d=d: _listed(g.memory(OURS, d)), '{:.2f}')} in {text}" for d, text in types.items()
    ]
    yield f"peak memory, the straightforward one's being 1: {'; '.join(memory)}"
    own, other = (_at(groups, lambda g, a=arm: _overhead(g, a), "{:.0f} %") for arm in (OURS, PLAIN))
    yield f"deciding and updating take {own} of the step in float32, of the straightforward one's {other}"
    used = [
        f"{_at(groups, lambda g, d=d: _percent(g.utilization(OURS, d)), '{:.0f} %')} in {t}" for d, t in types.items()
    ]
    yield f"of what a large product of matrices reaches, the whole step reaches {'; '.join(used)}"
    work = _at(groups, lambda g: g.per_flop(OURS, FLOAT32), "{:.2f}")
    yield f"time for a GFLOP in float32, that of MONAI's ViT-MAE being 1: {work}"


def _at(groups: Sequence[Group], figure: Callable[[Group], Sequence[float]], pattern: str) -> str:
    """The median of a figure at every size that has it."""
    found = [(group, figure(group)) for group in groups]
    texts = [f"{pattern.format(statistics.median(v))} at {size_name(g.size)}" for g, v in found if v]
    return ", ".join(texts) or "not measured"


def _overhead(group: Group, arm: str) -> list[float]:
    has_rows = bool(group.of(arm, FLOAT32))
    return [100 * group.share(arm, FLOAT32, "decide", "update")] if has_rows else []


def _percent(values: Sequence[float]) -> list[float]:
    return [100 * value for value in values]


def _listed(value: float | None) -> list[float]:
    return [] if value is None else [value]


def _by_machine(groups: Sequence[Group]) -> Iterator[tuple[str, list[Group]]]:
    for machine, found in groupby(groups, key=lambda group: group.machine):
        yield machine, list(found)


# --- tables ---


def machine_parts(groups: Sequence[Group]) -> Iterator[str]:
    """A section for each machine, with two tables for each size and type."""
    for machine, found in _by_machine(groups):
        yield f"## {machine}"
        for group in found:
            yield _heading(group)
            for dtype in group.dtypes:
                yield f"**{size_name(group.size)}, {dtype}.** {_ceiling(group, dtype)}"
                yield time_table(group, dtype)
                yield work_table(group, dtype)


def _heading(group: Group) -> str:
    size, first = SIZES[group.size], group.rows[0]
    millions = {row.arm: row.parameters / 1e6 for row in group.rows if not row.arm.endswith(COMPILED)}
    counts = ", ".join(f"{arm} {count:.1f} M" for arm, count in millions.items() if arm in (OURS, VIT, SWIN))
    rounds = len({row.round for row in group.rows})
    edges = f"Volumes of {size.img_size}^3, patches of {size.patch_size}^3"
    blocks = f"{size.num_layers} blocks, {size.num_heads} heads, windows of {size.window_size}^3"
    repeats = f"{rounds} round" if rounds == 1 else f"{rounds} rounds"
    return (
        f"### {size_name(group.size)}\n\n{edges}, tokens of {size.hidden_size} numbers, {blocks}, sub-patches of "
        f"{size.subpatch_size}^3. Parameters: {counts}. {first.software}; {repeats}. The two BertsWin agree to "
        f"{first.deviation:.0e}."
    )


def _ceiling(group: Group, dtype: str) -> str:
    reached, known = group.ceiling(dtype), group.data_sheet()
    text = f"A large product of matrices reaches {reached:.0f} GFLOP/s"
    if dtype == BFLOAT16 and known:
        text += f", {reached / known / 10:.0f} % of the data sheet's {1000 * known:.0f}"
    return text + "."


def time_table(group: Group, dtype: str) -> str:
    """Rows: methods; columns: parts of a step."""
    rows = []
    for arm in group.arms(dtype):
        found = group.of(arm, dtype)
        parts = [_milliseconds([seconds]) for seconds in parts_of(found)]
        whole = _milliseconds([row.step() for row in found])
        rows.append([arm, f"{found[0].batch}", *parts, whole, _spread(group.speed(arm, dtype), "{:.2f}")])
    titles = ["method", "volumes", "forward", "loss", "backward", "decide", "update", "whole step, ms", "speed"]
    return table(titles, rows)


def work_table(group: Group, dtype: str) -> str:
    """Rows: methods; columns: work and memory."""
    rows = []
    for arm in group.arms(dtype):
        first = group.of(arm, dtype)[0]
        memory, tensors = (group.memory(arm, dtype, field) for field in ("memory_mb", "tensors_mb"))
        cells = [
            f"{group.gflop(arm, dtype):.3g}",
            f"{statistics.median(group.rate(arm, dtype)):.0f}",
            _spread(_percent(group.utilization(arm, dtype)), "{:.0f}") + " %",
            _spread(group.per_flop(arm, dtype), "{:.2f}"),
            f"{first.memory_mb:.0f}{_relative(memory)}",
            f"{first.tensors_mb:.0f}{_relative(tensors)}",
            f"{first.kept_mb:.0f}",
            first.attention.replace("scaled_dot_product_", ""),
        ]
        rows.append([arm, *cells])
    volumes = group.of(group.arms(dtype)[0], dtype)[0].memory_batch
    titles = ["method", "GFLOP", "GFLOP/s", "of the ceiling", "time for a GFLOP, x ViT-MAE"]
    memory_titles = ["(x straightforward)", "of it tensors", "kept", "attention"]
    return table([*titles, f"peak memory of {volumes}, MB {memory_titles[0]}", *memory_titles[1:]], rows)


def _relative(value: float | None) -> str:
    return "" if value is None else f" ({value:.2f})"


def _milliseconds(seconds: Sequence[float]) -> str:
    milli = [1000 * value for value in seconds]
    pattern = "{:.1f}" if statistics.median(milli) < 100 else "{:.0f}"
    return pattern.format(milli[0]) if len(milli) == 1 else spread(milli, pattern)


def _spread(values: Sequence[float], pattern: str) -> str:
    if not values or max(values) == 0:
        return ""
    return pattern.format(values[0]) if len(values) == 1 else spread(values, pattern)


# --- what was asked for ---


def asked(groups: Sequence[Group]) -> str:
    """What the step was to reach, and what it reaches."""
    rows = []
    for group in groups:
        for what, goal, measured, is_met in goals(group):
            where = f"{size_name(group.size)}, {group.machine}"
            rows.append([where, what, goal, measured, "yes" if is_met else "no"])
    titles = ["where", "BertsWin with the conductor", "asked for", "measured", "met"]
    return "## What was asked for\n\n" + table(titles, rows)


def goals(group: Group) -> Iterator[Goal]:
    """All goals of a machine and size; what was not measured is left out."""
    on_gpu = group.device == "cuda"
    speed, memory = (2.5, 0.6) if on_gpu else (1.5, 0.7)
    dtype = BFLOAT16 if on_gpu else FLOAT32
    yield from _goal(f"speed in {dtype}, x straightforward", group.speed(OURS, dtype), speed, at_least=True)
    if not on_gpu:
        mixed = group.speed(OURS, BFLOAT16, beside=FLOAT32)
        yield from _goal("speed in bfloat16, x straightforward in float32", mixed, speed, at_least=True)
        yield from _goal("time for a GFLOP in float32, x ViT-MAE", group.per_flop(OURS, dtype), 1.0, at_least=False)
    else:
        yield from _goal("share of the ceiling in bfloat16", group.utilization(OURS, dtype), 0.45, at_least=True)
        yield from _fused(group, dtype)
    for field, what in (("memory_mb", "peak memory"), ("tensors_mb", "tensors' peak memory")):
        found = _listed(group.memory(OURS, dtype, field))
        yield from _goal(f"{what} in {dtype}, x straightforward", found, memory, at_least=False)


def _goal(what: str, found: list[float], goal: float, at_least: bool) -> Iterator[Goal]:
    if found:
        middle, text = statistics.median(found), _spread(found, "{:.2f}")
        yield what, f"{'>=' if at_least else '<='} {goal}", text, middle >= goal if at_least else middle <= goal


def _fused(group: Group, dtype: str) -> Iterator[Goal]:
    for row in group.of(OURS, dtype)[:1]:
        is_fused = "math" not in row.attention and "softmax" not in row.attention
        yield f"attention in {dtype}", "a fused kernel", row.attention, is_fused


def still_open(groups: Sequence[Group]) -> str:
    """What nobody knows yet, and how to find out."""
    on_gpu = any(group.device == "cuda" for group in groups)
    return "\n\n".join(
        [
            "## What is open, and how to repeat it",
            "The GPU's rows come from" if on_gpu else "Nobody has run this on a GPU yet. The command:",
            f"```bash\n{GPU_COMMAND}\n```",
            GPU_NOTE.strip(),
            "The CPU's rows, in about half an hour on one core:",
            f"```bash\n{CPU_COMMAND}\n```",
            "`--compiled` adds `torch.compile`, which builds for minutes; `--sizes 224` the paper's size, of which a "
            "step with the conductor takes nearly 4 TFLOP.",
        ]
    )
