"""What happens at every optimizer step besides the step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from ignite.engine import Engine, Events

__all__ = ["LossTermsHandler", "OptimizerStepHandler"]


class OptimizerStepHandler:
    """Clip the gradients before, and move the learning rate after every optimizer step.

    It hooks into the optimizer, so it keeps its meaning under gradient accumulation and mixed precision. Under bfloat16
    it switches the trainer's loss scaling off: bfloat16 has float32's range and needs none, scaling skips steps whose
    gradients are not finite without a word, and its state is in no checkpoint.

    Args:
        max_norm: largest norm of all gradients together; None leaves them as they are, and does not look at them.
        lr_scheduler: a torch scheduler that counts optimizer steps.

    Raises:
        ValueError: ``max_norm`` is not positive; while training with it, the gradients are not finite.
    """

    def __init__(
        self, max_norm: float | None = None, lr_scheduler: torch.optim.lr_scheduler.LRScheduler | None = None
    ) -> None:
        if max_norm is not None and max_norm <= 0:
            raise ValueError(f"`max_norm` must be positive or None, got {max_norm}.")
        self.max_norm = max_norm
        self.lr_scheduler = lr_scheduler
        self._engine: Any = None
        self._is_hooked = False

    def attach(self, engine: Any) -> None:
        """Hook into the trainer's optimizer."""
        self._engine = engine
        engine.add_event_handler(Events.STARTED, self._started)

    def _started(self, engine: Any) -> None:
        """Register the hooks once the trainer has its optimizer."""
        if getattr(engine, "scaler", None) is not None and engine.amp_kwargs.get("dtype") == torch.bfloat16:
            engine.scaler = torch.amp.GradScaler(enabled=False)
        if self._is_hooked:
            return
        self._is_hooked = True
        engine.optimizer.register_step_pre_hook(self._before_step)
        engine.optimizer.register_step_post_hook(self._after_step)

    def _before_step(self, optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        """Clip, and refuse to step on gradients that are not finite."""
        if self.max_norm is None:
            return
        norm = torch.nn.utils.clip_grad_norm_(_parameters(optimizer), self.max_norm)
        if not torch.isfinite(norm):
            raise ValueError(
                f"The gradients are not finite (norm {norm.item()}) at iteration {self._engine.state.iteration}. Lower "
                "the learning rate, raise the loss' `eps`, or look at this iteration's volumes; the last checkpoint "
                "is from before."
            )

    def _after_step(self, _optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        """One step of the schedule."""
        if self.lr_scheduler is not None:
            self.lr_scheduler.step()


class LossTermsHandler:
    """Put the loss' named terms beside the loss, where curves and TensorBoard find them.

    Args:
        loss: a loss with ``last_terms``.
    """

    def __init__(self, loss: Any) -> None:
        self.loss = loss

    def attach(self, engine: Engine) -> None:
        """Add ``loss_terms`` to the trainer's output."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)

    def _iteration_completed(self, engine: Engine) -> None:
        """Copy the terms of the last forward pass."""
        output = engine.state.output
        # decollated by MONAI: one dictionary per sample, the loss in each of them
        for sample in output if isinstance(output, list) else [output]:
            sample["loss_terms"] = dict(self.loss.last_terms)


def _parameters(optimizer: torch.optim.Optimizer) -> Iterable[torch.Tensor]:
    """All parameters of an optimizer."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
