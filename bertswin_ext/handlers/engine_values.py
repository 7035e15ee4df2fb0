"""What several handlers read from engines and optimizers, and ask of their arguments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine

__all__ = ["check_optimizer", "check_positive", "learning_rate", "scalar_metrics", "scalar_outputs"]


def learning_rate(optimizer: torch.optim.Optimizer) -> float:
    """Return the largest learning rate of the parameter groups."""
    return max(float(group["lr"]) for group in optimizer.param_groups)


def check_optimizer(optimizer: object) -> torch.optim.Optimizer:
    """Return ``optimizer``, or say what it should have been.

    Raises:
        TypeError: When it is not a ``torch.optim.Optimizer``.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"`optimizer` must be a torch.optim.Optimizer, got {type(optimizer).__name__}. "
            "Pass the optimizer of the trainer, in a config: '@optimizer'."
        )
    return optimizer


def check_positive(name: str, value: int) -> None:
    """Refuse what is not a positive integer."""
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer, got {value!r}. Use 1 or more.")


def scalar_outputs(engine: Engine) -> dict[str, torch.Tensor]:
    """Return the loss of the last iteration as ``loss`` and the named loss terms, detached and still on the device.

    A decollated output (a list of dictionaries with equal losses) is read from its first entry. Without a loss the
    result is empty.
    """
    output = engine.state.output
    if isinstance(output, list) and output:
        output = output[0]
    if not isinstance(output, Mapping) or "loss" not in output:
        return {}
    found = {"loss": output["loss"], **(output.get("loss_terms") or {})}
    return {name: torch.as_tensor(value).detach().as_subclass(torch.Tensor) for name, value in found.items()}


def scalar_metrics(engine: Engine) -> dict[str, float]:
    """Return those metrics of an engine that are one number, as floats."""
    values = {key: _item(value) for key, value in engine.state.metrics.items()}
    return {str(key): float(value) for key, value in values.items() if isinstance(value, int | float)}


def _item(value: Any) -> Any:
    """Return the number in a tensor or array with one entry, everything else as it is."""
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return value.item() if math.prod(value.shape) == 1 else value
    return value
