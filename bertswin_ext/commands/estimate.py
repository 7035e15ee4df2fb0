"""Tell what a training run will cost before it is started."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fire.decorators import SetParseFns

from bertswin_ext.commands.hints import check_numbers, check_paths

if TYPE_CHECKING:
    from bertswin_ext.runs.run_cost import Cards, RunPlan

__all__ = ["estimate"]

_MFU = 0.4


@SetParseFns(card=str)  # type: ignore[untyped-decorator]
def estimate(
    config_file: str | Sequence[str],
    card: str = "H100",
    cards: int = 1,
    mfu: float = _MFU,
    tflops: float | None = None,
    memory_gb: float | None = None,
    link_gb_s: float = 25.0,
    scans: int | None = None,
    **overrides: Any,
) -> str:
    """Tell what a pre-training run will cost: FLOPs, memory of a card, hours.

    Run it as: python -m bertswin_ext estimate --config_file bundles/pretrain/configs/train.json --card H100 --cards 8

    Any entry of the configuration may follow, as in a run: --epochs 100 --img_size 96. Nothing is measured, and no data
    are opened. Validation, and waiting for data, are not counted.

    Args:
        config_file: train.json of the pre-training bundle, or a list of it and its overlays.
        card: "RTX 3090", "RTX 4090", "L40S", "A100" (80 GB), "H100" or "H200"; or "cpu", which needs --tflops.
        cards: number of cards, one process each.
        mfu: share of a card's peak that the run reaches, from a run or a benchmark of yours.
        tflops: peak of a card, instead of the data sheet's for bfloat16.
        memory_gb: memory of a card, instead of the data sheet's.
        link_gb_s: gigabytes a second from card to card; 25 is PCIe 4, 300 NVLink, 10 a network of 100 Gb/s.
        scans: number of scans to train on, to be told how often each is seen.
        **overrides: entries of the configuration.

    Returns:
        FLOPs, memory and hours, and how they come about.
    """
    from bertswin_ext.runs.run_cost import GPUS, Cards
    from bertswin_ext.runs.run_plan import read_plan

    check_paths(config_file=config_file)
    check_numbers(whole=True, cards=cards, scans=scans)
    check_numbers(mfu=mfu, tflops=tflops, memory_gb=memory_gb, link_gb_s=link_gb_s)
    on_gpu = card.lower() != "cpu"
    if on_gpu and card not in GPUS and tflops is None:
        raise ValueError(f"`--card` must be one of {', '.join(GPUS)} or cpu, got {card!r}. Or use --tflops.")
    if not on_gpu and tflops is None:
        raise ValueError("`--tflops` must be given for a CPU: 0.09 is a core with AVX-512 in float32.")
    positive = {"cards": cards, "mfu": mfu, "tflops": tflops, "memory_gb": memory_gb, "link_gb_s": link_gb_s}
    for name, value in (positive | {"scans": scans}).items():
        if value is not None and value <= 0:
            raise ValueError(f"`--{name}` must be more than 0, got {value}.")
    if mfu > 1:
        raise ValueError(f"`--mfu` must be a share, at most 1, got {mfu}.")
    plan = read_plan(config_file, overrides, on_gpu)
    if tflops is None and not plan.mixed:
        raise ValueError("`--tflops` must be given for a run with amp False: the data sheets' peaks are of bfloat16.")
    has = Cards(GPUS[card].tflops if tflops is None else tflops, mfu, cards, link_gb_s)
    room = GPUS[card].memory_gb if memory_gb is None and card in GPUS else memory_gb
    return "\n".join([_flops(plan), _memory(plan, room, cards), *_time(plan, has, card), *_views(plan, cards, scans)])


def _flops(plan: RunPlan) -> str:
    """What is computed."""
    cost, passes = plan.network, plan.backward_passes
    return (
        f"network: {cost.parameters / 1e6:.1f} M parameters, {cost.tokens} tokens"
        f"{f', {cost.padded_tokens} with padded windows' if cost.padded_tokens > cost.tokens else ''}; "
        f"losses: {plan.num_losses}, {plan.accumulation}\n"
        f"FLOPs of a sample: {_flop(cost.forward_flops)} forward + {passes} x {_flop(cost.backward_flops)} backward = "
        f"{_flop(plan.sample_flops)}\n"
        f"FLOPs of a step: {plan.accumulation_steps} micro-batches x {plan.batch_size} samples = "
        f"{_flop(plan.step_flops)}"
    )


def _memory(plan: RunPlan, room: float | None, cards: int) -> str:
    """What a card must hold, and whether it does."""
    from bertswin_ext.runs.run_cost import largest_batch, memory_cost

    cost = memory_cost(plan, cards)
    parts = ", ".join(f"{name} {_bytes(value)}" for name, value in cost._asdict().items())
    text = f"memory of a card: about {_bytes(cost.total)} ({parts})"
    if room is None:
        return text
    most = largest_batch(plan, room, cards)
    verdict = "fits" if plan.batch_size <= most else "does not fit"
    return f"{text}: {verdict} into {room:g} GB, which has room for batch_size {most}"


def _time(plan: RunPlan, cards: Cards, card: str) -> list[str]:
    """How long it takes."""
    step, run = plan.step_seconds(cards), plan.run_seconds(cards)
    message = step - plan.step_seconds(cards._replace(num_cards=1))
    exchange = f" + {message:.3g} s for {_bytes(plan.message_bytes)} between {cards.num_cards} cards" if message else ""
    # whole rows are sent while others are computed
    exchange += ", at most" if message and not plan.sharded else ""
    lines = [
        f"time of a step: {_flop(plan.step_flops)} / ({cards.tflops:g} TFLOP/s x {cards.mfu:g}) = "
        f"{step - message:.3g} s{exchange}",
        f"the run, {plan.num_steps} steps: {_duration(run)} on {cards.num_cards} x {card}",
    ]
    if cards.num_cards > 1:
        samples = plan.num_steps * plan.samples_of_step
        lines.append(
            f"  every card has its own samples, {samples * cards.num_cards:.3g} in all; as many as one card would see, "
            f"{samples:.3g}, with 1/{cards.num_cards} of the epochs: {_duration(run / cards.num_cards)}"
        )
    if plan.sharded:
        lines.append("  sharded weights are gathered for every pass: the seconds for that are not counted")
    if cards.mfu == _MFU:
        lines.append(f"  --mfu {_MFU} is an assumption, not a measurement")
    return lines


def _views(plan: RunPlan, cards: int, scans: int | None) -> list[str]:
    """How often a scan is seen."""
    if scans is None:
        return []
    return [f"each of {scans} scans is seen {plan.num_steps * plan.samples_of_step * cards / scans:.3g} times"]


def _flop(number: float) -> str:
    """FLOPs with a prefix."""
    factor, unit = next((pair for pair in ((1e15, "P"), (1e12, "T"), (1e9, "G")) if number >= pair[0]), (1e6, "M"))
    return f"{number / factor:.3g} {unit}FLOP"


def _bytes(number: float) -> str:
    """Bytes with a prefix."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def _duration(seconds: float) -> str:
    """Seconds, minutes, hours or days."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
