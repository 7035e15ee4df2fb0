"""The best weights so far, and when to stop looking for better ones."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bertswin_ext.files import written_whole
from bertswin_ext.networks.lora import lora_state_dict, merged_state_dict
from bertswin_ext.networks.record import AdaptationRecord, save_network

__all__ = ["BestModelHandler", "PatienceHandler"]

logger = logging.getLogger(__name__)


class BestModelHandler:
    """Save the network's weights whenever the evaluator's key metric is the best so far.

    An engine without a key metric saves whenever it has completed: attached to a trainer, the last weights.

    Args:
        path: file of the weights, a flat state dict; LoRA's adapters are merged into the weights that they adapt.
        network: the network, also inside `DistributedDataParallel`.
        record: what the weights expect of their input; with it the file holds the state dict as ``model``, and
            ``record``.
        adapters_path: file for LoRA's adapters and the decoder alone.
    """

    def __init__(
        self,
        path: str | Path,
        network: nn.Module,
        record: AdaptationRecord | None = None,
        adapters_path: str | Path | None = None,
    ) -> None:
        self.path = Path(path)
        self.network = network.module if isinstance(network, DistributedDataParallel) else network
        self.record = record
        self.adapters_path = adapters_path

    def attach(self, engine: Engine) -> None:
        """Look at the evaluator's metric after every validation."""
        engine.add_event_handler(Events.COMPLETED, self._completed)

    def _completed(self, engine: Engine) -> None:
        """Save if this validation was the best."""
        is_best = engine.state.key_metric_name is None or engine.state.best_metric_epoch == engine.state.epoch
        if not is_best or idist.get_rank() != 0:
            return
        if self.record is not None:
            save_network(self.network, self.path, self.record)
        else:
            _save(merged_state_dict(self.network), self.path)
        if self.adapters_path is not None:
            _save(lora_state_dict(self.network), self.adapters_path)


def _save(weights: Mapping[str, torch.Tensor], path: str | Path) -> None:
    """Write tensors, whole or not at all; a machine without this one's device can read them."""
    with written_whole(path) as temporary:
        torch.save({name: value.cpu() for name, value in weights.items()}, temporary)


class PatienceHandler:
    """End the training when the evaluator's key metric has not improved for some epochs.

    Args:
        evaluator: engine whose best metric is watched.
        patience: epochs without a new best before the training ends.

    Raises:
        ValueError: ``patience`` is not positive.
    """

    def __init__(self, evaluator: Engine, patience: int) -> None:
        if patience < 1:
            raise ValueError(f"`patience` must be at least 1 epoch, got {patience}.")
        self.evaluator = evaluator
        self.patience = patience

    def attach(self, engine: Engine) -> None:
        """Watch at the end of the trainer's epochs, after validation, and when a run is resumed."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._epoch_started)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)

    def _epoch_started(self, engine: Engine) -> None:
        """End a run that had ended already when it was resumed."""
        if self._is_over():
            engine.state.epoch -= 1
            engine.terminate()

    def _epoch_completed(self, engine: Engine) -> None:
        """End the run when its time has come."""
        if self._is_over():
            engine.terminate()

    def _is_over(self) -> bool:
        """Whether the last validation came so many epochs after the best one."""
        best, validated = self.evaluator.state.best_metric_epoch, self.evaluator.state.epoch
        over = 0 < best <= validated - self.patience
        if over:
            logger.info("no improvement since epoch %d, validated in epoch %d: stopping", best, validated)
        return over
