"""What a training run says while it runs: a bar on a terminal, log lines elsewhere, and how long it will take."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from tqdm import tqdm

from bertswin_ext.handlers.engine_values import check_optimizer, learning_rate, scalar_outputs
from bertswin_ext.handlers.waiting import WaitingTime, percent

__all__ = ["ProgressHandler"]

_ESTIMATE_AFTER = 4  # iterations; the first one is slow (compilation, caches) and is left out
_POSTFIX_SECONDS = 0.5  # reading the loss waits for the device, so the bar does it rarely


def format_duration(seconds: float | None) -> str:
    """Write seconds as ``M:SS`` or ``H:MM:SS``, from two days on in days or years; ``None`` becomes ``?``.

    Example:
        >>> format_duration(18450), format_duration(420000)
        ('5:07:30', '4.9 days')
    """
    if seconds is None:
        return "?"
    days = seconds / 86400
    if days >= 2:
        return f"{days:.1f} days" if days < 730 else f"{days / 365.25:.1f} years"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class ProgressHandler:
    """Show how far a training run is, how fast it goes and when it will end.

    On a terminal there is one bar per epoch; elsewhere (a file, a batch system) a log line every ``log_interval``
    iterations. Both get one line at each end of an epoch. After the first iterations the time per epoch is estimated
    and logged once, so that nobody waits a day to learn that a run takes a year. The line of an epoch also says how
    much of its time went into waiting for data; the first time that this is too much, a warning says what to do. Only
    rank 0 speaks. List it *before* the validation handler, so that the bar of the epoch is closed when validation
    starts.

    Args:
        optimizer: the optimizer whose learning rate is shown.
        name: name of the logger, by default the one of the engine.
        log_interval: iterations between two log lines when there is no terminal.
        hint: advice that is logged as a warning right after the first estimate, for example what to do without a GPU.
        waiting_limit: share of an epoch's time, waiting for data, above which there is a warning; 1 switches it off.

    Raises:
        TypeError: When ``optimizer`` is not an optimizer.
        ValueError: When ``log_interval`` is smaller than 1, or ``waiting_limit`` is no share.

    Example:
        >>> from bertswin_ext.handlers.progress import ProgressHandler
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> ProgressHandler(torch.optim.AdamW([weight]), log_interval=10).attach(Engine(lambda engine, batch: {}))
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        name: str | None = None,
        log_interval: int = 50,
        hint: str | None = None,
        waiting_limit: float = 0.2,
    ) -> None:
        if log_interval < 1:
            raise ValueError(
                f"`log_interval` must be at least 1 iteration, got {log_interval}. Use 1 to log every iteration."
            )
        if not 0 < waiting_limit <= 1:
            raise ValueError(
                f"`waiting_limit` must be a share in (0, 1], got {waiting_limit}. 0.2 warns from 20 % on, 1 never."
            )
        self.optimizer = check_optimizer(optimizer)
        self.log_interval = log_interval
        self.hint = hint
        self.waiting_limit = waiting_limit
        self.logger = logging.getLogger(name)
        self._name = name
        self._pace = _Pace()
        self._waiting = WaitingTime()
        self._estimated = False
        self._warned = False
        self._loss_sum: float | torch.Tensor = 0.0
        self._loss_count = 0
        self._epoch_start = 0.0
        self._bar: Any = None
        self._bar_shown = 0.0

    def attach(self, engine: Engine) -> None:
        """Register the handler with the trainer.

        Args:
            engine: the training engine.
        """
        if self._name is None:
            self.logger = engine.logger
        self._waiting.attach(engine)
        engine.add_event_handler(Events.EPOCH_STARTED, self._epoch_started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)
        engine.add_event_handler(Events.COMPLETED, self._close_bar)

    def _epoch_started(self, engine: Engine) -> None:
        """Start the clock and, on a terminal, the bar of this epoch."""
        if idist.get_rank() != 0:
            return
        self._epoch_start = time.monotonic()
        self._pace.epoch_started(self._epoch_start)
        self._loss_sum, self._loss_count = 0.0, 0
        self._close_bar(engine)
        if sys.stderr.isatty():
            self._bar = _open_bar(engine)

    def _iteration_completed(self, engine: Engine) -> None:
        """Count, estimate once, and show the state on the bar or in the log."""
        if idist.get_rank() != 0:
            return
        loss = scalar_outputs(engine).get("loss")
        if loss is not None:
            self._loss_sum, self._loss_count = self._loss_sum + loss, self._loss_count + 1
        if loss is not None and self._pace.count in (0, _ESTIMATE_AFTER - 1):
            loss.item()  # waits for the device, so that the estimate is not the time of launching kernels
        self._pace.iteration_completed(time.monotonic())
        self._log_estimate(engine)
        if self._bar is not None:
            self._update_bar(engine, loss)
        elif _is_log_line(engine, self.log_interval):
            self.logger.info(self._iteration_line(engine, loss))

    def _epoch_completed(self, engine: Engine) -> None:
        """Close the bar and log the line of the epoch."""
        if idist.get_rank() != 0:
            return
        self._close_bar(engine)
        mean = self._loss_sum / self._loss_count if self._loss_count else None
        self.logger.info(
            f"epoch {_of(engine.state.epoch, engine.state.max_epochs)} completed in "
            f"{format_duration(time.monotonic() - self._epoch_start)}, mean {self._numbers(mean)}, "
            f"{self._waiting_text()}run ends in {format_duration(self._run_seconds(engine))}"
        )
        self._warn_of_waiting(engine)

    def _waiting_text(self) -> str:
        """Say how much of the epoch went into waiting, where that is known."""
        share = self._waiting.last_epoch
        return "" if share is None else f"waiting for data {percent(share)}, "

    def _warn_of_waiting(self, engine: Engine) -> None:
        """Say once what to do about too much waiting."""
        share = self._waiting.last_epoch
        if self._warned or share is None or share <= self.waiting_limit:
            return
        self._warned = True
        self.logger.warning(
            f"epoch {engine.state.epoch} waited for data for {percent(share)} of its time, more than "
            f"{percent(self.waiting_limit)}, and the device had nothing new to do meanwhile. "
            f"{_waiting_remedy(engine)} Where the time goes: --profile true, docs/how-to/profile.md"
        )

    def _log_estimate(self, engine: Engine) -> None:
        """Log the time per iteration and epoch once, and the hint after it."""
        remaining = _remaining_iterations(engine)
        if self._estimated or (self._pace.count < _ESTIMATE_AFTER and remaining != 0):
            return
        self._estimated = True
        per_iteration, length = self._pace.iteration_seconds, engine.state.epoch_length
        per_epoch = None if length is None else per_iteration * length
        with _paused(self._bar):
            self.logger.info(
                f"first estimate: {per_iteration:.3g} s per iteration, {format_duration(per_epoch)} per epoch, "
                f"{format_duration(self._run_seconds(engine))} to the end of the run, validation not counted"
            )
            if self.hint:
                self.logger.warning(self.hint)

    def _iteration_line(self, engine: Engine, loss: torch.Tensor | None) -> str:
        """Describe where the run is, as in ``epoch 1/10 iteration 50/300 loss 0.1234 ...``."""
        done, length = _position(engine)
        epoch_seconds = None if length is None else (length - done) * self._pace.iteration_seconds
        return (
            f"epoch {_of(engine.state.epoch, engine.state.max_epochs)} iteration {_of(done, length)} "
            f"{self._numbers(loss)}, epoch ends in {format_duration(epoch_seconds)}, "
            f"run ends in {format_duration(self._run_seconds(engine))}"
        )

    def _numbers(self, loss: float | torch.Tensor | None) -> str:
        """Write loss, learning rate and speed; reading the loss waits for the device."""
        text = "?" if loss is None else f"{float(loss):.4f}"
        return f"loss {text} lr {learning_rate(self.optimizer):.1e} {_speed(self._pace.iteration_seconds)}"

    def _run_seconds(self, engine: Engine) -> float | None:
        """Estimate the seconds to the end of the run, with the pauses for validation once one was seen."""
        remaining = _remaining_iterations(engine)
        if remaining is None:
            return None
        pauses = max(engine.state.max_epochs - engine.state.epoch, 0) * self._pace.pause_seconds
        return remaining * self._pace.iteration_seconds + pauses

    def _update_bar(self, engine: Engine, loss: torch.Tensor | None) -> None:
        """Move the bar by one iteration and now and then its numbers."""
        self._bar.update(1)
        now = time.monotonic()
        if now - self._bar_shown >= _POSTFIX_SECONDS:
            self._bar_shown = now
            text = "?" if loss is None else f"{float(loss):.4f}"
            ends = format_duration(self._run_seconds(engine))
            rate = f"{learning_rate(self.optimizer):.1e}"
            self._bar.set_postfix_str(f"loss {text} lr {rate}, run ends in {ends}")

    def _close_bar(self, _engine: Engine) -> None:
        """Remove the bar, if there is one."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _Pace:
    """Seconds per iteration and per pause between epochs, as means over the recent ones."""

    def __init__(self) -> None:
        self.count = 0
        self._warm_up = 0.0
        self._last: float | None = None
        self._durations: deque[float] = deque(maxlen=100)
        self._pauses: deque[float] = deque(maxlen=10)

    def epoch_started(self, now: float) -> None:
        """Note the start of an epoch; what lies before it is a pause."""
        if self._last is not None:
            self._pauses.append(now - self._last)
        self._last = now

    def iteration_completed(self, now: float) -> None:
        """Note the end of an iteration; the first one is kept apart."""
        duration = now - (now if self._last is None else self._last)
        if self.count == 0:
            self._warm_up = duration
        else:
            self._durations.append(duration)
        self.count, self._last = self.count + 1, now

    @property
    def iteration_seconds(self) -> float:
        """Mean seconds of an iteration, data loading included."""
        return sum(self._durations) / len(self._durations) if self._durations else self._warm_up

    @property
    def pause_seconds(self) -> float:
        """Mean seconds between the last iteration of an epoch and the next epoch; 0 before the first pause."""
        return sum(self._pauses) / len(self._pauses) if self._pauses else 0.0


@contextmanager
def _paused(bar: Any) -> Iterator[None]:
    """Take the bar off the screen while something else is written."""
    if bar is not None:
        bar.clear()
    yield
    if bar is not None:
        bar.refresh()


def _open_bar(engine: Engine) -> Any:
    """Start the bar of an epoch where the epoch stands: not at 0 after a resume in mid-epoch."""
    length = engine.state.epoch_length
    return tqdm(
        total=length,
        initial=engine.state.iteration % length if length else 0,
        desc=f"epoch {_of(engine.state.epoch, engine.state.max_epochs)}",
        file=sys.stderr,
        leave=False,
        dynamic_ncols=True,
    )


def _position(engine: Engine) -> tuple[int, int | None]:
    """Return the iterations done in this epoch and its length."""
    length = cast("int | None", engine.state.epoch_length)
    iteration = int(engine.state.iteration)
    return (iteration if length is None else (iteration - 1) % length + 1), length


def _waiting_remedy(engine: Engine) -> str:
    """Say how batches come sooner."""
    workers = getattr(engine.state.dataloader, "num_workers", None)
    now = "" if workers is None else f" (now {workers})"
    return (
        f"Let more processes load, `num_workers`{now}, up to the number of cores; keep more volumes in memory, "
        "`cache_rate`; and train on a store that `python -m bertswin_ext prepare` has written."
    )


def _remaining_iterations(engine: Engine) -> int | None:
    """Return the iterations to the end of the run, ``None`` when nobody knows."""
    length, max_epochs = engine.state.epoch_length, engine.state.max_epochs
    return None if length is None or max_epochs is None else max(length * max_epochs - engine.state.iteration, 0)


def _is_log_line(engine: Engine, interval: int) -> bool:
    """Tell whether an iteration is logged; the last one is left to the line of the epoch."""
    done, length = _position(engine)
    return done % interval == 0 and done != length


def _of(number: int, total: int | None) -> str:
    """Write ``3/10``, or ``3`` without a known total."""
    return f"{number}" if total is None else f"{number}/{total}"


def _speed(seconds: float) -> str:
    """Write iterations per second, or seconds per iteration when they are slower than one per second."""
    return f"{seconds:.1f} s/it" if seconds > 1 else f"{1 / max(seconds, 1e-9):.1f} it/s"
