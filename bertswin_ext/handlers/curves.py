"""The curves of a training run as a table (``metrics.csv``) and as one picture (``progress.png``)."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events

from bertswin_ext.files import written_whole
from bertswin_ext.handlers.engine_values import check_optimizer, learning_rate, scalar_metrics, scalar_outputs
from bertswin_ext.handlers.figures import Row, curves_figure, ordered_columns, save_png
from bertswin_ext.optimizers import GradientConductor, StepStatistics

__all__ = ["CurvesHandler"]


class CurvesHandler:
    """Collect one row per epoch and write ``metrics.csv`` and ``progress.png`` after each.

    A row holds ``epoch``, ``iteration``, ``train_loss`` (the mean over the epoch), ``train_<term>`` for every entry
    of ``engine.state.output["loss_terms"]``, ``learning_rate`` (of the last iteration), ``seconds`` (of the epoch,
    validation included), ``conductor/<name>`` for the conductor's statistics (means over the epoch's optimizer
    steps, but the last count of skipped ones), and ``val_<metric>`` for every scalar metric of the evaluator. Only
    rank 0 collects, so in a distributed run the training losses are those of its share of the data.

    Give it to the checkpoint as well: its state holds the rows and the sums of the running epoch, so that a run that
    is resumed, even in mid-epoch, writes the same rows as one that was never stopped (but for ``seconds``). List it
    *after* the handlers that validate and that put out loss terms, and *before* the one that saves checkpoints.

    Args:
        output_dir: folder of the two files.
        optimizer: the optimizer whose learning rate is recorded.
        evaluator: the validation engine; without it there are no ``val_`` columns.
        title: title of the picture.
        conductor: the conductor of the gradients; without it there are no ``conductor/`` columns.

    Raises:
        TypeError: When ``optimizer`` is not an optimizer.

    Example:
        >>> from bertswin_ext.handlers.curves import CurvesHandler
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> curves = CurvesHandler("out", torch.optim.AdamW([weight]))
        >>> curves.attach(Engine(lambda engine, batch: {}))
    """

    def __init__(
        self,
        output_dir: str | Path,
        optimizer: torch.optim.Optimizer,
        evaluator: Engine | None = None,
        title: str = "",
        conductor: GradientConductor | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.optimizer = check_optimizer(optimizer)
        self.evaluator = evaluator
        self.title = title
        self.conductor = conductor
        self._seen: StepStatistics | None = None
        self.rows: list[Row] = []
        self._running = _RunningEpoch()

    def attach(self, engine: Engine) -> None:
        """Register the handler with the trainer.

        Args:
            engine: the training engine.
        """
        engine.add_event_handler(Events.EPOCH_STARTED, self._epoch_started)
        engine.add_event_handler(Events.ITERATION_STARTED, self._iteration_started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.COMPLETED, self._validated, engine)

    def state_dict(self) -> dict[str, Any]:
        """Return the rows and the running epoch as plain Python numbers, strings, lists and dictionaries."""
        return {"rows": [dict(row) for row in self.rows], "running": self._running.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from the state of an earlier run.

        Args:
            state_dict: what ``state_dict`` returned.

        Raises:
            ValueError: When an entry is missing.
        """
        missing = {"rows", "running"} - set(state_dict)
        if missing:
            raise ValueError(
                f"the state of CurvesHandler must have 'rows' and 'running', {sorted(missing)} missing in "
                f"{sorted(state_dict)}. Load the entry that this handler has saved."
            )
        self.rows = [dict(row) for row in state_dict["rows"]]
        self._running = _RunningEpoch.from_state_dict(state_dict["running"])

    def _epoch_started(self, engine: Engine) -> None:
        """Start a new epoch, or go on with the one that was saved half-way."""
        if idist.get_rank() != 0:
            return
        epoch = int(engine.state.epoch)
        if self._running.epoch != epoch:
            if self._running.counts and self._running.epoch == epoch - 1:
                self._close_row()  # the state was saved after the last iteration and before the row was written
            self.rows = [row for row in self.rows if row["epoch"] < epoch]
            self._running = _RunningEpoch(epoch)
        self._running.started = time.monotonic()

    def _iteration_started(self, _engine: Engine) -> None:
        """Note the learning rate that this iteration uses; a scheduler may change it right after."""
        if idist.get_rank() == 0:
            self._running.learning_rate = learning_rate(self.optimizer)

    def _iteration_completed(self, engine: Engine) -> None:
        """Add the losses, without waiting for the device."""
        if idist.get_rank() == 0:
            self._running.iteration = int(engine.state.iteration)
            for name, loss in _required_losses(engine).items():
                # mps has no double
                self._running.add(f"train_{name}", loss if loss.device.type == "mps" else loss.double())
            self._add_step()

    def _add_step(self) -> None:
        """Add the conductor's statistics if it has made a step."""
        step = None if self.conductor is None else self.conductor.last_step
        if step is None or step is self._seen:
            return
        self._seen = step
        for name, value in step.scalars().items():
            add = self._running.keep if name == "skipped_steps" else self._running.add
            add(f"conductor/{name}", value)

    def _validated(self, evaluator: Engine, trainer: Engine) -> None:
        """Keep the metrics of a validation that belongs to the running epoch."""
        if idist.get_rank() != 0:
            return
        found = {f"val_{name.removeprefix('val_')}": value for name, value in scalar_metrics(evaluator).items()}
        if self._running.epoch == trainer.state.epoch:
            self._running.validation = found
        elif self.rows and self.rows[-1]["epoch"] == trainer.state.epoch:  # validated after the row was written
            self.rows[-1] = {**found, **self.rows[-1]}
            self._write()

    def _epoch_completed(self, _engine: Engine) -> None:
        """Write the table and the picture."""
        if idist.get_rank() == 0:
            self._close_row()
            self._write()

    def _write(self) -> None:
        """Write both files."""
        with written_whole(self.output_dir / "metrics.csv") as temporary:
            temporary.write_text(_csv(self.rows), encoding="utf-8")
        save_png(curves_figure(self.rows, self.title), self.output_dir / "progress.png")

    def _close_row(self) -> None:
        """Turn the running epoch into a row."""
        self.rows.append(self._running.row())
        self._running = _RunningEpoch()


