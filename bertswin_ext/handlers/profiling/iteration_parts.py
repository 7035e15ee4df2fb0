"""Which part of an iteration a trainer is in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents

__all__ = ["PARTS", "IterationParts"]

PARTS = {
    "data": "waiting for data",
    "prepare": "preparing the batch",
    "forward": "forward",
    "loss": "loss",
    "backward": "backward",
    "step": "optimizer step",
    "rest": "the rest",
}
"""The parts of an iteration in their order, as a reader knows them; a conductor decides in the optimizer step."""

_STARTS = {
    Events.GET_BATCH_STARTED: "data",
    Events.GET_BATCH_COMPLETED: "rest",
    IterationEvents.FORWARD_COMPLETED: "loss",
    IterationEvents.LOSS_COMPLETED: "backward",
    IterationEvents.BACKWARD_COMPLETED: "step",
    IterationEvents.MODEL_COMPLETED: "rest",
    Events.ITERATION_COMPLETED: None,
}


class IterationParts:
    """Tell a listener when a part of an iteration begins, and when the iteration is over.

    An iteration runs from asking for its batch to the last handler of its end: what happens between epochs, validation
    above all, belongs to none. The batch is prepared from the call of the trainer's ``prepare_batch`` on, which is
    wrapped from the first run on.

    Args:
        listener: called with a key of ``PARTS`` when that part begins, with None when an iteration is over.

    Raises:
        TypeError: while attaching, the engine is no `SupervisedTrainer`.

    Example:
        >>> IterationParts(listener=lambda part: None).listener("data")
    """

    def __init__(self, listener: Callable[[str | None], None]) -> None:
        self.listener = listener
        self._prepare_batch: Callable[..., Any] | None = None

    def attach(self, engine: Engine) -> None:
        """Listen to a trainer whenever it runs.

        Args:
            engine: MONAI's `SupervisedTrainer`, or one made of it.
        """
        if not isinstance(engine, SupervisedTrainer):
            raise TypeError(
                f"Only a SupervisedTrainer can be profiled, or a trainer made of it, got {type(engine).__name__}: no "
                "other engine tells when its forward and backward passes are over."
            )
        engine.add_event_handler(Events.STARTED, self._started)

    def _started(self, engine: Any) -> None:
        """Take the last place among the handlers, so that the time of the others is seen."""
        if self._prepare_batch is not None:
            return
        for event, part in _STARTS.items():
            engine.add_event_handler(event, self._entered, part)
        self._prepare_batch, engine.prepare_batch = engine.prepare_batch, self._prepared

    def _entered(self, _engine: Engine, part: str | None) -> None:
        """Pass an event on."""
        self.listener(part)

    def _prepared(self, *args: Any, **kwargs: Any) -> Any:
        """The trainer's own batch; the forward pass comes next."""
        self.listener("prepare")
        batch = self._prepare_batch(*args, **kwargs)  # type: ignore[misc]
        self.listener("forward")
        return batch
