"""Reading values of a GPU without waiting for it."""

from __future__ import annotations

import torch

__all__ = ["LateReader"]


class LateReader:
    """Reads what a GPU computes in every step, a step late, so that the CPU need not wait for the GPU.

    The first tensor is read at once. Of a later call the answer is an earlier tensor, or None where the GPU has not
    come to it. A tensor on the CPU is its own answer.

    Example:
        >>> LateReader().read(torch.tensor([True, False]))
        tensor([ True, False])
    """

    def __init__(self) -> None:
        self._sent: tuple[torch.Tensor, torch.cuda.Event] | None = None

    def read(self, values: torch.Tensor) -> torch.Tensor | None:
        """Send these values to the CPU, and return those that have arrived."""
        if not values.is_cuda:
            return values
        if torch.cuda.is_current_stream_capturing():
            return None
        if self._sent is None:
            self._sent = _sent(values)
            self._sent[1].synchronize()
            return self._sent[0]
        arrived, event = self._sent
        if not event.query():
            return None
        self._sent = _sent(values)
        return arrived


def _sent(values: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event]:
    """Where a copy on the CPU will be, and the event after which it is there."""
    # only pinned memory is copied to without waiting
    copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    copy.copy_(values, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return copy, event
