"""A machine-readable report of a run: versions, device, configuration, data, times and results."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import platform
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events

from bertswin_ext.files import written_whole
from bertswin_ext.handlers.engine_values import scalar_metrics, scalar_outputs
from bertswin_ext.handlers.progress import format_duration
from bertswin_ext.handlers.waiting import WaitingTime
from bertswin_ext.versions import versions_of

__all__ = ["RunReportHandler"]

# what a continued run takes over from its report; an entry without a value yet is left out
_CARRIED: dict[str, type | tuple[type, ...]] = {
    "status": str,
    "started_utc": str,
    "finished_utc": str,
    "wall_seconds": (int, float),
    "waiting_share": (int, float),
    "last_loss": (int, float),
    "metrics": dict,
    "validation_metrics": dict,
    "best_metric": dict,
}
_LARGEST_ARRAY = 64  # entries; larger arrays are named by their shape, a report is no place for data


def to_json(value: Any) -> Any:
    """Turn any value into what JSON can hold.

    NaN and infinity become ``None``, paths become strings, small tensors and arrays become lists, and everything
    unknown becomes its ``repr`` without memory addresses, so that equal configurations give equal text.

    Example:
        >>> to_json({"lr": float("nan"), "path": Path("a/b"), 3: (1, 2)})
        {'lr': None, 'path': 'a/b', '3': [1, 2]}
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): to_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(entry) for entry in value]
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return _array_to_json(value)
    return value.as_posix() if isinstance(value, Path) else re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def json_sha256(value: Any) -> str:
    """Return the SHA-256 of a value as canonical JSON: sorted keys, no spaces.

    Example:
        >>> json_sha256({"a": 1, "b": 2}) == json_sha256({"b": 2, "a": 1})
        True
    """
    text = json.dumps(to_json(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class RunReportHandler:
    """Write ``path`` when a run starts, after every epoch, and when it is completed or has failed.

    The report holds what is needed to say later what was run: versions, device, configuration with its hash, data
    counts with the hash of the datalist, seeds, times, the share of its epochs in which the run waited for data (of
    this session's, once it has one), last and best metrics, and where the other files are. The status is ``running``,
    ``completed`` or ``failed`` (with the error). It holds no host or user name of its own. When the run is completed
    the handler logs where the files are. Only rank 0 writes.

    A run that is continued keeps what its report said: when it was started, the seconds it has taken so far, and its
    last loss and metrics until there are newer ones. A report that cannot be read is replaced, with a warning.

    List it *before* ``StatsHandler`` and ``CheckpointSaver``: the first handler that raises in ``EXCEPTION_RAISED`` is
    the last one that runs. This handler writes first and re-raises after all others.

    Args:
        path: the file to write, by convention ``run_report.json`` in the output folder.
        config: the configuration; values that JSON cannot hold are written as their ``repr``.
        datalist: ``{"training": [...], "validation": [...], "source": "datalist.json", ...}``: every list is counted,
            the lists are hashed (``sha256`` may be given instead), ``source`` is copied, and so is ``prepared``.
        seeds: the seeds of the run by name, or one seed.
        files: what the run writes, name -> path relative to the folder of ``path``.
        evaluator: the engine whose metrics are the validation metrics.
        name: name of the logger, by default the one of the engine.

    Raises:
        TypeError: When ``config``, ``datalist`` or ``files`` is not a mapping.

    Example:
        >>> from bertswin_ext.handlers.run_report import RunReportHandler
        >>> report = RunReportHandler("out/run_report.json", config={"lr": 1e-4}, seeds=0)
        >>> report.attach(Engine(lambda engine, batch: {}))
    """

    def __init__(
        self,
        path: str | Path,
        config: Mapping[str, Any] | None = None,
        datalist: Mapping[str, Any] | None = None,
        seeds: Mapping[str, int] | int | None = None,
        files: Mapping[str, str | Path] | None = None,
        evaluator: Engine | None = None,
        name: str | None = None,
    ) -> None:
        for argument, value in {"config": config, "datalist": datalist, "files": files}.items():
            _check_mapping(argument, value)
        self.path = Path(path)
        self.files = {key: _relative(value, self.path.parent) for key, value in (files or {}).items()}
        self.evaluator = evaluator
        self.logger = logging.getLogger(name)
        self._name = name
        self._given = {
            "data": None if datalist is None else _describe_datalist(datalist),
            "seeds": to_json(seeds),
            "files": self.files,
            "config_sha256": None if config is None else json_sha256(config),
            "config": to_json(config),
        }
        self._start = time.monotonic()
        self._times: dict[str, Any] = {}
        self._earlier: dict[str, Any] = {}
        self._resumed_at: int | None = None
        self._waiting = WaitingTime()

    def attach(self, engine: Engine) -> None:
        """Register the handler with the engine.

        Args:
            engine: the trainer, or an evaluator that runs alone.
        """
        if self._name is None:
            self.logger = engine.logger
        self._waiting.attach(engine)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._failed)
        engine.add_event_handler(Events.EXCEPTION_RAISED, _reraise)
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.EPOCH_STARTED, self._epoch_started)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write, "running")
        engine.add_event_handler(Events.COMPLETED, self._completed)
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.COMPLETED, self._validated, engine)

    def _started(self, engine: Engine) -> None:
        """Start the clock, write the first report, and move the re-raising behind the handlers of others."""
        engine.remove_event_handler(_reraise, Events.EXCEPTION_RAISED)
        engine.add_event_handler(Events.EXCEPTION_RAISED, _reraise)
        self._start, self._resumed_at = time.monotonic(), None
        self._times = {"started_utc": _utc_now(), "finished_utc": None}
        # a checkpoint may be loaded after this: whether the run is continued is known when an epoch starts
        self._earlier = self._read_earlier() if idist.get_rank() == 0 else {}
        self._write(engine, "running")

    def _epoch_started(self, engine: Engine) -> None:
        """Note where the run began, after a checkpoint was loaded; a new run inherits nothing."""
        if self._resumed_at is None:
            self._resumed_at = int(engine.state.iteration)
            if self._resumed_at == 0:
                self._earlier = {}

    def _validated(self, _evaluator: Engine, trainer: Engine) -> None:
        """Bring the validation metrics into the report."""
        self._write(trainer, "running")

    def _completed(self, engine: Engine) -> None:
        """Write the final report and say where the files are."""
        was_complete = self._resumed_at is None and self._earlier.get("status") == "completed"
        self._times["finished_utc"] = (self._earlier if was_complete else {}).get("finished_utc", _utc_now())
        self._write(engine, "completed")
        if idist.get_rank() != 0:
            return
        folder, took = self.path.parent, format_duration(self._wall_seconds())
        self.logger.info(f"run completed in {took}, its files are in {folder}:")
        for name, file in {**self.files, "run report": self.path.name}.items():
            if (folder / file).exists():
                self.logger.info(f"  {name}: {folder / file}")

    def _failed(self, engine: Engine, error: BaseException) -> None:
        """Write the report with the error; raising it again is left to the last handler."""
        self._times["finished_utc"] = _utc_now()
        self._write(engine, "failed", error)

    def _write(self, engine: Engine, status: str, error: BaseException | None = None) -> None:
        """Write the report."""
        if idist.get_rank() != 0:
            return
        report = {
            "status": status,
            "error": None if error is None else f"{type(error).__name__}: {error}",
            **self._times,
            "started_utc": self._earlier.get("started_utc", self._times.get("started_utc")),
            "wall_seconds": round(self._wall_seconds(), 3),
            **self._describe_progress(engine),
            "versions": versions_of("bertswin_ext", "monai", "torch", "ignite", "numpy"),
            "system": _describe_system(engine),
            **self._given,
        }
        text = json.dumps(to_json(report), indent=2, allow_nan=False, ensure_ascii=False)
        with written_whole(self.path) as temporary:
            temporary.write_text(f"{text}\n", encoding="utf-8")

    def _describe_progress(self, engine: Engine) -> dict[str, Any]:
        """Return where the run is and its numbers."""
        state, loss, waiting = engine.state, scalar_outputs(engine).get("loss"), self._waiting.session
        found = {
            "waiting_share": None if waiting is None else round(waiting, 4),
            "last_loss": None if loss is None else float(loss),
            "metrics": scalar_metrics(engine),
            "validation_metrics": None if self.evaluator is None else scalar_metrics(self.evaluator),
            "best_metric": _describe_best(engine if self.evaluator is None else self.evaluator),
        }
        return {
            "epochs": state.epoch,
            "max_epochs": state.max_epochs,
            "iterations": state.iteration,
            "resumed_at_iteration": state.iteration if self._resumed_at is None else self._resumed_at,
            **{key: self._earlier.get(key, value) if value in (None, {}) else value for key, value in found.items()},
        }

    def _wall_seconds(self) -> float:
        """Return the seconds the run has taken, in this session and in those before it."""
        return float(self._earlier.get("wall_seconds", 0.0)) + time.monotonic() - self._start

    def _read_earlier(self) -> dict[str, Any]:
        """Return what can be carried on from the report of an earlier session, empty when there is none."""
        if not self.path.exists():
            return {}
        try:
            report = json.loads(self.path.read_text(encoding="utf-8"))
            return {key: report[key] for key, kind in _CARRIED.items() if isinstance(report.get(key), kind)}
        except (OSError, ValueError, AttributeError) as error:
            self.logger.warning(
                f"the report {self.path} of the earlier session cannot be read ({type(error).__name__}: {error}): "
                "times and metrics start anew."
            )
            return {}


