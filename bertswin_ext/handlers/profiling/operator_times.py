"""What the operators of recorded iterations cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["OperatorTime", "device_seconds", "operator_times", "product_share"]

_PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::_scaled_dot_product")


@dataclass(frozen=True)
class OperatorTime:
    """An operator, or an operator with inputs of certain shapes.

    Args:
        name: as torch calls it.
        shapes: its inputs, such as ``864x96, 96x384``; empty where all shapes are taken together.
        seconds: its own time per iteration, without that of operators it calls; on a GPU the time of its kernels.
        calls: per iteration.
        share: of all operators' time.
    """

    name: str
    shapes: str
    seconds: float
    calls: float
    share: float


def operator_times(
    profiler: torch.profiler.profile, num_iterations: int, on_gpu: bool, by_shape: bool = False
) -> list[OperatorTime]:
    """The operators of a recording, the most expensive one first.

    Args:
        profiler: a recording that has ended, made with ``record_shapes``.
        num_iterations: iterations in it.
        on_gpu: take the times of kernels.
        by_shape: keep inputs of different shapes apart.

    Example:
        >>> with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as run:
        ...     _ = torch.ones(2, 3) @ torch.ones(3, 4)
        >>> [time.shapes for time in operator_times(run, 1, on_gpu=False, by_shape=True) if time.name == "aten::mm"]
        ['2x3, 3x4']
    """
    found = [event for event in profiler.key_averages(group_by_input_shape=by_shape) if _is_operator(event)]
    total = sum(_own_us(event, on_gpu) for event in found) or 1.0
    times = [
        OperatorTime(
            name=event.key,
            shapes=_shapes(event.input_shapes) if by_shape else "",
            seconds=_own_us(event, on_gpu) / 1e6 / num_iterations,
            calls=event.count / num_iterations,
            share=_own_us(event, on_gpu) / total,
        )
        for event in found
    ]
    return sorted(times, key=lambda time: -time.seconds)


def device_seconds(times: Iterable[OperatorTime]) -> float:
    """Time of all operators per iteration."""
    return sum(time.seconds for time in times)


def product_share(times: Iterable[OperatorTime]) -> float:
    """Share of products of matrices, attention included: what bfloat16 makes faster."""
    return sum(time.share for time in times if time.name.startswith(_PRODUCTS))


def _is_operator(event: Any) -> bool:
    """Whether an event is an operator: neither a range that somebody named, nor a kernel, which its operator counts."""
    return not event.is_user_annotation and event.device_type.name == "CPU"


def _own_us(event: Any, on_gpu: bool) -> float:
    """Microseconds of an event without those of the events in it."""
    return float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)


def _shapes(shapes: Iterable[Iterable[int]]) -> str:
    """The shapes of tensors; what is none has an empty shape."""
    return ", ".join("x".join(str(size) for size in shape) for shape in shapes if shape)
