"""A moving average of the weights, validated and kept in the place of the weights themselves."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn

__all__ = ["AveragedWeightsHandler"]


class AveragedWeightsHandler:
    """Average the weights over the optimizer's steps, and lend the average to the network while it is validated.

    After its t-th step, counted from 0, the average becomes d * average + (1 - d) * weights with
    d = min(decay, (1 + t) / (10 + t)). So it looks back over a ninth of the run so far until that is 1 / (1 - decay)
    steps, which with 0.999 it is after 9000. Training does not notice: it goes on with the weights as they were, to
    the last bit. What looks at the network during a validation sees the average: metrics, pictures, and
    `BestModelHandler`, whose file then holds the average. Buffers are the network's own.

    Attach it to the trainer, after all that look at the network at the end of a validation were attached to the
    evaluator, and give it to `ResumeHandler` as part of the state. The average is a function of the weights alone, so
    processes whose weights are equal have equal averages.

    Args:
        network: the network that is trained and validated, also inside `DistributedDataParallel`.
        evaluator: validates this network; a run that it fails in cannot go on but from a checkpoint.
        decay: share of the average that a step leaves, in [0, 1).

    Raises:
        ValueError: ``decay`` lies elsewhere, or the network is dealt out to several processes.

    Source: Polyak & Juditsky, SIAM J. Control Optim. 30(4), 1992; the growing decay is that of TensorFlow's
    ``ExponentialMovingAverage``. ignite's ``EMAHandler`` counts iterations, which accumulation makes more than steps,
    and has no state to resume from.
    """

    def __init__(self, network: nn.Module, evaluator: Engine, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"`decay` must lie in [0, 1), got {decay}.")
        own = network.module if isinstance(network, DistributedDataParallel) else network
        self.parameters = dict(own.named_parameters())
        if any(isinstance(parameter, DTensor) for parameter in self.parameters.values()):
            raise ValueError(
                "The weights of a network that is dealt out to several processes cannot be averaged. Train it without "
                "sharding, or without the average."
            )
        self.average = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self.evaluator = evaluator
        self.decay = decay
        self.num_steps = 0
        self._is_hooked = False

    def attach(self, engine: Engine) -> None:
        """Hook into the trainer's optimizer and the evaluator."""
        engine.add_event_handler(Events.STARTED, self._started)
        self.evaluator.add_event_handler(Events.STARTED, self._trade_places)
        self.evaluator.add_event_handler(Events.COMPLETED, self._trade_places)

    def state_dict(self) -> dict[str, Any]:
        """Average and number of steps."""
        return {"num_steps": self.num_steps, "average": dict(self.average)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state of a network of the same parameters."""
        average = state_dict["average"]
        found, expected = ({name: tuple(value.shape) for name, value in x.items()} for x in (average, self.average))
        if found != expected:
            differing = sorted(name for name in found | expected if found.get(name) != expected.get(name))
            raise ValueError(f"the average is one of other parameters: {', '.join(differing)}.")
        for name, value in average.items():
            self.average[name].copy_(value)
        self.num_steps = state_dict["num_steps"]

    def _started(self, engine: Any) -> None:
        """Begin with the weights that the trainer begins with, and hook into the optimizer, which it has by now."""
        if self.num_steps == 0:
            for name, parameter in self.parameters.items():
                self.average[name].copy_(parameter.detach())
        if not self._is_hooked:
            self._is_hooked = True
            engine.optimizer.register_step_post_hook(self._after_step)

    def _after_step(self, _optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        """Take the new weights into the average."""
        decay = min(self.decay, (1 + self.num_steps) / (10 + self.num_steps))
        get_ema_multi_avg_fn(decay)(list(self.average.values()), list(self.parameters.values()), self.num_steps)
        self.num_steps += 1

    @torch.no_grad()
    def _trade_places(self, _engine: Engine) -> None:
        """The average into the network and its weights into the average's place, or back."""
        # copied, not exchanged: what holds views of the parameters sees them, too
        for name, parameter in self.parameters.items():
            weights = parameter.clone()
            parameter.copy_(self.average[name])
            self.average[name].copy_(weights)