@dataclass
class _RunningEpoch:
    """Sums of the epoch that is running; they stay on the device until somebody reads them."""

    epoch: int = 0
    iteration: int = 0
    seconds: float = 0.0
    learning_rate: float = 0.0
    counts: dict[str, Any] = field(default_factory=dict)
    sums: dict[str, Any] = field(default_factory=dict)
    validation: Row = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def add(self, name: str, value: torch.Tensor | float) -> None:
        """Add a value to the mean of a column; one that is not finite, of a step that is skipped, is left out."""
        exact = value if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=torch.float64)
        is_finite = exact.isfinite()
        self.counts[name] = self.counts.get(name, 0) + is_finite
        self.sums[name] = self.sums.get(name, 0.0) + torch.where(is_finite, exact, 0.0)

    def keep(self, name: str, value: float) -> None:
        """Make the newest value the column's."""
        self.counts[name], self.sums[name] = 1, value

    def row(self) -> Row:
        """Return the means and everything else of the epoch as one row."""
        state = self.state_dict()
        means = {
            name: total / state["counts"][name] if state["counts"][name] else math.nan
            for name, total in state["sums"].items()
        }
        rest = {key: state[key] for key in ("learning_rate", "seconds")}
        return {"epoch": self.epoch, "iteration": self.iteration, **means, **rest, **self.validation}

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers; this is where the device is waited for."""
        return {
            "epoch": self.epoch,
            "iteration": self.iteration,
            "seconds": self.seconds + time.monotonic() - self.started,
            "learning_rate": self.learning_rate,
            "counts": {name: int(count) for name, count in self.counts.items()},
            "sums": {name: float(total) for name, total in self.sums.items()},
            "validation": dict(self.validation),
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> _RunningEpoch:
        """Rebuild the epoch; its clock starts again."""
        return cls(**{**state, **{name: dict(state[name]) for name in ("counts", "sums", "validation")}})


def _required_losses(engine: Engine) -> dict[str, torch.Tensor]:
    """Return the losses of the iteration, or say what the engine should have put out."""
    losses = scalar_outputs(engine)
    if not losses:
        raise ValueError(
            f"CurvesHandler needs a mapping with 'loss' as `engine.state.output`, got "
            f"{type(engine.state.output).__name__}. Attach it to a SupervisedTrainer."
        )
    return losses


def _csv(rows: Sequence[Row]) -> str:
    """Write the rows as a table; cells without a value stay empty."""
    text = io.StringIO()
    table = csv.DictWriter(text, ordered_columns(rows), restval="", lineterminator="\n")
    table.writeheader()
    table.writerows({name: f"{value:.8g}" for name, value in row.items()} for row in rows)
    return text.getvalue()
