"""The conductor's decisions as TensorBoard scalars."""

from __future__ import annotations

from pathlib import Path

import ignite.distributed as idist
from ignite.engine import Engine, Events

from bertswin_ext.handlers.engine_values import check_positive
from bertswin_ext.handlers.tensorboard import LazyWriter
from bertswin_ext.optimizers import GradientConductor, StepStatistics

__all__ = ["ConductorStatsHandler"]


class ConductorStatsHandler:
    """Write what the conductor saw and decided at every optimizer step to TensorBoard.

    The tags are ``conductor/cosine/<loss>-<loss>``, ``conductor/norm/<loss>``, ``conductor/norm_average/<loss>``,
    ``conductor/weight/<loss>``, ``conductor/wins/<loss>``, ``conductor/conflicts`` and ``conductor/skipped_steps``,
    over the trainer's iterations. Only rank 0 writes; it sees the gradients of all ranks. For means over an epoch in
    ``metrics.csv`` and ``progress.png`` give the conductor to `CurvesHandler`.

    Args:
        conductor: the trainer's conductor.
        log_dir: folder of the TensorBoard files.
        interval: steps between two entries; a skipped step is always written.

    Raises:
        ValueError: ``interval`` is not positive.
    """

    def __init__(self, conductor: GradientConductor, log_dir: str | Path, interval: int = 1) -> None:
        check_positive("interval", interval)
        self.conductor = conductor
        self.interval = interval
        self._seen: StepStatistics | None = None
        self._writer = LazyWriter(log_dir)

    def attach(self, engine: Engine) -> None:
        """Look at the conductor after every iteration of the trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: self._writer.flush())

    def _iteration_completed(self, engine: Engine) -> None:
        """Write a step that is new."""
        step = self.conductor.last_step
        if step is None or step is self._seen or idist.get_rank() != 0:
            return
        self._seen = step
        if step.is_skipped or step.step % self.interval == 0:
            for name, value in step.scalars().items():
                self._writer.open().add_scalar(f"conductor/{name}", value, int(engine.state.iteration))
