"""Which iterations are measured, and how."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any, Protocol

import torch

from bertswin_ext.handlers.profiling.facts import ProfileFacts, machine_facts, peak_bytes
from bertswin_ext.handlers.profiling.iteration_parts import PARTS
from bertswin_ext.handlers.profiling.operation_count import OperationCount
from bertswin_ext.handlers.profiling.part_times import PartTimes
from bertswin_ext.handlers.profiling.trace_recorder import TraceRecorder

__all__ = ["ProfileSession"]


class Instrument(Protocol):
    """What measures an iteration."""

    def enter(self, part: str | None) -> None:
        """A part of the iteration begins, or with None the iteration is over."""
        ...


class ProfileSession:
    """Some iterations left out, one counted, some timed, some recorded; made when the first of them begins.

    Where several iterations make one step of the optimizer, whole steps are timed and the trace ends with a step.

    Args:
        engine: the trainer, about to ask for a batch.
        wait: iterations to leave out at least.
        active: iterations to time at least.
        warmup: iterations to record and throw away.
        traced: iterations to record.
    """

    def __init__(self, engine: Any, wait: int, active: int, warmup: int, traced: int) -> None:
        self.engine = engine
        self.per_step = int(getattr(engine, "accumulation_steps", 1))
        self.lengths = (warmup, traced)
        device = torch.device(engine.state.device)
        self.count = OperationCount(engine.network)
        self.times = PartTimes(device)
        self.recorder = TraceRecorder(device, warmup, traced)
        self._has_tried = False
        self._instrument: Instrument | None = None
        self._samples: list[int] = []
        self._peak: dict[str, int] = {}
        self._timed: list[int] = []
        self._traced: list[int] = []
        wait = _whole(wait + _position(engine), self.per_step) - _position(engine)
        left_out: list[Instrument | None] = [None] * wait
        left_out[-1:] = [self.count] * min(1, wait)
        self._plan = left_out + [self.times] * _whole(active, self.per_step) + self._trace_plan()
        self.planned = (engine.state.iteration + 1 + wait, engine.state.iteration + len(self._plan))

    @property
    def is_complete(self) -> bool:
        """Whether the last iteration of the plan is over."""
        return not self._plan and self._instrument is None

    def enter(self, part: str | None) -> None:
        """Hand a part of an iteration to what measures it.

        Args:
            part: a key of ``PARTS``, or None at the end of the iteration.
        """
        if part == next(iter(PARTS)) and self._plan:
            self._instrument = self._plan.pop(0)
        if self._instrument is not None:
            self._instrument.enter(part)
        if part == "loss" and self._instrument is self.times:
            self._samples.append(_num_samples(self.engine.state.output["image"]))
        if part is None:
            self._end_iteration()

    def goes_on_after_epoch(self) -> bool:
        """Whether there is more to measure in the next epoch, without anything that lies between the two."""
        if not self.recorder.is_running:
            return True
        if self.recorder.num_recorded or self._has_tried:
            return False
        # no more than warm: try once again
        self.recorder.stop()
        self._has_tried = True
        self.recorder = TraceRecorder(self.recorder.device, *self.lengths)
        self._plan = self._trace_plan()
        return True

    def stop(self) -> None:
        """Measure no more."""
        self.count.stop()
        self.recorder.stop()

    def facts(self, note: str) -> ProfileFacts | None:
        """What was found, None if no iteration was timed.

        Args:
            note: what did not go as planned, empty if all did.
        """
        if not self._timed:
            return None
        return ProfileFacts(
            machine=machine_facts(self.engine),
            timed=(self._timed[0], self._timed[-1]),
            traced=(self._traced[0], self._traced[-1]) if self._traced else None,
            iterations_per_step=self.per_step,
            samples=fmean(self._samples),
            iteration_seconds=self.times.iteration_seconds(),
            part_seconds={part: self.times.mean_seconds(part) for part in PARTS},
            peak_bytes=self._peak,
            operations=self.count.operations,
            operators=self.recorder.operators(),
            shapes=self.recorder.operators(by_shape=True),
            notes=[note] if note else [],
        )

    def _trace_plan(self) -> list[Instrument | None]:
        """From the beginning of a step on, so that the last iteration ends one."""
        length = sum(self.lengths)
        return [None] * (-length % self.per_step) + [self.recorder] * length

    def _end_iteration(self) -> None:
        """Note which iterations count."""
        iteration = int(self.engine.state.iteration)
        if self._instrument is self.times:
            self._timed.append(iteration)
            # before the recording, which takes memory of its own
            self._peak = peak_bytes(self.times.device)
        elif self._instrument is self.recorder and self.recorder.num_recorded:
            self._traced.append(iteration)
        self._instrument = None


def _num_samples(inputs: Any) -> int:
    """Samples of a batch, which may have several inputs."""
    return len(next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs)


def _whole(number: int, per_step: int) -> int:
    """At least so many iterations, in whole steps."""
    return -(-number // per_step) * per_step


def _position(engine: Any) -> int:
    """Iterations since the last step of the optimizer."""
    length = engine.state.epoch_length
    done = engine.state.iteration % length if length else engine.state.iteration
    return int(done) % int(getattr(engine, "accumulation_steps", 1))
