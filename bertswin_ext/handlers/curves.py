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
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from bertswin_ext.files import written_whole
from bertswin_ext.handlers.progress import check_optimizer, learning_rate, scalar_outputs
from bertswin_ext.handlers.run_report import scalar_metrics

__all__ = ["CurvesHandler", "curves_figure"]

Row = dict[str, float]

_COLORS = ("#1f6fb4", "#e07b28", "#3a9d5d", "#b5476a", "#7a5fb0", "#8c6d31", "#4aa5b5", "#6b6b6b")
_LOG_FROM = 3.0  # ratio of the largest to the smallest value from which a logarithmic axis reads better


class CurvesHandler:
    """Collect one row per epoch and write ``metrics.csv`` and ``progress.png`` after each.

    A row holds ``epoch``, ``iteration``, ``train_loss`` (the mean over the epoch), ``train_<term>`` for every entry
    of ``engine.state.output["loss_terms"]``, ``learning_rate`` (of the last iteration), ``seconds`` (of the epoch,
    validation included) and ``val_<metric>`` for every scalar metric of the evaluator. Only rank 0 collects, so in a
    distributed run the training losses are those of its share of the data.

    Give it to the checkpoint as well: its state holds the rows and the sums of the running epoch, so that a run that
    is resumed, even in mid-epoch, writes the same rows as one that was never stopped (but for ``seconds``). List it
    *after* the handlers that validate and that put out loss terms, and *before* the one that saves checkpoints.

    Args:
        output_dir: folder of the two files.
        optimizer: the optimizer whose learning rate is recorded.
        evaluator: the validation engine; without it there are no ``val_`` columns.
        title: title of the picture.

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
    ) -> None:
        self.output_dir = Path(output_dir)
        self.optimizer = check_optimizer(optimizer)
        self.evaluator = evaluator
        self.title = title
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
            if self._running.count and self._running.epoch == epoch - 1:
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
            self._running.add(int(engine.state.iteration), _required_losses(engine))

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
    count: int = 0
    seconds: float = 0.0
    learning_rate: float = 0.0
    sums: dict[str, Any] = field(default_factory=dict)
    validation: Row = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def add(self, iteration: int, losses: Mapping[str, torch.Tensor]) -> None:
        """Add the losses of one iteration in double precision."""
        self.iteration, self.count = iteration, self.count + 1
        for name, loss in losses.items():
            exact = loss if loss.device.type == "mps" else loss.double()  # mps has no double
            self.sums[name] = self.sums.get(name, 0.0) + exact

    def row(self) -> Row:
        """Return the means and everything else of the epoch as one row."""
        state = self.state_dict()
        means = {f"train_{name}": total / self.count for name, total in state["sums"].items()}
        rest = {key: state[key] for key in ("learning_rate", "seconds")}
        return {"epoch": self.epoch, "iteration": self.iteration, **means, **rest, **self.validation}

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers; this is where the device is waited for."""
        return {
            "epoch": self.epoch,
            "iteration": self.iteration,
            "count": self.count,
            "seconds": self.seconds + time.monotonic() - self.started,
            "learning_rate": self.learning_rate,
            "sums": {name: float(total) for name, total in self.sums.items()},
            "validation": dict(self.validation),
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> _RunningEpoch:
        """Rebuild the epoch; its clock starts again."""
        return cls(**{**state, "sums": dict(state["sums"]), "validation": dict(state["validation"])})


def curves_figure(rows: Sequence[Row], title: str = "") -> Figure:
    """Draw the rows of ``CurvesHandler``: losses, loss terms, other validation metrics, learning rate.

    Args:
        rows: one dictionary per epoch; panels without data are left out.
        title: title of the figure.

    Returns:
        A figure with an Agg canvas.

    Raises:
        ValueError: When there is no row.
    """
    if not rows:
        raise ValueError("`rows` must hold at least one epoch, got none. Draw after the first epoch.")
    panels = _panels(_columns(rows))
    per_line = 2 if len(panels) == 4 else min(len(panels), 3)
    lines = -(-len(panels) // per_line)
    figure = Figure(figsize=(4.4 * per_line, 3.0 * lines + 0.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for index, (name, columns) in enumerate(panels.items()):
        _draw_panel(figure.add_subplot(lines, per_line, index + 1), name, columns, rows)
    if title:
        figure.suptitle(title, fontsize=11, fontweight="bold")
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file, whole or not at all."""
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", facecolor=figure.get_facecolor())


def _required_losses(engine: Engine) -> dict[str, torch.Tensor]:
    """Return the losses of the iteration, or say what the engine should have put out."""
    losses = scalar_outputs(engine)
    if not losses:
        raise ValueError(
            f"CurvesHandler needs a mapping with 'loss' as `engine.state.output`, got "
            f"{type(engine.state.output).__name__}. Attach it to a SupervisedTrainer."
        )
    return losses


def _columns(rows: Sequence[Row]) -> list[str]:
    """Return all columns of all rows: counters, training losses, learning rate, seconds, validation."""
    found = list(dict.fromkeys(name for row in rows for name in row))
    groups = ("epoch", "iteration", "train_loss", "train_", "learning_rate", "seconds", "")
    return sorted(found, key=lambda name: next(i for i, group in enumerate(groups) if name.startswith(group)))


def _csv(rows: Sequence[Row]) -> str:
    """Write the rows as a table; cells without a value stay empty."""
    text = io.StringIO()
    table = csv.DictWriter(text, _columns(rows), restval="", lineterminator="\n")
    table.writeheader()
    table.writerows({name: f"{value:.8g}" for name, value in row.items()} for row in rows)
    return text.getvalue()


def _panels(columns: Sequence[str]) -> dict[str, list[str]]:
    """Group the columns into panels; a validation metric named like a loss term shares the panel of the terms."""
    terms = {name.removeprefix("train_") for name in columns if name.startswith("train_")} - {"loss"}
    panels: dict[str, list[str]] = {"loss": [], "loss terms": []}
    for name in columns:
        split, _, base = name.partition("_")
        if split in ("train", "val") and base in terms:
            panels["loss terms"].append(name)
        elif name == "train_loss" or (split == "val" and "loss" in base):
            panels["loss"].append(name)
        elif split == "val":
            panels[name] = [name]
    panels["learning rate"] = ["learning_rate"]
    return {name: members for name, members in panels.items() if members}


def _draw_panel(axes: Axes, name: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Draw some columns over the epochs; in the panel of the terms validation is dashed."""
    bases = list(dict.fromkeys(column.partition("_")[2] if name == "loss terms" else column for column in columns))
    for column in columns:
        base = column.partition("_")[2] if name == "loss terms" else column
        points = [(row["epoch"], row[column]) for row in rows if column in row]
        axes.plot(
            *zip(*points, strict=True),
            label=column.replace("_", " "),
            color=_COLORS[bases.index(base) % len(_COLORS)],
            linestyle="--" if name == "loss terms" and column.startswith("val_") else "-",
            marker="o" if len(points) <= 30 else None,
            markersize=3,
            linewidth=1.5,
        )
    axes.set_xlim(rows[0]["epoch"] - 0.5, rows[-1]["epoch"] + 0.5)
    _dress_panel(axes, name.replace("_", " "), len(columns))
    _scale_panel(axes, name, [row[column] for row in rows for column in columns if column in row])


def _dress_panel(axes: Axes, title: str, lines: int) -> None:
    """Set title, grid, frame and legend."""
    axes.set_title(title, fontsize=10, loc="left", fontweight="bold")
    axes.set_xlabel("epoch", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    axes.tick_params(labelsize=8, color="#888888")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#888888")
    axes.grid(alpha=0.25, linewidth=0.6)
    if lines > 1:
        axes.legend(fontsize=8, frameon=False)


def _scale_panel(axes: Axes, name: str, values: Sequence[float]) -> None:
    """Use a logarithmic axis for losses that are positive and spread, readable numbers everywhere."""
    finite = [value for value in values if math.isfinite(value)]
    if name == "learning rate":
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.1e}" if value else "0"))
    elif name.startswith("loss") and finite and min(finite) > 0 and max(finite) >= _LOG_FROM * min(finite):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
