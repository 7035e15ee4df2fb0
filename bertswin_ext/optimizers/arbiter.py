"""Who wins a conflict between two tasks."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from bertswin_ext.optimizers.checks import is_number

__all__ = ["Arbiter"]


class Arbiter:
    """Pick the winner of a conflict: the task whose gradient is steady and strong.

    The score of a task is ``stability_weight`` times its cosine with its own gradient of the step before (0 if that is
    negative) plus ``strength_weight`` times its share of the pair's strength; strength is the gradient's norm over the
    running average of that norm. With ``dominance_window``, a task that has won that many conflicts in a row yields.
    At equal scores the first task wins.

    Args:
        tasks: names of the tasks, in the order of the rows.
        norm_decay: decay of the running averages, which start at 1.
        stability_weight: weight of the cosine with the step before.
        strength_weight: weight of the share of strength.
        dominance_window: conflicts in a row after which a winner yields; 0 for never, as in the paper's recipe.

    Raises:
        ValueError: a number is out of range.

    Source: GradientConductor, arXiv 2509.07252. Its text lets a repeated winner go on winning; the authors' code lets
    it yield, and so does this.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        norm_decay: float = 0.95,
        stability_weight: float = 0.8,
        strength_weight: float = 0.2,
        dominance_window: int = 0,
    ) -> None:
        if not (is_number(norm_decay) and 0 <= norm_decay < 1):
            raise ValueError(f"`norm_decay` must be at least 0 and below 1, got {norm_decay!r}. The default is 0.95.")
        if not (isinstance(dominance_window, int) and dominance_window >= 0):
            raise ValueError(f"`dominance_window` must be 0 (off) or a number of conflicts, got {dominance_window!r}.")
        for name, weight in (("stability_weight", stability_weight), ("strength_weight", strength_weight)):
            if not (is_number(weight) and weight >= 0):
                raise ValueError(f"`{name}` must not be negative, got {weight!r}. The defaults are 0.8 and 0.2.")
        self.tasks = list(tasks)
        self.norm_decay = norm_decay
        self.stability_weight = stability_weight
        self.strength_weight = strength_weight
        self.norm_averages = torch.ones(len(self.tasks), dtype=torch.float64)
        self.winners: deque[int] = deque(maxlen=dominance_window)
        self._previous_norms = torch.zeros(len(self.tasks), dtype=torch.float64)
        self._cross = torch.zeros(len(self.tasks), len(self.tasks), dtype=torch.float64)

    def observe(self, norms: torch.Tensor) -> None:
        """Update the running averages with the norms (K,) of a step's raw gradients."""
        self.norm_averages = self.norm_decay * self.norm_averages + (1 - self.norm_decay) * norms

    def look_back(self, cross_gramian: torch.Tensor) -> None:
        """Take the inner products (K, K) of a step's raw gradients with those of the step before."""
        self._cross = cross_gramian

    def decide(self, mixing: torch.Tensor, gramian: torch.Tensor, i: int, j: int) -> int:
        """Return the winner of a conflict.

        Args:
            mixing: (K, K), row i: gradient i as it is now, in multiples of the raw ones.
            gramian: inner products of the raw gradients (K, K).
            i: the first task.
            j: the second task.
        """
        norms = (mixing @ gramian @ mixing.T).diagonal().clamp(min=0).sqrt()
        strengths = {task: float(norms[task] / self.norm_averages[task]) for task in (i, j)}
        total = sum(strengths.values())
        scores = {
            task: self.stability_weight * self._stability(mixing, norms, task)
            + self.strength_weight * (strengths[task] / total if total > 0 else 0.5)
            for task in (i, j)
        }
        winner = j if scores[j] > scores[i] else i
        if self._dominates(winner):
            winner = i + j - winner
        self.winners.append(winner)
        return winner

    def close(self, norms: torch.Tensor) -> None:
        """End a step: its raw gradients, with these norms, become the previous ones."""
        self._previous_norms = norms.clone()

    def state_dict(self) -> dict[str, Any]:
        """Plain values by task name."""
        return {
            "norm_averages": dict(zip(self.tasks, self.norm_averages.tolist(), strict=True)),
            "previous_norms": dict(zip(self.tasks, self._previous_norms.tolist(), strict=True)),
            "winners": [self.tasks[winner] for winner in self.winners],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take a state over."""
        for name, value in (("norm_averages", self.norm_averages), ("previous_norms", self._previous_norms)):
            value.copy_(torch.tensor([state_dict[name][task] for task in self.tasks], dtype=torch.float64))
        self.winners.clear()
        self.winners.extend(self.tasks.index(winner) for winner in state_dict["winners"])

    def _stability(self, mixing: torch.Tensor, norms: torch.Tensor, task: int) -> float:
        """Cosine of a gradient as it is now with the same task's gradient of the step before, at least 0."""
        lengths = float(norms[task] * self._previous_norms[task])
        return max(0.0, float(mixing[task] @ self._cross[:, task]) / lengths) if lengths > 0 else 0.0

    def _dominates(self, winner: int) -> bool:
        """Whether a task has won all of the last conflicts."""
        window = self.winners.maxlen
        return bool(window) and len(self.winners) == window and set(self.winners) == {winner}
