"""What became of the tensors of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

__all__ = ["WeightReport", "compare_weights", "refuse_poor_match"]

_KINDS = ("resized", "missing", "unexpected", "mismatched", "fresh")
_NUM_NAMED = 5


@dataclass(frozen=True)
class WeightReport:
    """What became of the tensors of a checkpoint.

    Attributes:
        matched: names found on both sides with the same shape.
        missing: names of the network that the checkpoint lacks.
        unexpected: names of the checkpoint that the network lacks.
        mismatched: names found on both sides, with both shapes spelled out.
        resized: names filled with interpolated values.
        fresh: names that keep their initial values because the caller wanted it so; they count neither way.

    Example:
        >>> str(WeightReport(matched=("a", "b", "c"), missing=("d",), unexpected=(), mismatched=()))
        "3 of the network's 4 tensors matched; 1 missing: d"
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]
    resized: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()

    @property
    def match(self) -> float:
        """Share of the network's tensors that the checkpoint fills."""
        return (len(self.matched) + len(self.resized)) / max(1, self._total)

    def lines(self) -> list[str]:
        """One line per kind, long lists cut."""
        lines = [f"{len(self.matched)} of the network's {self._total} tensors matched"]
        for kind in _KINDS:
            names = getattr(self, kind)
            if names:
                more = f" and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else ""
                lines.append(f"{len(names)} {kind}: {', '.join(names[:_NUM_NAMED])}{more}")
        return lines

    def __str__(self) -> str:
        """Everything on one line."""
        return "; ".join(self.lines())

    @property
    def _total(self) -> int:
        """Tensors of the network that were to be filled."""
        return len(self.matched) + len(self.resized) + len(self.missing) + len(self.mismatched)


def compare_weights(weights: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> WeightReport:
    """Match names and shapes.

    Args:
        weights: the checkpoint's tensors.
        own: the tensors to fill.

    Returns:
        What matches, names in the order of ``own``.
    """
    both = [key for key in own if key in weights]
    matched = [key for key in both if own[key].shape == weights[key].shape]
    mismatched = [
        f"{key} {tuple(weights[key].shape)} instead of {tuple(own[key].shape)}"
        for key in both
        if own[key].shape != weights[key].shape
    ]
    missing = [key for key in own if key not in weights]
    unexpected = [key for key in weights if key not in own]
    return WeightReport(tuple(matched), tuple(missing), tuple(unexpected), tuple(mismatched))


def refuse_poor_match(report: WeightReport, min_match: float, what: str) -> None:
    """Weights that do not belong to the network would leave random layers behind.

    Args:
        report: what matched.
        min_match: least share that must be filled.
        what: the checkpoint in words, the subject of the message.

    Raises:
        ValueError: less than that matched.
    """
    if report.match < min_match:
        raise ValueError(
            f"{what} does not fit the network: {report}. At least {min_match:.0%} must match. "
            "Build the network with the checkpoint's sizes."
        )