def _reraise(_engine: Engine, error: BaseException) -> None:
    """Raise the error again: ignite leaves that to the handlers as soon as there is one."""
    raise error


def _check_mapping(argument: str, value: object) -> None:
    """Refuse what is neither a mapping nor ``None``."""
    if value is not None and not isinstance(value, Mapping):
        raise TypeError(f"`{argument}` must be a mapping or None, got {type(value).__name__}. Pass a dictionary.")


def _relative(path: str | Path, folder: Path) -> str:
    """Return a path relative to the folder of the report."""
    return Path(os.path.relpath(path, folder) if Path(path).is_absolute() else path).as_posix()


def _array_to_json(value: Any) -> Any:
    """Return the entries of a small tensor or array, and the shape of a large one."""
    if math.prod(value.shape) > _LARGEST_ARRAY:
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    return to_json(value.item() if math.prod(value.shape) == 1 else value.tolist())


def _describe_datalist(datalist: Mapping[str, Any]) -> dict[str, Any]:
    """Return the number of entries per split, the hash of all splits, and the source."""
    splits = {key: value for key, value in datalist.items() if isinstance(value, list | tuple)}
    counts = {key: len(value) for key, value in splits.items()}
    counts.update({key: value for key, value in datalist.items() if isinstance(value, int)})
    sha256 = datalist.get("sha256", json_sha256(splits) if splits else None)
    described = {"counts": counts, "sha256": sha256, "source": to_json(datalist.get("source"))}
    prepared = datalist.get("prepared")
    return described if prepared is None else {**described, "prepared": to_json(prepared)}


def _describe_best(engine: Engine) -> dict[str, Any] | None:
    """Return the best value of MONAI's key metric, ``None`` before there is one."""
    name, epoch = getattr(engine.state, "key_metric_name", None), getattr(engine.state, "best_metric_epoch", -1)
    return None if name is None or epoch == -1 else {"name": name, "value": engine.state.best_metric, "epoch": epoch}


def _describe_system(engine: Engine) -> dict[str, Any]:
    """Return the platform, the device, and how many processes and threads work."""
    device = torch.device(getattr(engine.state, "device", None) or "cpu")
    on_gpu = device.type == "cuda"
    return {
        "platform": platform.platform(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if on_gpu else platform.machine(),
        "ranks": idist.get_world_size(),
        "threads": torch.get_num_threads(),
    }


def _utc_now() -> str:
    """Return the time as ``2026-01-31T12:00:00Z``."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
