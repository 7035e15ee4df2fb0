"""Validation with a sharded network."""

from __future__ import annotations

from ignite.engine import Engine, Events
from torch import nn

from bertswin_ext.networks.sharding import copy_weights, free_parameters, gather_parameters

__all__ = ["ShardedValidationHandler"]


class ShardedValidationHandler:
    """Gather a sharded network while it is validated, and then copy it to a whole one that can be saved.

    Processes may have different numbers of volumes to validate on, and a sharded network waits for all of them in every
    forward pass. So each gets all parameters, which without gradients and activations takes less than training.
    Attach it to the evaluator; `BestModelHandler`, which is given the whole network, may come before or after.

    Args:
        sharded: what `shard_network` returned, the evaluator's network.
        network: the network that it was made from, where the first process finds the weights after every validation.
        reshard_after_forward: as given to `shard_network`.
    """

    def __init__(self, sharded: nn.Module, network: nn.Module, reshard_after_forward: bool = True) -> None:
        self.sharded = sharded
        self.network = network
        self.reshard_after_forward = reshard_after_forward

    def attach(self, engine: Engine) -> None:
        """Gather before the first batch, and deal out after the last one."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._epoch_started)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)

    def _epoch_started(self, _engine: Engine) -> None:
        """All parameters for every process."""
        gather_parameters(self.sharded)

    def _epoch_completed(self, _engine: Engine) -> None:
        """Each its part, and the whole for the files."""
        free_parameters(self.sharded, self.reshard_after_forward)
        copy_weights(self.sharded, self.network)
