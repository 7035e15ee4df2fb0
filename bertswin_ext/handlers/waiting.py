"""How much of its time an engine waits for the next batch."""

from __future__ import annotations

import time
from collections.abc import Callable

from ignite.engine import Engine, Events

__all__ = ["WaitingTime", "percent"]


def percent(share: float) -> str:
    """Write a share for a reader, with as many digits as matter.

    Example:
        >>> percent(0.234), percent(0.0234), percent(1.0)
        ('23 %', '2.3 %', '100 %')
    """
    value = 100 * share
    return f"{value:.1f} %" if value < 9.95 else f"{value:.0f} %"


class WaitingTime:
    """Share of an epoch's time between asking the data loader for a batch and getting it.

    This is the time of the process that trains. On a GPU, which is given work ahead, it may be that the device still
    computes meanwhile: its own pauses are no longer than this. Validation does not count, and neither does the first
    iteration after a start, in which processes start, caches fill and kernels are compiled. Attach it before what
    validates at the end of an epoch.

    Args:
        clock: seconds from any moment on.

    Example:
        >>> waiting = WaitingTime()
        >>> waiting.attach(Engine(lambda engine, batch: None))
        >>> waiting.last_epoch is None
        True
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        # looked up late, so that a test can set the time
        self._clock = clock or (lambda: time.monotonic())
        self.last_epoch: float | None = None
        self._asked: float | None = None
        self._counts_since: float | None = None
        self._is_warm = False
        self._epoch_waited = 0.0
        self._waited = 0.0
        self._seconds = 0.0

    @property
    def session(self) -> float | None:
        """Share in all epochs since the start of the run, None before there is one to speak of."""
        return self._waited / self._seconds if self._seconds > 0 else None

    def attach(self, engine: Engine) -> None:
        """Measure from now on.

        Args:
            engine: the trainer.
        """
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.EPOCH_STARTED, self._epoch_started)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._batch_asked)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._batch_came)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)

    def _started(self) -> None:
        """Begin anew: every run warms up."""
        self.last_epoch, self._is_warm, self._waited, self._seconds = None, False, 0.0, 0.0

    def _epoch_started(self) -> None:
        """Start the clock of the epoch, once the first iteration is over."""
        self._epoch_waited = 0.0
        self._counts_since = self._clock() if self._is_warm else None

    def _batch_asked(self) -> None:
        """Note when a batch was asked for."""
        self._asked = self._clock()

    def _batch_came(self) -> None:
        """Add the time that it took to come."""
        if self._asked is not None and self._counts_since is not None:
            self._epoch_waited += self._clock() - self._asked
        self._asked = None

    def _iteration_completed(self) -> None:
        """Count from here on if this was the first iteration."""
        if not self._is_warm:
            self._is_warm, self._counts_since = True, self._clock()

    def _epoch_completed(self) -> None:
        """Settle the epoch, before validation."""
        seconds = 0.0 if self._counts_since is None else self._clock() - self._counts_since
        self.last_epoch = self._epoch_waited / seconds if seconds > 0 else None
        self._waited += self._epoch_waited
        self._seconds += seconds
