"""What one step of the conductor was like."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Conflict", "StepStatistics"]


class Conflict(NamedTuple):
    """One decision between two tasks."""

    winner: str
    loser: str


@dataclass(frozen=True)
class StepStatistics:
    """Numbers of one step, by task or pair of tasks.

    Args:
        step: optimizer steps up to and with this one, skipped ones included.
        norms: norm of every task's weighted gradient.
        norm_averages: running average of these norms.
        cosines: cosine between the raw gradients of every pair.
        weights: weight of every raw gradient in the sum that became the model's gradient.
        conflicts: what was decided, in order.
        not_finite: tasks because of whose gradients the step was skipped.
        num_skipped: steps skipped so far.
    """

    step: int
    norms: dict[str, float]
    norm_averages: dict[str, float]
    cosines: dict[tuple[str, str], float] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    conflicts: tuple[Conflict, ...] = ()
    not_finite: tuple[str, ...] = ()
    num_skipped: int = 0

    @property
    def is_skipped(self) -> bool:
        """Whether there was no gradient to step with."""
        return bool(self.not_finite)

    def scalars(self) -> dict[str, float]:
        """Everything as numbers under names like ``cosine/brightness-contrast``; of a skipped step, the count only."""
        if self.is_skipped:
            return {"skipped_steps": float(self.num_skipped)}
        return {
            **{f"cosine/{first}-{second}": value for (first, second), value in self.cosines.items()},
            **{f"norm/{task}": value for task, value in self.norms.items()},
            **{f"norm_average/{task}": value for task, value in self.norm_averages.items()},
            **{f"weight/{task}": value for task, value in self.weights.items()},
            **{f"wins/{task}": float(sum(c.winner == task for c in self.conflicts)) for task in self.norms},
            "conflicts": float(len(self.conflicts)),
            "skipped_steps": float(self.num_skipped),
        }
