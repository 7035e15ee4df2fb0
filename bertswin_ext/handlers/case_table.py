"""Figures of every single volume."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from bertswin_ext.files import written_whole
from bertswin_ext.losses import ReconstructionLoss, one_sample

__all__ = ["CaseTableHandler"]


class CaseTableHandler:
    """Write a CSV with one row per volume: patient, file, and every term of the losses.

    Args:
        path: file to write; other processes than the first write ``<name>_rank<number>.csv`` beside it.
        cases: items of the evaluator's dataset, in its order.
        losses: losses whose terms are the columns.

    Raises:
        ValueError: the evaluator saw another number of volumes than there are cases.
    """

    def __init__(
        self, path: str | Path, cases: Sequence[Mapping[str, Any]], losses: Sequence[ReconstructionLoss]
    ) -> None:
        rank = idist.get_rank()
        self.path = Path(path) if rank == 0 else Path(path).with_stem(f"{Path(path).stem}_rank{rank}")
        self.cases = cases
        self.losses = losses
        self.rows: list[dict[str, float]] = []

    def attach(self, engine: Engine) -> None:
        """Collect during an evaluation, write at its end."""
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)
        engine.add_event_handler(Events.COMPLETED, self._completed)

    def _started(self, _engine: Engine) -> None:
        """Begin a new table."""
        self.rows = []

    def _iteration_completed(self, engine: Engine) -> None:
        """Terms of every volume of the batch."""
        prediction, target = engine.state.output["pred"], engine.state.output["label"]
        for sample in range(len(target["image"])):
            one = one_sample(prediction, sample), one_sample(target, sample)
            terms = [loss.terms(*one) for loss in self.losses]
            self.rows.append({name: term.item() for group in terms for name, term in group.items()})

    def _completed(self, _engine: Engine) -> None:
        """Write the table."""
        if len(self.rows) != len(self.cases):
            raise ValueError(
                f"{len(self.cases)} cases, but {len(self.rows)} volumes were evaluated. Give the evaluator's own "
                "dataset to `cases`, unshuffled."
            )
        columns = ["patient", "image", *(self.rows[0] if self.rows else ())]
        with written_whole(self.path) as temporary, temporary.open("w", newline="") as file:
            table = csv.DictWriter(file, columns)
            table.writeheader()
            for case, row in zip(self.cases, self.rows, strict=True):
                table.writerow({"patient": case.get("patient", ""), "image": case["image"], **row})
