"""A MONAI trainer whose gradients come from a conductor."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from ignite.engine import Events
from monai.data import MetaTensor
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.utils import CommonKeys
from torch.nn.parallel import DistributedDataParallel

from bertswin_ext.optimizers import GradientConductor

__all__ = ["ConductedTrainer"]


class ConductedTrainer(SupervisedTrainer):  # type: ignore[misc]
    """MONAI's supervised trainer for several losses at once, with a `GradientConductor` between them and the optimizer.

    ``loss_function`` returns a mapping of named scalars, one for each loss of the conductor, unweighted; or, where the
    conductor has one loss only, a tensor. One iteration is one micro-batch, as in MONAI: the optimizer steps after
    ``accumulation_steps`` of them and at the end of an epoch, unless a gradient was not finite. Everything else keeps
    its meaning: events, handlers, inferer, post-processing, ``amp`` (on a CPU, too), ``compile`` (which, for several
    backward passes, switches torch's reuse of their buffers off in the whole process). ``optim_set_to_none`` has no
    effect: the conductor owns the gradients.

    Under data parallelism the network is *not* wrapped: the conductor averages the gradients itself.

    Args:
        conductor: conductor of the network's gradients.
        **kwargs: arguments of ``monai.engines.SupervisedTrainer``; ``accumulation_steps`` is the conductor's.

    Shape:
        - ``engine.state.output``: MONAI's ``image``, ``label``, ``pred`` and ``loss``, the weighted sum; and
          ``loss_terms``, the losses by name, where there are several.

    Raises:
        ValueError: ``accumulation_steps`` differs from the conductor's; in stochastic accumulation an epoch does not
            consist of whole steps; the network is wrapped, or not that of the conductor and the optimizer; the losses
            are not those of the conductor.
    """

    def __init__(self, *, conductor: GradientConductor, **kwargs: Any) -> None:
        steps = kwargs.setdefault("accumulation_steps", conductor.accumulation_steps)
        if steps != conductor.accumulation_steps:
            raise ValueError(
                f"`accumulation_steps` must be the conductor's, {conductor.accumulation_steps}, got {steps}. Leave it "
                "out here."
            )
        self.conductor = conductor
        super().__init__(**kwargs)
        if isinstance(self.network, DistributedDataParallel):
            raise ValueError(
                "`network` must not be wrapped in DistributedDataParallel: the conductor averages the gradients "
                "itself. Pass the module inside."
            )
        self._check_parameters()
        if self.compile and conductor.accumulation == "classic" and len(conductor.tasks) > 1:
            # several backward passes through one compiled graph need its buffers
            torch._functorch.config.donated_buffer = False
        self.add_event_handler(Events.STARTED, self._check_epoch)

    def _check_parameters(self) -> None:
        """A conductor or an optimizer of another network would train nothing, and say nothing."""
        own = {id(parameter) for parameter in self.network.parameters()}
        stepped = {id(parameter) for group in self.optimizer.param_groups for parameter in group["params"]}
        conducted = {id(parameter) for parameter in self.conductor.bank.parameters}
        for name, found in (("conductor", conducted), ("optimizer", stepped)):
            if not found <= own:
                raise ValueError(
                    f"`{name}` must be made of the trainer's `network`: {len(found - own)} of its {len(found)} "
                    "parameters are not the network's."
                )

    def _check_epoch(self) -> None:
        """A step that is cut off by the end of an epoch would leave some losses out."""
        length = self.state.epoch_length
        if self.conductor.accumulation == "stochastic" and length and length % self.accumulation_steps:
            raise ValueError(
                "In stochastic accumulation an epoch must consist of whole steps: `epoch_length` must be a multiple of "
                f"`accumulation_steps` {self.accumulation_steps}, got {length}."
            )

    def _iteration(self, engine: Any, batchdata: Any) -> Any:
        """One micro-batch, and the optimizer step if it is the last of its step."""
        if batchdata is None:
            raise ValueError("An iteration needs a batch, got None. Look at the data loader.")
        prepared = engine.prepare_batch(batchdata, engine.state.device, engine.non_blocking, **engine.to_kwargs)
        inputs, targets, args, kwargs = prepared if len(prepared) == 4 else (*prepared, (), {})
        engine.network.train()
        engine.state.output = {CommonKeys.IMAGE: inputs, CommonKeys.LABEL: targets}
        with _autocast(engine):
            # plain tensors: gradients and states must not carry image headers
            prediction = engine.inferer(_plain(inputs), engine.network, *args, **kwargs)
            engine.state.output[CommonKeys.PRED] = _like(inputs, prediction)
            engine.fire_event(IterationEvents.FORWARD_COMPLETED)
            losses = self._named(engine.loss_function(prediction, _plain(targets)))
            terms = {name: loss.detach() for name, loss in losses.items()}
            engine.state.output[CommonKeys.LOSS] = self._weighted_sum(terms)
            engine.fire_event(IterationEvents.LOSS_COMPLETED)
        if engine.scaler is not None:
            losses = {name: engine.scaler.scale(loss) for name, loss in losses.items()}
        is_complete = self.conductor.accumulate(losses)
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        if is_complete or self._ends_epoch():
            self._step(engine)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        if len(terms) > 1:
            # after MONAI's decollation, which takes mappings inside the output apart
            for output in engine.state.output if isinstance(engine.state.output, list) else [engine.state.output]:
                output["loss_terms"] = terms
        return engine.state.output

    def _ends_epoch(self) -> bool:
        """Whether this is an epoch's last iteration."""
        length = self.state.epoch_length
        return bool(length) and self.state.iteration % length == 0

    def _named(self, losses: Any) -> dict[str, torch.Tensor]:
        """The losses by name; a single one needs none."""
        if isinstance(losses, Mapping):
            return dict(losses)
        if len(self.conductor.tasks) > 1:
            raise ValueError(
                f"`loss_function` must return a mapping with {', '.join(self.conductor.tasks)}, the losses of the "
                f"conductor; got {type(losses).__name__}."
            )
        return {self.conductor.tasks[0]: losses.mean()}

    def _weighted_sum(self, terms: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """MONAI's loss."""
        weights = self.conductor.loss_weights
        unknown = sorted(set(terms) - set(weights))
        if unknown:
            raise ValueError(
                f"`loss_function` returned {', '.join(unknown)}, the conductor knows {', '.join(weights)} only. Name "
                "the losses in the conductor's `loss_weights`."
            )
        return torch.stack([weights[name] * term for name, term in terms.items()]).sum()

    def _step(self, engine: Any) -> None:
        """Conduct, and step if there is something to step with."""
        scaler = engine.scaler
        if scaler is None:
            if self.conductor.conduct():
                engine.optimizer.step()
        elif self.conductor.conduct(scaler.get_scale()):
            scaler.step(engine.optimizer)
            scaler.update()
        elif scaler.is_enabled():
            scaler.update(scaler.get_scale() * scaler.get_backoff_factor())


def _signature() -> inspect.Signature:
    """MONAI's arguments and ours, so that a mistyped one is found before the run."""
    own = inspect.Parameter("conductor", inspect.Parameter.KEYWORD_ONLY, annotation=GradientConductor)
    parents = inspect.signature(SupervisedTrainer).parameters.values()
    return inspect.Signature([own, *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parents)])


ConductedTrainer.__signature__ = _signature()


def _autocast(engine: Any) -> AbstractContextManager[Any]:
    """Mixed precision where the trainer asks for it."""
    if not engine.amp:
        return nullcontext()
    return torch.autocast(torch.device(engine.state.device).type, **engine.amp_kwargs)


def _plain(value: Any) -> Any:
    """Tensors without image headers, also inside a mapping."""
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return value.as_tensor() if isinstance(value, MetaTensor) else value


def _like(inputs: Any, prediction: Any) -> Any:
    """A predicted volume with the input's header, where it has one."""
    if isinstance(inputs, MetaTensor) and isinstance(prediction, torch.Tensor):
        return MetaTensor(prediction, meta=inputs.meta, applied_operations=inputs.applied_operations)
    return prediction
