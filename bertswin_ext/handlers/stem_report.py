"""What stem tuning has reached: the pre-trained network patch by patch, and both stems over whole volumes."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from bertswin_ext.files import written_whole
from bertswin_ext.handlers.run_report import to_json
from bertswin_ext.networks.stem_tuning import StemRoute, StemTuner
from bertswin_ext.networks.weights import load_weights

__all__ = ["StemReportHandler"]

logger = logging.getLogger(__name__)

Measure = Callable[[Mapping[str, torch.Tensor], Mapping[str, torch.Tensor]], torch.Tensor]
Values = dict[str, float]

# name in the report, and the way through the network
_AT_START: dict[str, StemRoute] = {"per_patch": "per_patch", "untuned": "untuned", "before": "tuned"}
_TOLERANCE = 0.01  # brought to the same tokens, a stem comes to the target from either side
_WORDS = {
    "per_patch": "patch by patch, as pre-trained",
    "untuned": "its own stem over the volume, untuned",
    "before": "the new stem before tuning",
    "tuned": "the new stem tuned",
}


class StemReportHandler:
    """Measure stem tuning on the validation volumes, with nothing hidden, and end it when it has reached its target.

    The target is the loss of the pre-trained network patch by patch. It is measured before the first step, together
    with the pre-trained stem over the volume and the new one; when the run is complete the best weights are loaded and
    measured the same way. The table is logged, written to ``path``, and put among the trainer's metrics. In it the
    target counts as reached by a loss at most 1 % above.

    List it *before* `RunReportHandler`, which then reports the metrics.

    Args:
        tuner: the network that is trained.
        evaluator: the validation engine, whose volumes are measured.
        measures: what is measured, by name: losses of the network's output and the target; the first is the one that
            has a target, and the evaluator's metric ``val_mean_<name>`` must be the same.
        model_path: the best weights of ``tuner.tuned``.
        path: the table, a JSON file.
        stop_at_target: end the run after the first validation that reaches the target.

    Raises:
        ValueError: there is nothing to measure, or ``stop_at_target`` is a word; while training, the evaluator lacks
            the metric with the target.
    """

    def __init__(
        self,
        tuner: StemTuner,
        evaluator: Engine,
        measures: Mapping[str, Measure],
        model_path: str | Path,
        path: str | Path,
        stop_at_target: bool = False,
    ) -> None:
        if not measures:
            raise ValueError("`measures` must have at least the loss whose target is to be reached.")
        if not isinstance(stop_at_target, bool):
            raise ValueError(
                f"`stop_at_target` must be True or False, got {stop_at_target!r}. On the command line write False with "
                "a capital."
            )
        self.tuner = tuner
        self.evaluator = evaluator
        self.measures = dict(measures)
        self.model_path = Path(model_path)
        self.path = Path(path)
        self.stop_at_target = stop_at_target
        self.values: dict[str, Values] = {}
        self._is_new = True

    @property
    def target(self) -> float:
        """The loss that the pre-trained network has patch by patch."""
        return self.values["per_patch"][self._first]

    @property
    def _first(self) -> str:
        """Name of the loss with the target."""
        return next(iter(self.measures))

    def attach(self, engine: Engine) -> None:
        """Measure at both ends of the run, and look at every validation."""
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.EPOCH_STARTED, self._epoch_started)
        engine.add_event_handler(Events.COMPLETED, self._completed)
        self.evaluator.add_event_handler(Events.COMPLETED, self._validated, engine)

    def _started(self, engine: Engine) -> None:
        """What there is before the first step, also of a run that is resumed."""
        self.values = {name: self._measured(route) for name, route in _AT_START.items()}
        for name in self.values:
            self._log(name)
        self._report(engine)

    def _epoch_started(self, engine: Engine) -> None:
        """End a run that had ended already when it was resumed."""
        resumed, self._is_new = self._is_new and engine.state.iteration > 0, False
        is_whole = engine.state.iteration % (engine.state.epoch_length or 1) == 0
        if self.stop_at_target and resumed and is_whole and self._ends(self._measured("tuned")[self._first]):
            engine.state.epoch -= 1
            engine.terminate()

    def _validated(self, evaluator: Engine, trainer: Engine) -> None:
        """End the run where it is to end at the target."""
        name = f"val_mean_{self._first}"
        if name not in evaluator.state.metrics:
            raise ValueError(
                f"The evaluator must have the metric `{name}`, found {', '.join(evaluator.state.metrics)}. Add it to "
                "its metrics."
            )
        if self.stop_at_target and self._ends(float(evaluator.state.metrics[name])):
            trainer.terminate()

    def _ends(self, value: float) -> bool:
        """Whether the target is reached."""
        reached = value <= self.target
        if reached:
            logger.info("%s %.4f has reached the target %.4f: stopping", self._first, value, self.target)
        return reached

    def _completed(self, engine: Engine) -> None:
        """The best weights, measured as everything else."""
        load_weights(self.tuner.tuned, self.model_path)
        self.values["tuned"] = self._measured("tuned")
        self._log("tuned")
        self._report(engine)
        reached = "reached" if self._is_reached() else "not reached"
        logger.info("%s of the tuned stem over the volume: target %.4f %s", self._first, self.target, reached)

    @torch.no_grad()
    def _measured(self, route: StemRoute) -> Values:
        """Means over the validation volumes."""
        sums, count = dict.fromkeys(self.measures, 0.0), 0
        self.tuner.eval()
        for batch in self.evaluator.data_loader:
            x, target, _, given = self._prepared(batch)
            with self._autocast():
                output = self.tuner.outputs(x, given.get("valid"), route)
            for name, measure in self.measures.items():
                sums[name] += float(measure(output, target)) * len(x)
            count += len(x)
        return {name: total / max(1, count) for name, total in sums.items()}

    def _prepared(self, batch: Any) -> Any:
        """A batch as the evaluator prepares it."""
        evaluator: Any = self.evaluator
        return evaluator.prepare_batch(batch, evaluator.state.device, evaluator.non_blocking, **evaluator.to_kwargs)

    def _autocast(self) -> torch.autocast:
        """The evaluator's precision: its metrics are compared with ours."""
        evaluator: Any = self.evaluator
        device = torch.device(evaluator.state.device).type
        return torch.autocast(device, enabled=evaluator.amp and device != "cpu", **evaluator.amp_kwargs)

    def _is_reached(self) -> bool:
        """Whether the tuned stem is as good as the pre-trained one patch by patch, within the tolerance."""
        return self.values["tuned"][self._first] <= self.target * (1 + _TOLERANCE)

    def _log(self, name: str) -> None:
        """One line per row of the table."""
        numbers = ", ".join(f"{key} {value:.4f}" for key, value in self.values[name].items())
        logger.info("%s: %s", _WORDS[name], numbers)

    def _report(self, engine: Engine) -> None:
        """The table, and the same among the trainer's metrics."""
        flat = {f"{name}_{key}": value for name, row in self.values.items() for key, value in row.items()}
        engine.state.metrics.update(flat)
        summary = {
            "stem": self.tuner.tuned.stem.kind,
            "objective": self.tuner.objective,
            "target": self.target,
            "reached": self._is_reached() if "tuned" in self.values else None,
            "epochs": engine.state.epoch,
            "best_epoch": getattr(self.evaluator.state, "best_metric_epoch", None),
            "values": self.values,
        }
        with written_whole(self.path) as temporary:
            temporary.write_text(f"{json.dumps(to_json(summary), indent=2)}\n", encoding="utf-8")
