"""A few iterations of a training run under the microscope."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from bertswin_ext.files import written_whole
from bertswin_ext.handlers.engine_values import check_positive
from bertswin_ext.handlers.profiling.facts import ProfileFacts
from bertswin_ext.handlers.profiling.iteration_parts import IterationParts
from bertswin_ext.handlers.profiling.page import duration, profile_page
from bertswin_ext.handlers.profiling.session import ProfileSession
from bertswin_ext.handlers.profiling.trace_recorder import TraceRecorder
from bertswin_ext.handlers.waiting import percent

__all__ = ["ProfileHandler"]


class ProfileHandler:
    """Measure where the time of training goes, write it on one page, and leave the run as it was.

    The first iterations after a start are left out. In the last of them the floating point operations are counted. The
    next ones are timed part by part, and nothing else is done to them, so that the times are those of any other
    iteration: on a GPU they are read from its own clock, without waiting for it. Then torch's profiler records a few
    for the time line and the list of operators; it makes them slower, and its times are used as shares only. When all
    is written the run goes on, and its result is bit for bit that of a run without a profile.

    ``<output_dir>/summary.md`` is for reading, ``<output_dir>/trace.json.gz`` for https://ui.perfetto.dev. If an epoch
    ends while the trace is recorded, the trace ends, so that validation is not in it; if the run ends first, the page
    holds what there is. Only rank 0 measures and writes. Attach it after the other handlers, so that their time is
    seen.

    MONAI's ``WorkflowProfiler`` times transforms by tracing every Python call, which slows down the run that it
    measures; ignite's ``BasicTimeProfiler`` and ``HandlersTimeProfiler`` time handlers, and the work on a batch as a
    whole. None of them tells forward from backward or knows of GPUs and operators. MONAI's NVTX handlers mark ranges
    for Nsight Systems, which needs a GPU and a program of its own.

    Args:
        output_dir: folder for the two files.
        wait: iterations to leave out at least; timing begins at the first one of a step of the optimizer.
        active: iterations to time; rounded up to whole steps of the optimizer.
        warmup: iterations that the profiler sees and throws away.
        traced: iterations in the trace, of which the last one ends a step of the optimizer.
        name: name of the logger, by default the one of the engine.

    Raises:
        ValueError: ``active``, ``warmup`` or ``traced`` is not positive, or ``wait`` is negative.
        TypeError: while attaching, the engine is no `SupervisedTrainer`.

    Example:
        >>> handler = ProfileHandler("output/profile", active=20)
        >>> handler.is_done
        False
    """

    def __init__(
        self,
        output_dir: str | Path,
        wait: int = 3,
        active: int = 10,
        warmup: int = 1,
        traced: int = 3,
        name: str | None = None,
    ) -> None:
        for argument, value in (("active", active), ("warmup", warmup), ("traced", traced)):
            check_positive(argument, value)
        if wait < 0:
            raise ValueError(f"`wait` must be 0 or more iterations, got {wait}. 3 leaves out what is slow at first.")
        self.output_dir = Path(output_dir)
        self.wait = wait
        self.active = active
        self.warmup = warmup
        self.traced = traced
        self.is_done = False
        self.logger = logging.getLogger(name)
        self._name = name
        self._engine: Any = None
        self._session: ProfileSession | None = None

    def attach(self, engine: Engine) -> None:
        """Register the handler with the trainer.

        Args:
            engine: the trainer.
        """
        if self._name is None:
            self.logger = engine.logger
        self._engine = engine
        IterationParts(self._entered).attach(engine)
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._leave_epoch)
        engine.add_event_handler(Events.COMPLETED, self._completed)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._failed)

    def _started(self, engine: Engine) -> None:
        """Let an error pass on behind all handlers: ignite leaves raising to them as soon as there is one."""
        if engine.has_event_handler(_reraise, Events.EXCEPTION_RAISED):
            engine.remove_event_handler(_reraise, Events.EXCEPTION_RAISED)
        engine.add_event_handler(Events.EXCEPTION_RAISED, _reraise)

    def _entered(self, part: str | None) -> None:
        """Go on with the iteration that runs."""
        if self.is_done or idist.get_rank() != 0:
            return
        if self._session is None:
            self._session = ProfileSession(self._engine, self.wait, self.active, self.warmup, self.traced)
            self._announce(self._session)
        self._session.enter(part)
        if self._session.is_complete:
            self._finish("")
        elif part is None and _ends_epoch(self._engine):
            self._leave_epoch()

    def _announce(self, session: ProfileSession) -> None:
        """Say what is going to be measured."""
        first, last = session.planned
        self.logger.info(f"profile: iterations {first} to {last} are measured, then {self._page} is written")

    @property
    def _page(self) -> Path:
        """The page."""
        return self.output_dir / "summary.md"

    def _leave_epoch(self) -> None:
        """Do not record what lies between two epochs, also where nobody knew when the epoch ends."""
        if self._session is not None and not self._session.goes_on_after_epoch():
            self._finish("The epoch ended before the trace was complete.")

    def _completed(self, engine: Engine) -> None:
        """Write what there is."""
        if not self.is_done and idist.get_rank() == 0:
            self._finish(f"The run ended at iteration {engine.state.iteration}, before the profile was complete.")

    def _failed(self, _engine: Engine, _error: BaseException) -> None:
        """Let go of everything: what counts now is the error."""
        if self._session is not None:
            self._session.stop()
        self._session, self.is_done = None, True

    def _finish(self, note: str) -> None:
        """Write the files, or say that there is nothing to write."""
        session, self._session, self.is_done = self._session, None, True
        facts = None
        if session is not None:
            session.stop()
            facts = session.facts(note)
        if session is None or facts is None:
            self.logger.warning(
                f"profile: nothing was measured. {note} The first {self.wait} iterations are left out: set more epochs "
                "or more steps per epoch."
            )
            return
        self._write(facts, session.recorder)
        self.logger.info(
            f"profile: {duration(facts.seconds)} per iteration, waiting for data {percent(facts.share('data'))} of it; "
            f"more in {self._page}"
        )

    def _write(self, facts: ProfileFacts, recorder: TraceRecorder) -> None:
        """Write trace and page."""
        trace = None if facts.traced is None else self.output_dir / "trace.json.gz"
        if trace is not None:
            recorder.export(trace)
        with written_whole(self._page) as temporary:
            temporary.write_text(profile_page(facts, None if trace is None else trace.name), encoding="utf-8")


def _reraise(_engine: Engine, error: BaseException) -> None:
    """Raise the error again."""
    raise error


def _ends_epoch(engine: Engine) -> bool:
    """Whether an iteration was the last one of its epoch."""
    length = engine.state.epoch_length
    return bool(length) and engine.state.iteration % length == 0
